"""Mean Teacher: the student agrees with the average of its past weights under other views of unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textmask.methods.two_streams import TwoStreams, joined_streams, supervised
from textmask.nn.teacher import Teacher
from textmask.types import Batch, Mask

if TYPE_CHECKING:
    from textmask.methods.mean_teacher import MeanTeacherRecipe


class MeanTeacher(TwoStreams):
    """Teacher and student; `net` is the student."""

    teacher: Teacher

    def __init__(self, recipe: MeanTeacherRecipe) -> None:
        super().__init__(recipe)
        self.teacher = Teacher(self.net, recipe.ema)

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher, from the first step of the burn-in."""
        self.teacher.follow(self.net)

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: squared distance of the probabilities of student and teacher under two views of the same image."""
        n = len(batch)
        (logits,) = self.outputs(*joined_streams(batch, unlabelled))
        target = self.teacher.probability(unlabelled.image, self.features(unlabelled.text))

        losses = supervised([logits[:n]], mask)
        losses["cons"] = (torch.sigmoid(logits[n:].float()) - target).square().mean()
        return losses
