"""Image in, mask out; the prompt is not read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.image_encoders import standardise
from textmask.nn.kan import KANLinear
from textmask.nn.ukan import UKANDecoder, UKANEncoder, build_head
from textmask.types import Batch, Image, Output, Text

if TYPE_CHECKING:
    from textmask.methods.ukan import UKANRecipe


class UKAN(Method):
    """U-KAN with Dice and cross-entropy."""

    def __init__(self, recipe: UKANRecipe) -> None:
        super().__init__()
        kan = partial(KANLinear, grid=recipe.kan_grid, order=recipe.kan_order, span=recipe.kan_span)
        self.encoder = UKANEncoder(
            recipe.widths, kan, recipe.kan_stages, recipe.kan_depth, recipe.stem_stride, recipe.norm
        )
        self.decoder = UKANDecoder(recipe.widths, kan, recipe.kan_stages, recipe.norm)
        self.head = build_head(recipe.widths[0], recipe.stem_stride, recipe.norm)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W -> logits B 1 H W; `text` is ignored."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature: the prompt is not read."""
        return (self.decoder(self.encoder(standardise(image))),)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """Run the head; None computes the feature first."""
        (feature,) = self.image_features(image) if features is None else features
        return Output(self.head(feature, image), {"feature": feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch."""
        if batch.mask is None:
            raise DataError(
                "ukan trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        logits = self(batch.image, batch.text).logits
        return {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}
