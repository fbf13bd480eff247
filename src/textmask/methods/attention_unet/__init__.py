"""`attention_unet`: Attention U-Net, image only; additive attention gates on the skips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from textmask.config import Optim, Recipe, Stage
from textmask.methods.presets import BASELINE_STAGE
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import LITE_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="Attention U-Net, image only: the coarser map decides what a skip passes on",
    paper="Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018 (baseline)",
    uses_text=False,
    # SSA, Table I
    published={
        "qata-cov19": {"dice_pooled": 82.13, "iou_pooled": 69.67},
        "mosmeddata+": {"dice_pooled": 67.93, "iou_pooled": 51.44},
    },
    symbols={
        "x^l, g": ("skip and gating signal of AttentionGate", "B C H W, B D H/2 W/2"),
        "W_x, W_g, psi": ("AttentionGate.w_x, w_g, psi", "1x1 convolutions"),
        "alpha": ("in AttentionGate.forward", "B 1 H W in [0, 1]"),
    },
    limits="Ignores the prompt: segments every lesion that it finds.",
    sources={
        "stages.segment.optim.name": "paper: Adam",
    },
    deviations=(
        "in two dimensions, with the widths of the original U-Net; the paper's networks are 3-D",
        "no deep supervision",
        "Dice and cross-entropy; the paper trains with Dice alone",
    ),
)


class AttentionUNetRecipe(Recipe):
    """Fields of `attention_unet`.

    Attributes:
        widths: channels per scale, fine to coarse; at least three, because the finest skip has no gate.
        stem_stride: stride of the finest map; 1 as in the paper, 4 in the CPU preset.
        norm: batch or group norm.
    """

    needs_text = False

    method: str = "attention_unet"
    widths: tuple[int, ...] = Field((64, 128, 256, 512, 1024), min_length=3)
    stem_stride: int = 1
    norm: NormName = "batch"
    stages: tuple[Stage, ...] = (
        BASELINE_STAGE.model_copy(update={"optim": Optim(name="adam", lr=1e-4, weight_decay=0.0)}),
    )

    def lite(self) -> Self:
        """2.0 M parameters at stride 4."""
        stages = (self.stages[0].lite(epochs=8),)
        return self.model_copy(update={"widths": LITE_WIDTHS, "stem_stride": 4, "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"widths": (4, 6, 8), "stem_stride": 2})


def build_attention_unet(recipe: AttentionUNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.attention_unet.method import AttentionUNet

    return AttentionUNet(recipe)


SPEC = MethodSpec("attention_unet", CARD, AttentionUNetRecipe, build_attention_unet)
