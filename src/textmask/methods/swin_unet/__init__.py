"""`swin_unet`: Swin-Unet, image only; a U-Net of window attention without convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from textmask.config import Optim, Recipe, Stage
from textmask.methods.presets import TRANSFORMER_SOURCES, TRANSFORMER_STAGE
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="Swin-Unet, image only: shifted-window attention in encoder and decoder",
    paper="Cao et al., Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation, ECCV Workshops 2022 "
    "(baseline)",
    uses_text=False,
    # C2Seg, Tables 1 and 2
    published={
        "qata-cov19": {
            "dice_per_image": 78.07,
            "iou_per_image": 68.34,
            "hd95_pooled_px": 31.51,
            "assd_px": 9.20,
        },
        "mosmeddata+": {
            "dice_per_image": 63.29,
            "iou_per_image": 50.19,
            "hd95_pooled_px": 25.31,
            "assd_px": 7.69,
        },
        "cvc-clinicdb": {
            "dice_per_image": 81.19,
            "iou_per_image": 71.64,
            "hd95_pooled_px": 26.38,
            "assd_px": 8.67,
        },
        "kvasir": {
            "dice_per_image": 77.24,
            "iou_per_image": 66.90,
            "hd95_pooled_px": 21.25,
            "assd_px": 8.80,
        },
    },
    symbols={
        "z^l": ("after block l", "B H/s W/s C"),
        "B": ("WindowAttention.bias", "(2 window - 1)^2 heads"),
        "(S)W-MSA": ("WindowAttention, with shift", "B H W C -> B H W C"),
    },
    limits="Ignores the prompt: segments every lesion that it finds. Starts from random weights, where the published "
    "network starts from ImageNet.",
    sources={
        **TRANSFORMER_SOURCES,
        "width": "code: 96 (Swin-T)",
        "depths": "code: 2 per scale",
        "heads": "code: 3, 6, 12, 24 (Swin-T)",
        "window": "code: 7",
        "stages.segment.optim.lr": "code: 0.05",
        "stages.segment.weights.dice": "code: 0.6",
        "stages.segment.weights.bce": "code: 0.4",
    },
    deviations=(
        "no pretrained weights",
        "no stochastic depth",
        "maps that are not a multiple of the window are padded, and padding is never attended to",
    ),
)


class SwinUNetRecipe(Recipe):
    """Fields of `swin_unet`.

    Attributes:
        width: channels of the finest map (a quarter of the image), doubled per scale.
        depths: blocks per scale, fine to coarse; every second one has shifted windows.
        heads: of the attention, per scale, fine to coarse.
        window: rows and columns of a window.
    """

    needs_text = False

    method: str = "swin_unet"
    width: int = Field(96, ge=1)
    depths: tuple[int, ...] = Field((2, 2, 2, 2), min_length=2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = Field(7, ge=2)
    stages: tuple[Stage, ...] = (
        TRANSFORMER_STAGE.model_copy(
            update={
                "optim": Optim(name="sgd", lr=5e-2, weight_decay=1e-4),
                "weights": {"dice": 0.6, "bce": 0.4},
            }
        ),
    )

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        if len(self.heads) != len(self.depths):
            raise ValueError(
                f"heads has {len(self.heads)} numbers and depths {len(self.depths)}; each needs one per scale"
            )
        wrong = [k for level, k in enumerate(self.heads) if k < 1 or self.width * 2**level % k]
        if wrong:
            raise ValueError(
                f"heads is {self.heads}: {wrong} do not divide the channels of their scales, {self.width} at the "
                "finest and twice as many at each coarser one"
            )
        return self

    def lite(self) -> Self:
        """3.0 M parameters: a third of the channels."""
        stages = (self.stages[0].lite(epochs=8, optim=Optim(lr=1e-3)),)
        return self.model_copy(update={"width": 32, "heads": (1, 2, 4, 8), "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        small = {"width": 8, "depths": (2, 2), "heads": (1, 2), "window": 4}
        return super().smoke().model_copy(update=small)


def build_swin_unet(recipe: SwinUNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.swin_unet.method import SwinUNet

    return SwinUNet(recipe)


SPEC = MethodSpec("swin_unet", CARD, SwinUNetRecipe, build_swin_unet)
