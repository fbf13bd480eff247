"""Image in, mask out; the prompt is not read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from textmask.methods.base import ImageOnlyMethod
from textmask.nn.image_encoders import standardise
from textmask.nn.kan import KANLinear
from textmask.nn.ukan import UKANDecoder, UKANEncoder, build_head
from textmask.types import Image, Logits

if TYPE_CHECKING:
    from textmask.methods.ukan import UKANRecipe


class UKAN(ImageOnlyMethod):
    """U-KAN with Dice and cross-entropy."""

    def __init__(self, recipe: UKANRecipe) -> None:
        super().__init__()
        kan = partial(KANLinear, grid=recipe.kan_grid, order=recipe.kan_order, span=recipe.kan_span)
        self.encoder = UKANEncoder(
            recipe.widths, kan, recipe.kan_stages, recipe.kan_depth, recipe.stem_stride, recipe.norm
        )
        self.decoder = UKANDecoder(recipe.widths, kan, recipe.kan_stages, recipe.norm)
        self.head = build_head(recipe.widths[0], recipe.stem_stride, recipe.norm)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature: the prompt is not read."""
        return (self.decoder(self.encoder(standardise(image))),)

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head: B C H/s W/s and the image B 3 H W -> B 1 H W."""
        logits: Logits = self.head(features[-1], image)
        return logits
