"""UniMatch: FixMatch with two strong views, and with perturbed features of the weak view."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from textmask.losses.segmentation import confident_bce
from textmask.methods.two_streams import TwoStreams, joined_streams, strong, supervised
from textmask.nn.perturbations import channels_dropped
from textmask.types import Batch, Logits, Mask, Text

if TYPE_CHECKING:
    from textmask.methods.unimatch import UniMatchRecipe


class UniMatch(TwoStreams):
    """One network that teaches itself."""

    terms: ClassVar[tuple[str, ...]] = ("fp", "s1", "s2")

    def __init__(self, recipe: UniMatchRecipe) -> None:
        super().__init__(recipe)
        self.tau, self.feature_drop = recipe.tau, recipe.feature_drop

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`fp`, `s1`, `s2`: cross-entropy of each stream with the confident labels of the weak view."""
        n, m = len(batch), len(unlabelled)
        label = self.guess(unlabelled)

        # labelled images and both strong views in one pass
        image, text = joined_streams(batch, unlabelled)
        image = torch.cat([image, strong(unlabelled, "strong")])
        (logits,) = self.outputs(image, Text.joined(text, unlabelled.text))

        losses = supervised([logits[:n]], mask)
        losses["fp"] = confident_bce(self._perturbed(unlabelled), label, self.tau)
        losses["s1"] = confident_bce(logits[n : n + m], label, self.tau)
        losses["s2"] = confident_bce(logits[n + m :], label, self.tau)
        return losses

    def _perturbed(self, unlabelled: Batch) -> Logits:
        """Logits B 1 H W of the weak view, from maps in which channels are dropped."""
        maps = channels_dropped(self.net.encode(unlabelled.image), self.feature_drop)
        found: Logits = self.net.decode(
            maps, unlabelled.image, self.features(unlabelled.text)
        ).logits
        return found
