"""Image in, mask out; the skips of the U-Net pass attention gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from textmask.methods.attention_unet.model import GatedDecoder
from textmask.methods.base import ImageOnlyMethod
from textmask.nn.decoders import SubPixelHead
from textmask.nn.image_encoders import UNetEncoder, standardise
from textmask.types import Image, Logits

if TYPE_CHECKING:
    from textmask.methods.attention_unet import AttentionUNetRecipe


class AttentionUNet(ImageOnlyMethod):
    """U-Net whose skips are filtered by the coarser decoded map."""

    def __init__(self, recipe: AttentionUNetRecipe) -> None:
        super().__init__()
        self.encoder = UNetEncoder(recipe.widths, recipe.stem_stride, norm=recipe.norm)
        self.decoder = GatedDecoder(recipe.widths, recipe.norm)
        self.head = SubPixelHead(recipe.widths[0], self.encoder.info.strides[0])

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature: the prompt is not read."""
        return (self.decoder(self.encoder(standardise(image))),)

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head: B C H/s W/s and the image B 3 H W -> B 1 H W."""
        logits: Logits = self.head(features[-1], standardise(image))
        return logits
