"""Image in, mask out: CNN, transformer, upsampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from textmask.methods.base import ImageOnlyMethod
from textmask.nn.image_encoders import padded_to, standardise
from textmask.nn.trans_unet import (
    CascadedUpsampler,
    GridTransformer,
    HybridStem,
    grid_of,
)
from textmask.types import Image, Logits

if TYPE_CHECKING:
    from textmask.methods.trans_unet import TransUNetRecipe


class TransUNet(ImageOnlyMethod):
    """TransUNet over the hybrid CNN-transformer encoder."""

    def __init__(self, recipe: TransUNetRecipe) -> None:
        super().__init__()
        self.stem = HybridStem(recipe.stem_width, recipe.stem_units)
        self.stride = 2 ** (1 + len(recipe.stem_units))
        self.transformer = GridTransformer(
            self.stem.channels[-1],
            recipe.width,
            grid_of(recipe.image_size, self.stride),
            recipe.depth,
            recipe.heads,
            recipe.hidden,
            recipe.dropout,
        )
        skips = self.stem.channels[-2::-1]
        self.decoder = CascadedUpsampler(recipe.width, recipe.decoder_widths, skips)
        self.head = nn.Conv2d(recipe.decoder_widths[-1], 1, 3, padding=1)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature, of the padded image: the prompt is not read."""
        *skips, coarsest = self.stem(padded_to(standardise(image), self.stride))
        return (self.decoder(self.transformer(coarsest), skips[::-1]),)

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head, without the padding: B 1 H W."""
        rows, columns = image.shape[-2:]
        logits: Logits = self.head(features[-1])
        return logits[..., :rows, :columns]
