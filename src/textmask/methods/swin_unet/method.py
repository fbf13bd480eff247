"""Image in, mask out: an encoder and a decoder of window attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor, nn

from textmask.methods.base import ImageOnlyMethod
from textmask.nn.image_encoders import padded_to, standardise
from textmask.nn.swin_unet import PatchExpanding, SwinUNetBody
from textmask.types import Image, Logits

if TYPE_CHECKING:
    from textmask.methods.swin_unet import SwinUNetRecipe


class SwinUNet(ImageOnlyMethod):
    """Swin-Unet; the head enlarges the finest map by 4 and maps each pixel to a logit."""

    def __init__(self, recipe: SwinUNetRecipe) -> None:
        super().__init__()
        self.net = SwinUNetBody(recipe.width, recipe.depths, recipe.heads, recipe.window)
        self.expand = PatchExpanding(recipe.width, factor=4)
        self.out = nn.Linear(recipe.width, 1)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The last decoder feature at stride 4, of the padded image: the prompt is not read."""
        return (self.net(padded_to(standardise(image), self.net.multiple)),)

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head, without the padding: B 1 H W."""
        rows, columns = image.shape[-2:]
        pixels = self.expand(rearrange(features[-1], "b c h w -> b h w c"))
        logits: Logits = rearrange(self.out(pixels), "b h w 1 -> b 1 h w")
        return logits[..., :rows, :columns]
