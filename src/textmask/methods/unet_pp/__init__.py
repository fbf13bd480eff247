"""`unet_pp`: U-Net++, image only; nested dense skip connections and deep supervision."""

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
    title="U-Net++, image only: nested dense skip connections, deep supervision",
    paper="Zhou et al., UNet++: A Nested U-Net Architecture for Medical Image Segmentation, DLMIA 2018 (baseline)",
    uses_text=False,
    # per image and in pixels: C2Seg, Tables 1 and 2; pooled: SSA, Table I
    published={
        "qata-cov19": {
            "dice_per_image": 79.62,
            "iou_per_image": 70.25,
            "hd95_pooled_px": 36.14,
            "assd_px": 9.91,
            "dice_pooled": 83.66,
            "iou_pooled": 71.91,
        },
        "mosmeddata+": {
            "dice_per_image": 71.75,
            "iou_per_image": 58.39,
            "hd95_pooled_px": 24.06,
            "assd_px": 5.45,
            "dice_pooled": 68.20,
            "iou_pooled": 51.75,
        },
        "cvc-clinicdb": {
            "dice_per_image": 88.94,
            "iou_per_image": 82.91,
            "hd95_pooled_px": 12.16,
            "assd_px": 3.99,
        },
        "kvasir": {
            "dice_per_image": 87.00,
            "iou_per_image": 79.71,
            "hd95_pooled_px": 20.87,
            "assd_px": 6.63,
        },
    },
    symbols={
        "X^{i,0}": ("features of UNetEncoder", "B C_i H/s_i W/s_i"),
        "X^{i,j}": ("NestedUNet.nodes", "B C_i H/s_i W/s_i"),
        "X^{0,1} ... X^{0,4}": ("NestedUNet.forward", "B C_0 H/s_0 W/s_0 each"),
    },
    limits="Ignores the prompt: segments every lesion that it finds.",
    sources={
        "widths": "paper: 32 to 512",
        "deep_supervision": "paper: on the four maps of the finest scale",
        "stages.segment.optim.name": "paper: Adam",
        "stages.segment.optim.lr": "paper: 3e-4",
        "stages.segment.weights.bce": "paper: 1/2 (Eq. 2)",
        "stages.segment.weights.dice": "paper: Dice with weight 1 (Eq. 2)",
        "stages.segment.patience": "paper: early stopping; the number of epochs is chosen by us",
    },
    deviations=(
        "batch norm after each convolution",
        "the heads are averaged as logits, not as probabilities; pruning (fast mode) is not offered",
        "trained from image and mask as the other baselines of the tables, which may differ from their training there",
    ),
)


class UNetPPRecipe(Recipe):
    """Fields of `unet_pp`.

    Attributes:
        widths: channels per scale, fine to coarse.
        stem_stride: stride of the finest map; 1 as in the paper, 4 in the CPU preset.
        norm: batch or group norm.
        deep_supervision: a head on each of X^{0,1}, X^{0,2}, ..., whose mean predicts; otherwise one on the last.
    """

    needs_text = False

    method: str = "unet_pp"
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512), min_length=2)
    stem_stride: int = 1
    norm: NormName = "batch"
    deep_supervision: bool = True
    stages: tuple[Stage, ...] = (
        BASELINE_STAGE.model_copy(
            update={
                "optim": Optim(name="adam", lr=3e-4, weight_decay=0.0),
                "weights": {"dice": 1.0, "bce": 0.5},
            }
        ),
    )

    def lite(self) -> Self:
        """2.4 M parameters at stride 4."""
        stages = (self.stages[0].lite(epochs=8),)
        return self.model_copy(update={"widths": LITE_WIDTHS, "stem_stride": 4, "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"widths": (4, 6, 8), "stem_stride": 2})


def build_unet_pp(recipe: UNetPPRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.unet_pp.method import UNetPP

    return UNetPP(recipe)


SPEC = MethodSpec("unet_pp", CARD, UNetPPRecipe, build_unet_pp)
