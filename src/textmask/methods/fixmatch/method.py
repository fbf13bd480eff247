"""FixMatch: the network labels weak views, and learns its confident labels on strong views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from textmask.losses.segmentation import confident_bce
from textmask.methods.two_streams import TwoStreams, joined_streams, supervised
from textmask.types import Batch, Mask

if TYPE_CHECKING:
    from textmask.methods.fixmatch import FixMatchRecipe


class FixMatch(TwoStreams):
    """One network that teaches itself; there is no average of its weights."""

    def __init__(self, recipe: FixMatchRecipe) -> None:
        super().__init__(recipe)
        self.tau = recipe.tau

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: cross-entropy of the strong view with the confident labels of the weak one (Eq. 4)."""
        n = len(batch)
        label = self.guess(unlabelled)
        (logits,) = self.outputs(*joined_streams(batch, unlabelled))
        losses = supervised([logits[:n]], mask)
        losses["cons"] = confident_bce(logits[n:], label, self.tau)
        return losses
