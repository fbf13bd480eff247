"""UA-MT: a mean teacher that says nothing about pixels of which it is uncertain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textmask.methods.two_streams import TwoStreams, joined_streams, supervised
from textmask.nn.perturbations import channels_dropped
from textmask.nn.teacher import Teacher
from textmask.processes import counted_mean
from textmask.types import Batch, Mask

if TYPE_CHECKING:
    from textmask.methods.ua_mt import UAMTRecipe

# entropy of a coin, the highest of two classes
HIGHEST = math.log(2)


class UAMT(TwoStreams):
    """Teacher and student; `net` is the student."""

    teacher: Teacher
    semi_steps: Tensor

    def __init__(self, recipe: UAMTRecipe) -> None:
        super().__init__(recipe)
        self.passes, self.dropout = recipe.passes, recipe.dropout
        self.noise, self.ramp_steps = recipe.noise, recipe.ramp_steps
        self.teacher = Teacher(self.net, recipe.ema)
        # the threshold depends on it, also in a training that is resumed
        self.register_buffer("semi_steps", torch.zeros((), dtype=torch.long))
        self._monitors: dict[str, Tensor] = {}

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher, from the first step of the burn-in, and count the steps of `semi`."""
        self.teacher.follow(self.net)
        if stage == "semi":
            self.semi_steps += 1

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: squared distance of probabilities, mean over the pixels that are certain (Eq. 3)."""
        n = len(batch)
        (logits,) = self.outputs(*joined_streams(batch, unlabelled))
        target = self.teacher.probability(unlabelled.image, self.features(unlabelled.text))
        certain = (self.uncertainty(unlabelled) < self.threshold()).float()
        self._monitors = {"certain": certain.mean()}

        losses = supervised([logits[:n]], mask)
        squared = (torch.sigmoid(logits[n:].float()) - target).square()
        losses["cons"] = counted_mean((squared * certain).sum(), certain.sum())
        return losses

    def monitors(self) -> dict[str, Tensor]:
        """Of the last step: share of the unlabelled pixels of which the teacher is certain."""
        return self._monitors

    @torch.no_grad()
    def uncertainty(self, unlabelled: Batch) -> Mask:
        """U (Eq. 2): entropy in nats of the mean of T stochastic predictions of the teacher, B 1 H W."""
        features = self.features(unlabelled.text)
        net: Any = self.teacher.net
        total = torch.zeros((), device=unlabelled.image.device)
        for _ in range(self.passes):
            noise = (torch.randn_like(unlabelled.image) * self.noise).clamp(
                -2 * self.noise, 2 * self.noise
            )
            image = unlabelled.image + noise
            maps = channels_dropped(net.encode(image), self.dropout)
            found = net.decode(maps, image, features).logits
            total = total + torch.sigmoid(found.float())
        mean = total / self.passes
        entropy: Mask = torch.special.entr(mean) + torch.special.entr(1 - mean)
        return entropy

    def threshold(self) -> Tensor:
        """H of this step: 3/4 of the highest uncertainty, rising to all of it by a Gaussian."""
        done = (self.semi_steps / self.ramp_steps).clamp(max=1)
        return HIGHEST * (0.75 + 0.25 * torch.exp(-5 * (1 - done) ** 2))
