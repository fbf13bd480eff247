"""Image in, mask out; the prompt is not read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.decoders import UNet
from textmask.nn.fields import NormName
from textmask.nn.image_encoders import standardise
from textmask.types import Batch, Image, Output, Text


class UNetMethod(Method):
    """Plain U-Net with Dice and cross-entropy."""

    def __init__(self, widths: Sequence[int], stem_stride: int, norm: NormName) -> None:
        super().__init__()
        self.unet = UNet(widths, stem_stride, norm=norm)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W -> logits B 1 H W; `text` is ignored."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature: the prompt is not read."""
        return (self.unet.features(standardise(image)),)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """Run the head; None computes the feature first."""
        (feature,) = self.image_features(image) if features is None else features
        return Output(self.unet.head(feature, standardise(image)), {"feature": feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch."""
        if batch.mask is None:
            raise DataError(
                "unet trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        logits = self(batch.image, batch.text).logits
        return {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}
