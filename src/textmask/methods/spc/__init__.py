"""`spc`: mirrored strong views, whose prompts have left and right exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from textmask.config import EMA, Stage
from textmask.methods.presets import TWO_STREAM_DEVIATIONS, TwoStreamRecipe, two_stream_stages
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="SPC: the student sees mirrored images and prompts with left and right exchanged",
    paper="Zang et al., RESMatch: Referring Expression Segmentation in a Semi-Supervised Manner, Information Sciences "
    "694, 2025, as a row of Semi-MedRef's Table 3 (baseline)",
    published={"qata-cov19": {"dice_pooled": 84.64}},  # 1 % of the labels, Semi-MedRef's Table 3
    symbols={
        "y-hat": ("label", "B 1 H W, 0 or 1"),
        "L_unsup": ("loss cons", "scalar"),
        "lambda_u": ("weight cons of stage semi", "scalar"),
    },
    limits="An image is not mirrored if its prompt cannot be. A mirrored chest has its heart on the right.",
    sources={
        "ema.*": "code of Semi-MedRef: the decay",
        "tau": "code of Semi-MedRef: 0.55",
        "stages.semi.weights.cons.to": "code of Semi-MedRef: 0.3",
    },
    deviations=(
        TWO_STREAM_DEVIATIONS[1],
        'Semi-MedRef does not describe the row; it says of RESMatch "swapping left/right words under horizontal flips".'
        " Here all but the mirroring is its baseline: teacher, hard labels above tau, Dice and cross-entropy.",
        "How many images are mirrored is not stated; here half of them.",
        "Augmentation and the ramp of the weight are those of all baselines here, not Semi-MedRef's.",
    ),
)


class SPCRecipe(TwoStreamRecipe):
    """Fields of `spc`.

    Attributes:
        ema: decay of the teacher's average.
        tau: confidence above which the teacher's pixel is lesion.
        flip: probability that the student's view is mirrored.
    """

    method: str = "spc"
    ema: EMA = EMA(start=0.99, end=0.999, ramp_steps=3580)
    tau: float = Field(0.55, gt=0, lt=1)
    flip: float = Field(0.5, ge=0, le=1)
    stages: tuple[Stage, ...] = two_stream_stages(cons=0.3)

    def lite(self) -> Self:
        """As of all baselines, with a decay of 0.99 throughout."""
        return super().lite().model_copy(update={"ema": EMA(start=0.99, end=0.99)})


def build_spc(recipe: SPCRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.spc.method import SPC

    return SPC(recipe)


SPEC = MethodSpec("spc", CARD, SPCRecipe, build_spc)
