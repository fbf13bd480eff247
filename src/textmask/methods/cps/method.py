"""CPS: each of two networks learns from the hard labels of the other one, on labelled and unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from textmask.losses.segmentation import bce, hard_label
from textmask.methods.two_streams import TwoStreams, joined_streams, supervised
from textmask.types import Batch, Image, Logits, Mask, Text

if TYPE_CHECKING:
    from textmask.methods.cps import CPSRecipe


class CPS(TwoStreams):
    """Two networks of one kind with different first weights; `net` predicts."""

    def __init__(self, recipe: CPSRecipe) -> None:
        super().__init__(recipe)
        self.other = self.new_network()

    def outputs(self, image: Image, text: Text) -> list[Logits]:
        """Logits of both networks, which see the same images."""
        features = self.features(text)
        return [self.net(image, features).logits, self.other(image, features).logits]

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: cross pseudo supervision on the labelled and on the unlabelled images."""
        n = len(batch)
        first, second = self.outputs(*joined_streams(batch, unlabelled))
        losses = supervised([first[:n], second[:n]], mask)
        on_labelled = cross_pseudo(first[:n], second[:n])
        losses["cons"] = on_labelled + cross_pseudo(first[n:], second[n:])
        return losses


def cross_pseudo(first: Logits, second: Logits) -> Float[Tensor, ""]:
    """Mean over images and pixels of l(P_1, Y_2) + l(P_2, Y_1), with cross-entropies l and hard labels Y.

    Args:
        first: logits of the first network, B 1 H W.
        second: logits of the second network, B 1 H W.

    Source: CPS, section 3, L_cps^u. Two classes are one logit, whose hard label is whether it is above 0.
    """
    return bce(first, hard_label(second)) + bce(second, hard_label(first))
