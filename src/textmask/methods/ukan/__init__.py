"""`ukan`: U-KAN, image only; the backbone of C2Seg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from textmask.config import Recipe, Stage
from textmask.methods.presets import BASELINE_STAGE
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import UKAN_LITE_WIDTHS, UKAN_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="U-KAN, image only: convolutions at the fine scales, KAN blocks at the coarse ones",
    paper="Li et al., U-KAN Makes Strong Backbone for Medical Image Segmentation and Generation, AAAI 2025 (baseline)",
    uses_text=False,
    published={"qata-cov19": {"dice_per_image": 79.30, "iou_per_image": 69.85}},  # C2Seg, Table 1
    limits="Ignores the prompt: segments every lesion that it finds.",
    sources={
        "widths": "code: 16, 32, 128, 160, 256",
    },
)


class UKANRecipe(Recipe):
    """Fields of `ukan`.

    Attributes:
        widths: channels per scale, fine to coarse.
        kan_stages: how many of the coarsest scales are KAN.
        kan_depth: KAN blocks per scale of the encoder.
        kan_grid, kan_order, kan_span: intervals, order and range of the splines.
        stem_stride: stride of the finest map; 4 is the CPU preset.
        norm: batch or group norm.
    """

    needs_text = False

    method: str = "ukan"
    widths: tuple[int, ...] = UKAN_WIDTHS
    kan_stages: int = 2
    kan_depth: int = 1
    kan_grid: int = 5
    kan_order: int = 3
    kan_span: tuple[float, float] = (-1.0, 1.0)
    stem_stride: Literal[2, 4] = 2
    norm: NormName = "batch"
    stages: tuple[Stage, ...] = (BASELINE_STAGE,)

    def lite(self) -> Self:
        """Stem at stride 4, wider fine scales; QaTa in under half an hour on two cores."""
        stages = (self.stages[0].lite(epochs=8),)
        return self.model_copy(
            update={"widths": UKAN_LITE_WIDTHS, "stem_stride": 4, "stages": stages}
        )

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"widths": (4, 8, 12), "kan_stages": 1})


def build_ukan(recipe: UKANRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.ukan.method import UKAN

    return UKAN(recipe)


SPEC = MethodSpec("ukan", CARD, UKANRecipe, build_ukan)
