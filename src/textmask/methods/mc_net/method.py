"""MC-Net: decoders that enlarge their maps differently learn from each other's sharpened predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.methods.two_streams import TwoStreams, joined_streams, supervised
from textmask.types import Batch, Image, Logits, Mask, Text

if TYPE_CHECKING:
    from textmask.methods.mc_net import MCNetRecipe


class MCNet(TwoStreams):
    """A network, whose own decoder predicts, and two further decoders over its maps."""

    def __init__(self, recipe: MCNetRecipe) -> None:
        super().__init__(recipe)
        self.temperature = recipe.temperature
        self.decoders = nn.ModuleList((self.new_decoder("bilinear"), self.new_decoder("nearest")))

    def outputs(self, image: Image, text: Text) -> list[Logits]:
        """Logits of the three decoders, which see the same maps."""
        found = self.net(image, self.features(text))
        return [found.logits, *(decoder(found.maps, image) for decoder in self.decoders)]

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: mutual consistency of the decoders on labelled and unlabelled images."""
        n = len(batch)
        outputs = self.outputs(*joined_streams(batch, unlabelled))
        losses = supervised([logits[:n] for logits in outputs], mask)
        losses["cons"] = mutual_consistency(outputs, self.temperature)
        return losses


def mutual_consistency(outputs: list[Logits], temperature: float) -> Float[Tensor, ""]:
    """L_mc: sum over i != j of the mean squared distance of p_i from the sharpened p_j, which has no gradient.

    Args:
        outputs: logits of each decoder, B 1 H W.
        temperature: T of the sharpening p^(1/T) / (p^(1/T) + (1 - p)^(1/T)), which of a logit is a division by T.

    Source: Wu et al. (2022), the mutual consistency constraint over soft pseudo-labels.
    """
    distances = []
    for i, logits in enumerate(outputs):
        p = torch.sigmoid(logits.float())
        for j, other in enumerate(outputs):
            if i != j:
                label = torch.sigmoid(other.detach().float() / temperature)
                distances.append((p - label).square().mean())
    return torch.stack(distances).sum()
