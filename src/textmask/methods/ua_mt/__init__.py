"""`ua_mt`: a mean teacher whose uncertain pixels teach nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from textmask.config import EMA
from textmask.methods.presets import IN_NO_TABLE, TWO_STREAM_DEVIATIONS, TwoStreamRecipe
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="UA-MT: a mean teacher that teaches only where its uncertainty is low",
    paper="Yu et al., Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation, MICCAI "
    "2019 (baseline)",
    symbols={
        "f, f'": ("UAMT.net, UAMT.teacher", "networks"),
        "u (Eq. 2)": ("UAMT.uncertainty", "B 1 H W"),
        "H": ("UAMT.threshold", "scalar"),
        "L_c (Eq. 3)": ("loss cons", "scalar"),
        "T": ("passes", "number"),
    },
    limits="Each step runs the teacher `passes` times more. Unlabelled images need their prompt.",
    sources={
        "passes": "paper: 8",
        "dropout": "paper: 0.5",
        "ema.start": "paper: 0.99",
        "ema.end": "paper: 0.99",
        "stages.semi.weights.cons.to": "paper: 0.1",
    },
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "Random dropout: whole channels of the maps that the teacher computes from the image alone (paper: two dropout "
        "layers of the V-Net).",
        "Noise of the T passes as in the released code, 0.1 of a standard deviation of the image (here 0.25 of the "
        "gray range), at most twice that.",
        "The teacher's target is its prediction of the weak view without noise.",
        "The squared distance is that of the foreground's probability.",
        *IN_NO_TABLE,
    ),
)


class UAMTRecipe(TwoStreamRecipe):
    """Fields of `ua_mt`.

    Attributes:
        ema: decay of the teacher's average.
        passes: T, stochastic passes from which the uncertainty is taken.
        dropout: share of the channels that a pass drops.
        noise: deviation of the Gaussian noise that a pass adds to the image, in gray values from 0 to 1.
        ramp_steps: steps of `semi` in which the threshold H rises from 3/4 of the highest uncertainty to all of it.
    """

    method: str = "ua_mt"
    ema: EMA = EMA(start=0.99, end=0.99)
    passes: int = Field(8, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    noise: float = Field(0.025, ge=0)
    ramp_steps: int = Field(17000, ge=1)

    def lite(self) -> Self:
        """As of all baselines; the threshold rises over all of its 400 steps."""
        return super().lite().model_copy(update={"ramp_steps": 400})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"passes": 2, "ramp_steps": 2})


def build_ua_mt(recipe: UAMTRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.ua_mt.method import UAMT

    return UAMT(recipe)


SPEC = MethodSpec("ua_mt", CARD, UAMTRecipe, build_ua_mt)
