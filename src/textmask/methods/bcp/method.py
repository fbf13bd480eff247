"""BCP: a box of each unlabelled image is pasted into a labelled one, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from textmask.data.loaders import build_text
from textmask.data.patch_mix import union
from textmask.methods.two_streams import TwoStreams, strong
from textmask.nn.teacher import Teacher
from textmask.types import Batch, Logits, Mask, Text, send

if TYPE_CHECKING:
    from textmask.methods.bcp import BCPRecipe
    from textmask.statement import Statement

# no zone is empty: what the box hides of an image is not looked for
EVERYWHERE = np.ones((100, 100), dtype=bool)


class BCP(TwoStreams):
    """Teacher and student; `net` is the student."""

    teacher: Teacher

    def __init__(self, recipe: BCPRecipe) -> None:
        super().__init__(recipe)
        self.beta = recipe.beta
        self.teacher = Teacher(self.net, recipe.ema)

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher, from the first step of the burn-in."""
        self.teacher.follow(self.net)

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`dice`, `bce` on what is labelled of the mixed images, `cons` on what is not (Eq. 6-8).

        Image i of both streams makes two mixed images: X_in has the unlabelled one in its box, X_out the labelled one.
        """
        n = min(len(batch), len(unlabelled))
        truth, image, other = mask[:n], batch.image[:n], strong(unlabelled)[:n]
        guess = self.teacher.probability(unlabelled.image, self.features(unlabelled.text))
        label = (guess[:n] > 0.5).float()

        # Eq. 1 and 2, images and targets alike
        outside = send(self._box(image.shape[2], image.shape[3]), image.device)
        mixed = torch.cat([pasted(image, other, outside), pasted(other, image, outside)])
        target = torch.cat([pasted(truth, label, outside), pasted(label, truth, outside)])
        labelled = torch.cat([outside, 1 - outside]).repeat_interleave(n, dim=0)

        (logits,) = self.outputs(mixed, self._prompts(batch.text, unlabelled.text, n))
        rest = 1 - labelled
        return {
            "dice": region_dice(logits, target, labelled),
            "bce": region_bce(logits, target, labelled),
            "cons": region_dice(logits, target, rest) + region_bce(logits, target, rest),
        }

    def _box(self, rows: int, columns: int) -> Mask:
        """M: 0 in a box of beta rows x beta columns at a random place, 1 outside, 1 1 H W on the CPU."""
        height, width = round(self.beta * rows), round(self.beta * columns)
        top = int(torch.randint(rows - height + 1, ()))
        left = int(torch.randint(columns - width + 1, ()))
        outside = torch.ones(1, 1, rows, columns)
        outside[..., top : top + height, left : left + width] = 0
        return outside

    def _prompts(self, labelled: Text, unlabelled: Text, n: int) -> Text:
        """Of each mixed image: the union of both prompts, or that of the image around the box if there is none."""
        prompts: list[str] = []
        statements: list[Statement] = []
        for text, box in ((labelled, unlabelled), (unlabelled, labelled)):
            for i in range(n):
                a, b = text.statements[i], box.statements[i]
                placed = bool(a.zones | b.zones) and all(s.zones or s.absent for s in (a, b))
                both = union(a, b, EVERYWHERE) if placed and a != b else None
                statement, prompt = both or (a, text.prompts[i])
                prompts.append(prompt)
                statements.append(statement)
        return build_text(prompts, statements).to(labelled.zones.device)


def pasted(around: Tensor, inside: Tensor, outside: Mask) -> Tensor:
    """`around` where `outside` (1 1 H W) is 1, `inside` where it is 0; both B C H W."""
    return torch.where(outside > 0, around, inside.to(around.dtype))


def region_dice(logits: Logits, target: Mask, region: Mask) -> Float[Tensor, ""]:
    """Dice loss of the pixels in which `region` (B 1 H W) is 1, per image, then the mean."""
    p, y, w = torch.sigmoid(logits.float()).flatten(1), target.flatten(1), region.flatten(1)
    overlap = (p * y * w).sum(1)
    each = 1 - (2 * overlap + 1e-5) / ((p * w).sum(1) + (y * w).sum(1) + 1e-5)
    return each.mean()


def region_bce(logits: Logits, target: Mask, region: Mask) -> Float[Tensor, ""]:
    """Cross-entropy of the pixels in which `region` (B 1 H W) is 1: their mean per image, then the mean."""
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), target, reduction="none"
    )
    total = (each * region).flatten(1).sum(1)
    return (total / region.flatten(1).sum(1).clamp(min=1)).mean()
