"""UCMT: two students and a teacher teach each other, also on images whose uncertain blocks were replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from textmask.losses.segmentation import hard_label, soft_dice
from textmask.methods.two_streams import TwoStreams, joined_streams, strong, supervised
from textmask.nn.teacher import Teacher
from textmask.types import Batch, Image, Logits, Mask, Text

if TYPE_CHECKING:
    from textmask.methods.ucmt import UCMTRecipe

# which blocks are overwritten, and by which: numbers in reading order, B top each
Moves = tuple[tuple[Int[Tensor, "b top"], Int[Tensor, "b top"]], ...]


class UCMT(TwoStreams):
    """Collaborative mean teacher: `net` and `other` are the students; the teacher is the average of `net`."""

    teacher: Teacher
    terms: ClassVar[tuple[str, ...]] = ("cps", "mts")

    def __init__(self, recipe: UCMTRecipe) -> None:
        super().__init__(recipe)
        self.side, self.top = recipe.side, recipe.top
        self.other = self.new_network()
        self.teacher = Teacher(self.net, recipe.ema)

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher, from the first step of the burn-in."""
        self.teacher.follow(self.net)

    def outputs(self, image: Image, text: Text) -> list[Logits]:
        """Logits of both students, which see the same images."""
        features = self.features(text)
        return [self.net(image, features).logits, self.other(image, features).logits]

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cps`, `mts`: each student learns from the other one and from the teacher; mean of plain and mixed images."""
        n = len(batch)
        outputs = self.outputs(*joined_streams(batch, unlabelled))
        losses = supervised([logits[:n] for logits in outputs], mask)
        students = [logits[n:] for logits in outputs]
        taught = self.teacher.probability(unlabelled.image, self.features(unlabelled.text))

        # UMIX: image and label with other blocks
        moves = self._moves(students, taught)
        label = (taught > 0.5).float()
        image = with_blocks_moved(strong(unlabelled), moves, self.side)
        mixed_label = with_blocks_moved(label, moves, self.side)
        mixed = self.outputs(image, unlabelled.text)

        losses["cps"] = (co_teaching(students) + co_teaching(mixed)) / 2
        losses["mts"] = (taught_by(students, label) + taught_by(mixed, mixed_label)) / 2
        return losses

    @torch.no_grad()
    def _moves(self, students: list[Logits], taught: Mask) -> Moves:
        """The most uncertain blocks of each student are overwritten by the most certain ones of the other."""
        found = []
        for logits in students:
            mean = (torch.sigmoid(logits.float()) + taught) / 2
            entropy = torch.special.entr(mean) + torch.special.entr(1 - mean)
            found.append(_as_blocks(entropy, self.side).mean(dim=2))
        top = min(self.top, found[0].shape[1])
        first, second = found
        return (
            (first.topk(top).indices, second.topk(top, largest=False).indices),
            (second.topk(top).indices, first.topk(top, largest=False).indices),
        )


def co_teaching(students: list[Logits]) -> Float[Tensor, ""]:
    """L_cps: mean of both students' Dice losses with the hard labels of the other one."""
    first, second = students
    return (soft_dice(first, hard_label(second)) + soft_dice(second, hard_label(first))) / 2


def taught_by(students: list[Logits], label: Mask) -> Float[Tensor, ""]:
    """L_mts: mean of both students' Dice losses with the hard labels of the teacher, B 1 H W."""
    return torch.stack([soft_dice(logits, label) for logits in students]).mean()


def with_blocks_moved(x: Float[Tensor, "b c h w"], moves: Moves, side: int) -> Tensor:
    """Images or labels B C H W in which blocks are overwritten, one pair of `moves` after the other (UMIX).

    Rows and columns that are left over by `side` x `side` blocks stay as they are.
    """
    rows, columns = _block_size(x, side)
    blocks = _as_blocks(x, side)
    for into, source in moves:
        values = blocks.gather(1, source[..., None].expand(-1, -1, blocks.shape[2]))
        blocks = blocks.scatter(1, into[..., None].expand_as(values), values)

    whole = x.shape[2] // rows * rows, x.shape[3] // columns * columns
    out = x.clone()
    out[..., : whole[0], : whole[1]] = rearrange(
        blocks,
        "b (i j) (c p q) -> b c (i p) (j q)",
        i=whole[0] // rows,
        p=rows,
        q=columns,
    )
    return out


def _block_size(x: Tensor, side: int) -> tuple[int, int]:
    return max(x.shape[2] // side, 1), max(x.shape[3] // side, 1)


def _as_blocks(x: Tensor, side: int) -> Tensor:
    """B C H W -> B blocks values, in reading order."""
    rows, columns = _block_size(x, side)
    x = x[..., : x.shape[2] // rows * rows, : x.shape[3] // columns * columns]
    return rearrange(x, "b c (i p) (j q) -> b (i j) (c p q)", p=rows, q=columns)
