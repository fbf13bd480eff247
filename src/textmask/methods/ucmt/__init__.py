"""`ucmt`: uncertainty-guided collaborative mean teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from textmask.config import EMA, Stage
from textmask.methods.presets import TWO_STREAM_DEVIATIONS, TwoStreamRecipe, two_stream_stages
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="UCMT: two text-guided students and a teacher, also on images without their most uncertain blocks",
    paper="Shen et al., Co-training with High-Confidence Pseudo Labels for Semi-supervised Medical Image Segmentation, "
    "IJCAI 2023 (baseline)",
    published={  # image only, 50 % of the labels, as DuSSS's Table 1 prints it
        "qata-cov19": {"dice_per_image": 77.81, "iou_per_image": 68.65},
        "monuseg": {"dice_per_image": 76.36, "iou_per_image": 59.29},
    },
    symbols={
        "f(theta_1), f(theta_2), f(theta)": ("UCMT.net, UCMT.other, UCMT.teacher", "networks"),
        "L_cps, L_mts": ("losses cps, mts", "scalars"),
        "UMIX": ("with_blocks_moved", "B C H W"),
        "k": ("top", "number"),
    },
    limits="A step runs both students twice. Moved blocks may lie where the prompt does not say.",
    sources={
        "side": "code: 16",
        "top": "code: 2",
        "ema.start": "code: 0.99",
        "ema.end": "code: 0.99",
        "stages.semi.weights.cps.to": "code: 0.1",
        "stages.semi.weights.mts.to": "code: 0.1",
    },
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "Written from the abstract and the structure of the released code; the printed equations were not at hand.",
        "Plain and mixed images are one step; the released code takes two. Labelled images are not mixed.",
        "Both students see the same strong view.",
        "The teacher follows the first student; in the released code 1 % of what it follows is the second one.",
        "DuSSS prints 1.81 M parameters for it; its network is not named.",
    ),
)


class UCMTRecipe(TwoStreamRecipe):
    """Fields of `ucmt`.

    Attributes:
        ema: decay of the teacher's average.
        side: blocks of UMIX along each side of the image.
        top: blocks that are overwritten for each student.
    """

    networks: ClassVar[tuple[str, ...]] = ("net", "other")

    method: str = "ucmt"
    ema: EMA = EMA(start=0.99, end=0.99)
    side: int = Field(16, ge=2)
    top: int = Field(2, ge=1)
    stages: tuple[Stage, ...] = two_stream_stages(cps=0.5, mts=0.5)


def build_ucmt(recipe: UCMTRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.ucmt.method import UCMT

    return UCMT(recipe)


SPEC = MethodSpec("ucmt", CARD, UCMTRecipe, build_ucmt)
