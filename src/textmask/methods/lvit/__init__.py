"""`lvit`: language meets vision transformer (Li et al.); a U-Net with a U of transformers that reads the text."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from textmask.config import EMA, Optim, Ramp, Recipe, Schedule, Stage
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import LITE_WIDTHS

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="LViT: a U-Net whose skips pass a U of transformers that starts with the text",
    paper="Li et al., LViT: Language meets Vision Transformer in Medical Image Segmentation, IEEE TMI 2024",
    published={
        "qata-cov19": {"dice_per_image": 83.66, "iou_per_image": 75.11},
        "mosmeddata+": {"dice_per_image": 74.57, "iou_per_image": 61.33},
    },
    symbols={
        "Y_DownCNN": ("maps of UNetEncoder", "B C_i H/s_i W/s_i"),
        "Y_DownViT": ("found", "B C_i H/16 W/16"),
        "PLAM": ("PLAM", "B C H W"),
        "P_t": ("pseudo_label", "B 1 H W in [0, 1]"),
        "L_LV": ("language_vision, term lv", "scalar"),
    },
    limits="Reads only the first `max_tokens` tokens of a prompt, each with weights of its own place in the sentence.",
    sources={
        "image_size": "code: 224",
        "widths": "code: 64 to 512",
        "stem_stride": "code: 1",
        "heads": "code: 8",
        "text_grid": "code: 14 x 14 patches",
        "ema.*": "paper: beta 0.99",
        "stages.segment.optim.name": "code: Adam",
        "stages.segment.optim.lr": "code: 3e-4 for QaTa-COV19, 1e-3 for MoNuSeg",
        "stages.segment.schedule.*": "code: warm restarts of 10 epochs, to 1e-4",
        "stages.segment.weights.dice": "paper: 0.5",
        "stages.segment.weights.bce": "paper: 0.5",
        "stages.segment.weights.lv.to": "paper: 0.1",
        "stages.segment.patience": "code: 50",
    },
    deviations=(
        "the code reads 10 tokens, which cuts most places off; here 32 (`max_tokens`). It reads word vectors of BERT, "
        "here BioBERT's; padding is masked",
        "the code convolves patches in reading order, here in two dimensions; position codes are sinusoidal, and the "
        "text map is resized, so that any image size works",
        "two convolutions at the finest scale (there one); bilinear growing (there nearest); the unused layers of the "
        "code do not exist",
        "pseudo-labels: the paper averages predictions of past iterations, here of an average of their weights, "
        "because each epoch augments an image anew; the code of this part was never released",
        "L_LV takes the most similar prompt among the labelled images of the batch (there of the train set)",
        "images are not turned by 90 degrees or flipped, which makes their prompts false",
    ),
)


class LViTRecipe(Recipe):
    """Fields of `lvit`.

    Attributes:
        text_encoder: frozen.
        widths: channels of the U-Net, fine to coarse; all but the last have transformers.
        stem_stride: stride of the finest map.
        heads: of the attention.
        max_tokens: prompt length in tokens that is read; longer prompts are cut with a warning.
        text_grid: rows and columns of the map that is made of the text.
        ema: of the pseudo-labels; unused as long as no stage has an unlabelled stream.
    """

    method: str = "lvit"
    text_encoder: str = "biobert"
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    stem_stride: int = 1
    heads: int = Field(8, ge=1)
    max_tokens: int = Field(32, ge=3)
    text_grid: int = Field(14, ge=1)
    ema: EMA = EMA(start=0.99, end=0.99)
    stages: tuple[Stage, ...] = (
        Stage(
            name="segment",
            epochs=300,
            batch_size=24,
            optim=Optim(name="adam", lr=3e-4, weight_decay=0.0),
            schedule=Schedule(name="warm_restarts", period_epochs=10, lr_min=1e-4),
            weights={
                "dice": 0.5,
                "bce": 0.5,
                "pseudo": Ramp(to=1.0, start_epoch=5, end_epoch=20),
                "lv": Ramp(to=0.1, start_epoch=5, end_epoch=20),
            },
            patience=50,
        ),
    )

    @model_validator(mode="after")
    def _growing(self) -> Self:
        own = self.widths[:-1]
        if len(own) < 2 or any(b <= a for a, b in pairwise(own)) or any(c % 4 for c in own):
            raise ValueError(
                f"widths is {self.widths}; expected at least three, all but the last growing and multiples of 4"
            )
        return self

    def lite(self) -> Self:
        """CPU preset: MiniLM, the stride-4 U-Net with 7 x 7 patches at 224; QaTa in about half an hour on two cores."""
        weights = {"pseudo": Ramp(to=1.0, end_epoch=8), "lv": Ramp(to=0.1, end_epoch=8)}
        stage = self.stages[0].lite(epochs=12, weights={**self.stages[0].weights, **weights})
        net = {"widths": LITE_WIDTHS, "stem_stride": 4, "text_grid": 7, "text_encoder": "minilm"}
        return self.model_copy(update={**net, "stages": (stage,)})

    def smoke(self) -> Self:
        """Tiny, for tests; with unlabelled images."""
        stage = super().smoke().stages[0]
        weights = {"dice": 0.5, "bce": 0.5, "pseudo": 1.0, "lv": 0.1}
        stage = stage.model_copy(update={"unlabelled_batch_size": 4, "weights": weights})
        net = {"widths": (8, 12, 16), "stem_stride": 2, "heads": 2, "text_grid": 2}
        more = {"text_encoder": "tiny", "stages": (stage,)}
        return super().smoke().model_copy(update={**net, **more})


def build_lvit(recipe: LViTRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.lvit.method import LViT

    return LViT(recipe)


SPEC = MethodSpec("lvit", CARD, LViTRecipe, build_lvit)
