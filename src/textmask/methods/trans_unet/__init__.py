"""`trans_unet`: TransUNet, image only; a vision transformer between a CNN and a cascaded upsampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from textmask.config import Optim, Recipe, Stage
from textmask.methods.presets import TRANSFORMER_SOURCES, TRANSFORMER_STAGE
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="TransUNet, image only: a vision transformer on the coarsest map of a CNN, skips from the CNN",
    paper="Chen et al., TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation, 2021 (baseline)",
    uses_text=False,
    # C2Seg, Table 1
    published={
        "qata-cov19": {
            "dice_per_image": 78.63,
            "iou_per_image": 69.13,
            "hd95_pooled_px": 29.88,
            "assd_px": 8.42,
        },
        "mosmeddata+": {
            "dice_per_image": 71.24,
            "iou_per_image": 58.44,
            "hd95_pooled_px": 23.41,
            "assd_px": 6.38,
        },
    },
    symbols={
        "E, E_pos": ("GridTransformer.embed, position", "1x1 convolution, 1 C h w"),
        "z_l": ("after block l of GridTransformer", "B N C"),
        "CUP": ("CascadedUpsampler", "B C H/16 W/16 -> B 16 H W"),
    },
    limits="Ignores the prompt: segments every lesion that it finds. Starts from random weights, where the published "
    "network starts from ImageNet-21k, which a vision transformer needs on few images.",
    sources={
        **TRANSFORMER_SOURCES,
        "stem_width": "paper: ResNet-50",
        "stem_units": "paper: ResNet-50 (the first three stages)",
        "width": "paper: ViT-B, 768",
        "depth": "paper: ViT-B, 12",
        "heads": "paper: ViT-B, 12",
        "hidden": "paper: ViT-B, 3072",
        "dropout": "code: 0.1",
        "decoder_widths": "code: 512, then 256, 128, 64, 16",
        "stages.segment.optim.lr": "paper: 0.01",
        "stages.segment.weights.dice": "code: 0.5",
        "stages.segment.weights.bce": "code: 0.5",
    },
    deviations=(
        "no pretrained weights",
        "group norm without weight standardization in the residual units",
        "images are padded to multiples of 16 and position embeddings interpolated for other sizes",
    ),
)


class TransUNetRecipe(Recipe):
    """Fields of `trans_unet`; the defaults are R50-ViT-B/16.

    Attributes:
        stem_width: channels of the first convolution; those of a stage are four times as many, doubled per stage.
        stem_units: residual units per stage, fine to coarse; three stages lead to 1/16 of the image.
        width, depth, heads, hidden, dropout: channels, blocks, heads, units of the MLP and dropout of the transformer.
        decoder_widths: channels after the upsampler's first convolution and after each of its steps.
    """

    needs_text = False

    method: str = "trans_unet"
    stem_width: int = Field(64, ge=1)
    stem_units: tuple[int, ...] = (3, 4, 9)
    width: int = Field(768, ge=1)
    depth: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    hidden: int = Field(3072, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    decoder_widths: tuple[int, ...] = (512, 256, 128, 64, 16)
    stages: tuple[Stage, ...] = (
        TRANSFORMER_STAGE.model_copy(
            update={
                "optim": Optim(name="sgd", lr=1e-2, weight_decay=1e-4),
                "weights": {"dice": 0.5, "bce": 0.5},
            }
        ),
    )

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if len(self.decoder_widths) != len(self.stem_units) + 2:
            raise ValueError(
                f"decoder_widths has {len(self.decoder_widths)} numbers; with {len(self.stem_units)} stages of the "
                f"stem it needs {len(self.stem_units) + 2}: one for the first convolution, one per doubling of the map"
            )
        return self

    def lite(self) -> Self:
        """1.6 M parameters: one unit per stage, four blocks of width 128."""
        small = {"stem_width": 16, "stem_units": (1, 1, 1), "width": 128, "depth": 4, "heads": 4}
        wide = {"hidden": 512, "dropout": 0.0, "decoder_widths": (128, 96, 64, 32, 8)}
        stages = (self.stages[0].lite(epochs=8, optim=Optim(lr=1e-3)),)
        return self.model_copy(update={**small, **wide, "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        small = {"stem_width": 4, "stem_units": (1, 1), "width": 8, "depth": 2, "heads": 2}
        return (
            super().smoke().model_copy(update={**small, "hidden": 16, "decoder_widths": (8,) * 4})
        )


def build_trans_unet(recipe: TransUNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.trans_unet.method import TransUNet

    return TransUNet(recipe)


SPEC = MethodSpec("trans_unet", CARD, TransUNetRecipe, build_trans_unet)
