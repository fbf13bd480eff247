"""BiCLIP: prediction and losses (Fig. 1, Eq. 1-8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from textmask.data.transforms import PHOTOMETRIC, photometric, sample_affine, warp
from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.methods.biclip.model import (
    BMF,
    PooledBranch,
    ProjectionHead,
    PseudoImageGenerator,
    TextHead,
    cycle_loss,
    generation_loss,
    iac_loss,
)
from textmask.nn.decoders import UNet
from textmask.nn.image_encoders import standardise
from textmask.nn.pretrained_text import build_text_encoder
from textmask.types import Batch, Embedding, Image, Mask, Output, Text

if TYPE_CHECKING:
    from textmask.methods.biclip import BiCLIPRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class Painting(NamedTuple):
    """The language side of the forward pass."""

    text: Embedding
    refined: Embedding
    pseudo_image: Image


class BiCLIP(Method):
    """Bidirectional and consistent language-image processing."""

    text_encoder: TextEncoder | TextCache

    def __init__(self, recipe: BiCLIPRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.text_encoder = build_text_encoder(
            recipe.text_encoder, standardise=recipe.standardise_text
        )

        # t has one value per cell of the map from which the pseudo image is generated
        width = recipe.text_grid**2
        self.text_head = TextHead(self.text_encoder.width, width)
        self.image_branch: PooledBranch | None = None
        self.bmf: BMF | None = None
        if recipe.fusion == "bmf":
            self.image_branch = PooledBranch(recipe.image_widths, recipe.branch_pool)
            self.bmf = BMF(width, recipe.image_widths[1])
        self.generator = PseudoImageGenerator(recipe.text_grid, recipe.generator_widths)
        self.image_to_text = PooledBranch(recipe.head_widths, recipe.branch_pool, width)

        # image and pseudo image side by side in one network
        self.unet = UNet(recipe.widths, recipe.stem_stride, in_channels=6, norm=recipe.norm)
        self.projection = ProjectionHead(self.unet.decoder.out_channels, recipe.iac_width)

    def paint(self, image: Image, text: Text) -> Painting:
        """Text refined by the image (Eq. 1) and the pseudo image generated from it; without fusion t' is t."""
        projected = refined = self.text_head(self.text_encoder(text).text_embedding)
        if self.bmf is not None and self.image_branch is not None:
            refined = self.bmf(projected, self.image_branch(image))
        return Painting(
            projected, refined, self.generator(refined, (image.shape[-2], image.shape[-1]))
        )

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W, from the weak branch (Eq. 7); no mask needed."""
        painting = self.paint(image, text)
        logits, feature = self.unet(self._concat(image, painting.pseudo_image))
        return Output(logits, {"pseudo_image": painting.pseudo_image, "feature": feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """The four terms of Eq. 8: `seg` (Dice + cross-entropy), `gen`, `iac`, `cycle`."""
        if batch.mask is None:
            raise DataError(
                "biclip trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )

        painting = self.paint(batch.image, batch.text)
        image, pseudo, mask, strong_image = self._views(batch, painting.pseudo_image, batch.mask)
        logits, feature_weak = self.unet(self._concat(image, pseudo))

        # the released code does not train through the strong branch
        with torch.set_grad_enabled(self.recipe.iac_target == "both"):
            feature_strong = self.unet.features(self._concat(strong_image, pseudo))
            projected_strong = self.projection(feature_strong)
        projected_weak = self.projection(feature_weak)

        cycled = self.image_to_text(painting.pseudo_image)
        return {
            "seg": soft_dice(logits, mask) + bce(logits, mask),
            "gen": generation_loss(painting.pseudo_image, batch.image, batch.mask),
            "iac": iac_loss(projected_weak, projected_strong),
            "cycle": cycle_loss(painting.text, cycled, self.recipe.cycle_norm),
        }

    def _views(self, batch: Batch, pseudo: Image, mask: Mask) -> tuple[Image, Image, Mask, Image]:
        """Weak image, pseudo image, mask and strong image in one geometry (Eq. 3-4)."""
        image, recipe = batch.image, self.recipe
        strong = batch.views.get("strong")
        generator = torch.Generator(device="cpu").manual_seed(int(torch.randint(2**31, ())))

        if recipe.warp == "joint":
            seed = int(torch.randint(2**31, (), generator=generator))
            size = (image.shape[-2], image.shape[-1])
            rng = np.random.default_rng(seed)
            matrices = sample_affine(len(batch), recipe.spatial, size, rng)
            joint = warp(torch.cat([image, pseudo.to(image.dtype)], 1), matrices)
            image, pseudo = joint[:, :3], joint[:, 3:]
            mask, strong = warp(mask, matrices, mode="nearest"), None

        if strong is None:
            strong = photometric(image, PHOTOMETRIC[recipe.strong], generator)
        weak = photometric(image, PHOTOMETRIC[recipe.weak], generator)
        return weak, pseudo, mask, strong

    @staticmethod
    def _concat(image: Image, pseudo: Image) -> Tensor:
        """Normalized image and normalized pseudo image, B 6 H W (Eq. 4); N_p has mean 0.5 and deviation 0.25 too."""
        return torch.cat([standardise(image), standardise(pseudo).to(image.dtype)], 1)
