"""The method of an ensemble: the mean probability of several trained methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from textmask.methods.base import Method
from textmask.types import Image, Output, Text


class AveragedMethod(Method):
    """Predicts the mean of the probabilities of its members; it is never trained.

    Args:
        members: trained methods that take the same images.
    """

    def __init__(self, members: Sequence[Method]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Image, text: Text) -> Output:
        """Predict: image B 3 H W in [0, 1] and its prompts -> logits B 1 H W of the mean probability."""
        logits = torch.stack([member(image, text).logits.float() for member in self.members])

        # in logarithms: a probability near 0 or 1 is not rounded to it, and equal members give their own logits
        n = math.log(len(self.members))
        yes = torch.logsumexp(logsigmoid(logits), 0) - n
        no = torch.logsumexp(logsigmoid(-logits), 0) - n
        return Output(yes - no)

    def prepare(self, prompts: Sequence[str]) -> None:
        """Let every member encode the prompts."""
        for member in self._methods():
            member.prepare(prompts)

    def too_long(self, prompts: Sequence[str]) -> int:
        """The most prompts that a member cuts."""
        return max(member.too_long(prompts) for member in self._methods())

    def _methods(self) -> list[Method]:
        return [member for member in self.members if isinstance(member, Method)]
