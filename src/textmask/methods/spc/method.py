"""SPC: the student sees strong views that are mirrored at random, with left and right exchanged in the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textmask.data.loaders import build_text
from textmask.data.transforms import apply_prompt
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.two_streams import TwoStreams, strong, supervised
from textmask.nn.teacher import Teacher
from textmask.text.edit import mirror
from textmask.types import Batch, Mask, Text, send

if TYPE_CHECKING:
    from textmask.methods.spc import SPCRecipe


class SPC(TwoStreams):
    """Teacher and student; `net` is the student."""

    teacher: Teacher

    def __init__(self, recipe: SPCRecipe) -> None:
        super().__init__(recipe)
        self.flip, self.tau = recipe.flip, recipe.tau
        self.teacher = Teacher(self.net, recipe.ema)
        self._monitors: dict[str, Tensor] = {}

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher: after the burn-in, which ends with a copy of the student."""
        self.teacher.follow(self.net, decay=0.0 if stage == "burn_in" else None)

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: Dice and cross-entropy of the mirrored strong view with the mirrored label of the weak one."""
        n, other = len(batch), strong(unlabelled)
        taught = self.teacher.probability(unlabelled.image, self.features(unlabelled.text))
        label = (taught >= self.tau).float()

        # an empty label of a prompt that names a place is not confident yet: it would teach "nothing there"
        names_place = unlabelled.text.zones.bool().any(dim=1)
        counted = label.flatten(1).any(dim=1) | ~names_place

        # image, label and prompt are mirrored together
        text, chosen = self._mirrored_prompts(unlabelled.text)
        flipped = send(chosen, other.device)[:, None, None, None]
        other = torch.where(flipped, other.flip(3), other)
        label = torch.where(flipped, label.flip(3), label)
        self._monitors = {"mirrored": flipped.float().mean()}

        image = torch.cat([batch.image, other])
        (logits,) = self.outputs(image, Text.joined(batch.text, text.to(image.device)))
        losses = supervised([logits[:n]], mask)
        losses["cons"] = soft_dice(logits[n:], label, counted) + bce(logits[n:], label, counted)
        return losses

    def monitors(self) -> dict[str, Tensor]:
        """Of the last step: share of the unlabelled images that were mirrored."""
        return self._monitors

    def _mirrored_prompts(self, text: Text) -> tuple[Text, Tensor]:
        """Prompts of the mirrored images, and which are mirrored, B booleans on the CPU.

        An image whose prompt has no mirrored wording stays as it is.
        """
        wanted = (torch.rand(len(text)) < self.flip).tolist()
        prompts, statements, chosen = [], [], []
        for prompt, statement, want in zip(text.prompts, text.statements, wanted, strict=True):
            flipped = want and mirror(prompt) is not None
            found = apply_prompt(prompt, statement, flipped)
            prompts.append(found[0])
            statements.append(found[1])
            chosen.append(flipped)
        return build_text(prompts, statements), torch.tensor(chosen)
