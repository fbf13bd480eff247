"""`fixmatch`: confident hard labels of the weak view teach the strong view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from textmask.methods.presets import IN_NO_TABLE, TWO_STREAM_DEVIATIONS, TwoStreamRecipe
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="FixMatch: confident labels of the weak view teach the strong view of a text-guided network",
    paper="Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, NeurIPS 2020 "
    "(baseline)",
    symbols={
        "q_b": ("FixMatch.guess", "B 1 H W"),
        "tau": ("tau", "scalar"),
        "l_u (Eq. 4)": ("loss cons", "scalar"),
        "lambda_u": ("weight cons of stage semi", "scalar"),
    },
    limits="Learns nothing from images whose labels are never confident. Unlabelled images need their prompt.",
    sources={"tau": "paper: 0.95", "stages.semi.weights.cons.to": "paper: 1"},
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "Written for classes of images; here each pixel has a label, and pixels that are not confident count 0.",
        "The label is that of the network in eval mode, without dropout and with running statistics.",
        "As many unlabelled as labelled images in a batch; the paper has 7 times as many.",
        *IN_NO_TABLE,
    ),
)


class FixMatchRecipe(TwoStreamRecipe):
    """Fields of `fixmatch`.

    Attributes:
        tau: confidence from which a pixel has a label.
    """

    method: str = "fixmatch"
    tau: float = Field(0.95, ge=0.5, lt=1)


def build_fixmatch(recipe: FixMatchRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.fixmatch.method import FixMatch

    return FixMatch(recipe)


SPEC = MethodSpec("fixmatch", CARD, FixMatchRecipe, build_fixmatch)
