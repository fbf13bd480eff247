"""Image in, mask out, with one head per depth of the nested pathways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from textmask.methods.base import ImageOnlyMethod
from textmask.methods.unet_pp.model import NestedUNet
from textmask.nn.decoders import SubPixelHead
from textmask.nn.image_encoders import standardise
from textmask.types import Image, Logits, Mask

if TYPE_CHECKING:
    from textmask.methods.unet_pp import UNetPPRecipe


class UNetPP(ImageOnlyMethod):
    """U-Net++: the mean over the heads of X^{0,1}, X^{0,2}, ... predicts, or the last one alone."""

    def __init__(self, recipe: UNetPPRecipe) -> None:
        super().__init__()
        self.net = NestedUNet(recipe.widths, recipe.stem_stride, recipe.norm)
        stride, heads = self.net.encoder.info.strides[0], len(recipe.widths) - 1
        self.heads = nn.ModuleList(
            SubPixelHead(recipe.widths[0], stride)
            for _ in range(heads if recipe.deep_supervision else 1)
        )

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The maps that have a head: the prompt is not read."""
        return tuple(self.net(standardise(image))[-len(self.heads) :])

    def branches(self, features: tuple[Tensor, ...], image: Image) -> list[Logits]:
        """The logits of each head, B 1 H W."""
        image = standardise(image)
        return [head(x, image) for head, x in zip(self.heads, features, strict=True)]

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The mean over the heads ("accurate mode")."""
        return torch.stack(self.branches(features, image)).mean(dim=0)

    def supervised(
        self, features: tuple[Tensor, ...], image: Image, mask: Mask
    ) -> list[tuple[float, Logits, Mask]]:
        """Each head alone, with equal weights that add up to 1."""
        branches = self.branches(features, image)
        return [(1 / len(branches), logits, mask) for logits in branches]
