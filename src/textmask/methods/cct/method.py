"""CCT: further decoders read perturbed maps of the shared encoder and must agree with the main decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from textmask.methods.two_streams import TwoStreams, joined_streams, strong, supervised
from textmask.nn.perturbations import perturbed_maps
from textmask.types import Batch, Mask

if TYPE_CHECKING:
    from textmask.methods.cct import CCTRecipe


class CCT(TwoStreams):
    """A network, and a decoder for each perturbation, which learns from unlabelled images alone."""

    def __init__(self, recipe: CCTRecipe) -> None:
        super().__init__(recipe)
        self.perturbations = recipe.perturbations
        self.decoders = nn.ModuleList(self.new_decoder("bilinear") for _ in recipe.perturbations)

    def semi(self, batch: Batch, mask: Mask, unlabelled: Batch) -> dict[str, Tensor]:
        """`cons`: mean over the decoders of the squared distance of their probabilities from the main decoder's."""
        n = len(batch)
        image, text = joined_streams(batch, unlabelled)
        found = self.net(image, self.features(text))
        losses = supervised([found.logits[:n]], mask)

        # the main decoder is the target and learns nothing here
        target = torch.sigmoid(found.logits[n:].float()).detach()
        maps = [x[n:] for x in found.maps]
        distances = []
        for kind, decoder in zip(self.perturbations, self.decoders, strict=True):
            logits = decoder(perturbed_maps(maps, kind, target), strong(unlabelled))
            distances.append((torch.sigmoid(logits.float()) - target).square().mean())
        losses["cons"] = torch.stack(distances).mean()
        return losses
