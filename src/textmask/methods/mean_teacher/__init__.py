"""`mean_teacher`: the semi-supervised baseline; consistency with an average of the student's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import EMA, Augment, Optim, Ramp, Recipe, Schedule, Stage
from textmask.methods.presets import BURN_IN_STEPS, LITE0_LR
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import LITE_BACKBONE, PAPER_BACKBONE, SMOKE_BACKBONE, BackboneFields

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="Mean Teacher: consistency of a text-guided student with the average of its own weights",
    paper="Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (baseline)",
    limits="Unlabelled images need their prompt. Consistency cannot correct errors that student and teacher share.",
)


class MeanTeacherRecipe(Recipe):
    """Fields of `mean_teacher`.

    Attributes:
        backbone: the network, its image encoder and its fields.
        text_encoder: frozen.
        ema: decay of the teacher's average.
    """

    method: str = "mean_teacher"
    backbone: BackboneFields = PAPER_BACKBONE
    text_encoder: str = "cxr_bert"
    ema: EMA = EMA(start=0.99, end=0.99)
    stages: tuple[Stage, ...] = (
        Stage(
            name="burn_in",
            epochs=5,
            steps_per_epoch=BURN_IN_STEPS,
            batch_size=32,
            optim=Optim(lr=3e-4),
            schedule=Schedule(name="constant"),
            weights={"dice": 1.0, "bce": 1.0},
            select="last",
        ),
        Stage(
            name="semi",
            epochs=95,
            batch_size=32,
            unlabelled_batch_size=32,
            optim=Optim(lr=3e-4),
            schedule=Schedule(name="cosine"),
            views=("strong_blur",),
            weights={"dice": 1.0, "bce": 1.0, "cons": Ramp(to=1.0, end_epoch=40, shape="sigmoid")},
            patience=30,
        ),
    )

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM; an epoch draws 20 batches of 16 + 16; 20 minutes on two cores."""
        burn_in, semi = self.stages
        common = {
            "lr_scale": LITE0_LR,
            "batch_size": 16,
            "steps_per_epoch": 20,
            "augment": Augment(),
        }

        burn_in = burn_in.lite(epochs=5, **common, schedule=Schedule(name="constant"))
        weights = {**semi.weights, "cons": Ramp(to=1.0, end_epoch=8, shape="sigmoid")}
        semi = semi.lite(
            epochs=20, **common, unlabelled_batch_size=16, weights=weights, validate_every=5
        )
        return self.model_copy(
            update={"backbone": LITE_BACKBONE, "text_encoder": "minilm", "stages": (burn_in, semi)}
        )

    def smoke(self) -> Self:
        """Tiny, for tests."""
        burn_in, semi = super().smoke().stages
        semi = semi.model_copy(
            update={"unlabelled_batch_size": 4, "weights": {**semi.weights, "cons": 1.0}}
        )
        net = {"backbone": SMOKE_BACKBONE, "text_encoder": "tiny", "stages": (burn_in, semi)}
        return super().smoke().model_copy(update=net)


def build_mean_teacher(recipe: MeanTeacherRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.mean_teacher.method import MeanTeacher

    return MeanTeacher(recipe)


SPEC = MethodSpec("mean_teacher", CARD, MeanTeacherRecipe, build_mean_teacher)
