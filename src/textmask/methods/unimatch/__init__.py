"""`unimatch`: two strong views and perturbed features learn the confident labels of the weak view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from textmask.config import Stage
from textmask.methods.presets import (
    IN_NO_TABLE,
    TWO_STREAM_DEVIATIONS,
    TwoStreamRecipe,
    two_stream_stages,
)
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="UniMatch: two strong views and dropped features learn the confident labels of the weak view",
    paper="Yang et al., Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation, CVPR 2023 "
    "(baseline)",
    symbols={
        "p^w": ("UniMatch.guess", "B 1 H W"),
        "p^fp, p^s1, p^s2": ("logits of the losses fp, s1, s2", "B 1 H W"),
        "lambda, mu": ("weights fp = lambda, s1 = s2 = mu / 2 of stage semi", "scalars"),
    },
    limits="Learns nothing from images whose labels are never confident. Unlabelled images need their prompt.",
    sources={
        "tau": "paper: 0.95",
        "feature_drop": "paper: half of the channels",
        "stages.semi.weights.fp.to": "paper: 0.5",
        "stages.semi.weights.s?.to": "paper: half of 0.5",
    },
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "Channels are dropped in the maps that the network computes from the image alone.",
        "The label is that of the network in eval mode, without dropout and with running statistics.",
        "The second strong view is BiCLIP's (also gamma, noise and motion blur), not a second draw of the first kind.",
        "Strong views are not mixed by CutMix.",
        "L_u is added to L_x; the paper halves both.",
        *IN_NO_TABLE,
    ),
)


class UniMatchRecipe(TwoStreamRecipe):
    """Fields of `unimatch`.

    Attributes:
        tau: confidence from which a pixel has a label.
        feature_drop: share of the channels that the feature perturbation drops.
    """

    method: str = "unimatch"
    tau: float = Field(0.95, ge=0.5, lt=1)
    feature_drop: float = Field(0.5, ge=0, lt=1)
    stages: tuple[Stage, ...] = two_stream_stages(
        views=("strong_blur", "strong"), fp=0.5, s1=0.25, s2=0.25
    )


def build_unimatch(recipe: UniMatchRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.unimatch.method import UniMatch

    return UniMatch(recipe)


SPEC = MethodSpec("unimatch", CARD, UniMatchRecipe, build_unimatch)
