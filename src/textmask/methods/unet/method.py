"""Image in, mask out; the prompt is not read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from textmask.methods.base import ImageOnlyMethod
from textmask.nn.decoders import UNet
from textmask.nn.fields import NormName
from textmask.nn.image_encoders import standardise
from textmask.types import Image, Logits


class UNetMethod(ImageOnlyMethod):
    """Plain U-Net with Dice and cross-entropy."""

    def __init__(self, widths: Sequence[int], stem_stride: int, norm: NormName) -> None:
        super().__init__()
        self.unet = UNet(widths, stem_stride, norm=norm)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature: the prompt is not read."""
        return (self.unet.features(standardise(image)),)

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head: B C H/s W/s and the image B 3 H W -> B 1 H W."""
        logits: Logits = self.unet.head(features[-1], standardise(image))
        return logits
