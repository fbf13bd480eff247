"""`cps`: cross pseudo supervision; two networks teach each other with hard pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textmask.methods.presets import IN_NO_TABLE, TWO_STREAM_DEVIATIONS, TwoStreamRecipe
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="CPS: two text-guided networks teach each other with hard pseudo-labels",
    paper="Chen et al., Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision, CVPR 2021 (baseline)",
    symbols={
        "f(theta_1), f(theta_2)": ("CPS.net, CPS.other", "networks"),
        "Y_1, Y_2": ("hard_label", "B 1 H W, 0 or 1"),
        "L_cps = L_cps^l + L_cps^u": ("loss cons", "scalar"),
        "lambda": ("weight cons of stage semi", "scalar"),
    },
    limits="Twice the network in training; the second one is not used afterwards. Unlabelled images need their prompt.",
    sources={"stages.semi.weights.cons.to": "paper: 1.5 (VOC), 6 (Cityscapes)"},
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "No CutMix, which is an option of the paper.",
        *IN_NO_TABLE,
    ),
)


class CPSRecipe(TwoStreamRecipe):
    """Fields of `cps`: those that all semi-supervised baselines share."""

    networks: ClassVar[tuple[str, ...]] = ("net", "other")

    method: str = "cps"


def build_cps(recipe: CPSRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.cps.method import CPS

    return CPS(recipe)


SPEC = MethodSpec("cps", CARD, CPSRecipe, build_cps)
