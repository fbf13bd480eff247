"""`mean_teacher`: the semi-supervised baseline; consistency with an average of the student's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textmask.config import EMA
from textmask.methods.presets import TwoStreamRecipe
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="Mean Teacher: consistency of a text-guided student with the average of its own weights",
    paper="Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (baseline)",
    published={  # image only, 50 % of the labels, as DuSSS's Table 1 prints it
        "qata-cov19": {"dice_per_image": 79.64, "iou_per_image": 71.88},
        "monuseg": {"dice_per_image": 75.15, "iou_per_image": 59.64},
    },
    limits="Unlabelled images need their prompt. Consistency cannot correct errors that student and teacher share.",
)


class MeanTeacherRecipe(TwoStreamRecipe):
    """Fields of `mean_teacher`.

    Attributes:
        ema: decay of the teacher's average.
    """

    method: str = "mean_teacher"
    ema: EMA = EMA(start=0.99, end=0.99)


def build_mean_teacher(recipe: MeanTeacherRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.mean_teacher.method import MeanTeacher

    return MeanTeacher(recipe)


SPEC = MethodSpec("mean_teacher", CARD, MeanTeacherRecipe, build_mean_teacher)
