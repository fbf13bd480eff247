"""`unet`: the image-only baseline that every result table carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import Recipe, Stage
from textmask.methods.presets import BASELINE_STAGE
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import LITE_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="U-Net, image only",
    paper="Ronneberger et al., U-Net, MICCAI 2015 (baseline)",
    uses_text=False,
    limits="Ignores the prompt: segments every lesion that it finds.",
    sources={
        "widths": "paper: 64 to 1024",
    },
)


class UNetRecipe(Recipe):
    """Fields of `unet`.

    Attributes:
        widths: channels per scale, fine to coarse.
        stem_stride: stride of the finest map; 1 is the original U-Net, 4 the CPU preset.
        norm: batch or group norm.
    """

    needs_text = False

    method: str = "unet"
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    stem_stride: int = 1
    norm: NormName = "batch"
    stages: tuple[Stage, ...] = (BASELINE_STAGE,)

    def lite(self) -> Self:
        """2 M parameters at stride 4; QaTa in a quarter of an hour on two cores."""
        stages = (self.stages[0].lite(epochs=8),)
        return self.model_copy(update={"widths": LITE_WIDTHS, "stem_stride": 4, "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"widths": (8, 12), "stem_stride": 2})


def build_unet(recipe: UNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.unet.method import UNetMethod

    return UNetMethod(recipe.widths, recipe.stem_stride, recipe.norm)


SPEC = MethodSpec("unet", CARD, UNetRecipe, build_unet)
