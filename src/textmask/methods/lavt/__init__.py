"""`lavt`: language-aware vision transformer (Yang et al.); words enter the image encoder after every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from textmask.config import Optim, Recipe, Schedule, Stage
from textmask.methods.presets import ENCODER_LR, LITE0_STEPS
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="LAVT: pixel-word attention behind a language gate after every stage of the image encoder",
    paper="Yang et al., LAVT: Language-Aware Vision Transformer for Referring Image Segmentation, CVPR 2022",
    published={
        # as the C2Seg paper prints it, Tables 1 and 2
        "qata-cov19": {"dice_per_image": 80.48, "iou_per_image": 67.01},
        "mosmeddata+": {"dice_per_image": 68.51, "iou_per_image": 55.32},
        "cvc-clinicdb": {"dice_per_image": 88.13, "iou_per_image": 82.76},
        "kvasir": {"dice_per_image": 90.83, "iou_per_image": 84.90},
    },
    symbols={
        "V_i": ("feature", "B C_i H/s_i W/s_i"),
        "L": ("text_tokens (frozen)", "B T C_t"),
        "F_i": ("PWAM", "B C_i H/s_i W/s_i"),
        "S_i": ("LanguageGate", "B C_i H/s_i W/s_i in [-1, 1]"),
        "Y_1": ("feature of the output", "B C_1 H/4 W/4"),
    },
    limits="The words change the map of every stage, so that each prompt costs most of the image encoder.",
    sources={
        "scales": "paper: 4",
        "stages.segment.epochs": "paper: 40",
        "stages.segment.batch_size": "paper: 32",
        "stages.segment.optim.name": "paper: AdamW",
        "stages.segment.optim.lr": "paper: 5e-5",
        "stages.segment.optim.weight_decay": "paper: 0.01",
        "stages.segment.weights.bce": "paper: cross-entropy alone",
        "stages.segment.weights.dice": "paper: cross-entropy alone",
    },
    deviations=(
        "ConvNeXt-Tiny instead of Swin-B: of the image encoders here the one with the same four scales",
        "the text encoder is frozen, as in the other methods; there BERT is trained",
        "224 x 224 as in the tables of the five papers; there 480 x 480",
        "cosine instead of a polynomial schedule",
        "the decoder hands on the channels of each scale; there 512 at all of them",
        "padding is masked; a map of one place is not divided by its deviation",
    ),
)


class LAVTRecipe(Recipe):
    """Fields of `lavt`.

    Attributes:
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`; ConvNeXt-Tiny needs `weights get`.
        text_encoder: frozen.
        scales: how many of the encoder's coarsest scales meet the words.
    """

    method: str = "lavt"
    image_encoder: str = "convnext_tiny"
    text_encoder: str = "cxr_bert"
    scales: int = Field(4, ge=2)
    stages: tuple[Stage, ...] = (
        Stage(
            name="segment",
            epochs=40,
            batch_size=32,
            optim=Optim(lr=5e-5),
            schedule=Schedule(name="cosine"),
            weights={"dice": 0.0, "bce": 1.0},
            patience=20,
        ),
    )

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM, Dice and cross-entropy; QaTa within an hour on two cores."""
        weights = {"dice": 0.5, "bce": 0.5}
        stage = self.stages[0].lite(
            epochs=8, steps=LITE0_STEPS, lr_scale=ENCODER_LR, weights=weights
        )
        encoders = {"image_encoder": "efficientnet_lite0", "text_encoder": "minilm"}
        return self.model_copy(update={**encoders, "stages": (stage,)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"image_encoder": "tiny", "text_encoder": "tiny"})


def build_lavt(recipe: LAVTRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.lavt.method import LAVT

    return LAVT(recipe)


SPEC = MethodSpec("lavt", CARD, LAVTRecipe, build_lavt)
