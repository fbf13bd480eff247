"""SSA: a text-guided backbone, tokens aligned by transport (DSOT), the mask guided to the named places (CDG)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.methods.ssa.alignment import (
    Aligned,
    Alignment,
    attention_map,
    global_loss,
    local_loss,
)
from textmask.methods.ssa.guidance import (
    Guidance,
    guidance,
    guide_loss,
    guide_monitors,
    refined,
)
from textmask.nn.backbones import build_backbone
from textmask.nn.pretrained_text import build_text_encoder
from textmask.text.grammar import parse
from textmask.types import Batch, Image, Output, Text, TextFeatures

if TYPE_CHECKING:
    from textmask.methods.ssa import SSARecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class SSA(Method):
    """Spatial-aware symmetric alignment over GuideDecoder or MMI-UNet."""

    text_encoder: TextEncoder | TextCache

    def __init__(self, recipe: SSARecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.text_encoder = build_text_encoder(recipe.text_encoder)
        self.net = build_backbone(
            recipe.backbone, self.text_encoder.width, last_answers=recipe.align_scale == 0
        )
        self.alignment = Alignment(
            recipe, self.net.widths[recipe.align_scale], self.net.bidirectional
        )
        self._monitors: dict[str, Tensor] = {}

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W; only the backbone decides them.

        `aux`: `attention` (A_norm), `prior` (M_pri) and `guide` (M_guide), B 1 H W in [0, 1], for people to look at.
        """
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that the backbone computes from the image alone."""
        return self.net.encode(image)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> as `forward`; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        logits, aligned, _ = self._run(maps, image, text)
        found = self._guidance(aligned, image, text)
        aux = {"attention": found.attention, "prior": found.prior, "guide": found.guide}
        return Output(logits, aux)

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice`, `bce`; `global`, `local` of DSOT (Eq. 1-2); `guide` of CDG (Eq. 3-4)."""
        if batch.mask is None:
            raise DataError(
                "ssa trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )

        recipe = self.recipe
        maps = self.image_features(batch.image)
        logits, aligned, features = self._run(maps, batch.image, batch.text)

        # the guide pulls the prediction towards the named places
        found = self._guidance(aligned, batch.image, batch.text)
        target = refined(logits, found.guide, recipe.beta, recipe.refine)
        self._monitors = guide_monitors(logits, target, batch.mask, found, recipe.dead_zone)

        return {
            "dice": soft_dice(logits, batch.mask),
            "bce": bce(logits, batch.mask),
            "global": global_loss(
                aligned, features.text_embedding, recipe.tau, recipe.merge_equal_text
            ),
            "local": local_loss(aligned, recipe),
            "guide": guide_loss(logits, target, found, recipe.dead_zone),
        }

    def monitors(self) -> dict[str, Tensor]:
        """The guide's effect at the last step, see `guide_monitors`."""
        return self._monitors

    def _run(
        self, maps: tuple[Tensor, ...], image: Image, text: Text
    ) -> tuple[Tensor, Aligned, TextFeatures]:
        features = self.text_encoder(text)
        found = self.net.decode(maps, image, features)
        return found.logits, self.alignment(found), features

    def _guidance(self, aligned: Aligned, image: Image, text: Text) -> Guidance:
        """The guide in the frame of the input image, after any augmentation."""
        statements = text.statements or tuple(map(parse, text.prompts))
        size = (image.shape[2], image.shape[3])
        learns = torch.is_grad_enabled() and self.recipe.guide_gradient == "attention"
        with torch.set_grad_enabled(learns):
            attention = attention_map(aligned)
            return guidance(attention, statements, size, self.recipe.frame, self.recipe.box)
