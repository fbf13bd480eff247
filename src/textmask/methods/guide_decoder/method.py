"""GuideDecoder as a method of its own: a text-guided decoder, Dice and cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.guide_decoder import GuideDecoder
from textmask.nn.pretrained_image import build_image_encoder
from textmask.nn.pretrained_text import build_text_encoder
from textmask.types import Batch, Image, Output, Text

if TYPE_CHECKING:
    from textmask.methods.guide_decoder import GuideDecoderRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class GuideDecoderMethod(Method):
    """Image encoder, frozen text encoder, guide blocks in the decoder."""

    text_encoder: TextEncoder | TextCache

    def __init__(self, recipe: GuideDecoderRecipe) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(recipe.text_encoder)
        encoder = build_image_encoder(recipe.image_encoder)
        self.net = GuideDecoder(encoder, self.text_encoder.width, recipe.net)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W; `aux["attention"]`, B 1 H W, when not training."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that the network computes from the image alone."""
        return self.net.encode(image)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> logits; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        found = self.net.decode(maps, image, self.text_encoder(text))
        aux = {"feature": found.feature}
        if found.attention is not None:
            aux["attention"] = found.attention
        return Output(found.logits, aux)

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch."""
        if batch.mask is None:
            raise DataError(
                "guide_decoder trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        logits = self(batch.image, batch.text).logits
        return {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}
