"""`bcp`: bidirectional copy-paste between labelled and unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from textmask.config import EMA, Stage
from textmask.methods.presets import TWO_STREAM_DEVIATIONS, TwoStreamRecipe, two_stream_stages
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="BCP: labelled and unlabelled images are pasted into each other, with their targets and prompts",
    paper="Bai et al., Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation, CVPR 2023 (baseline)",
    published={  # image only, 50 % of the labels, as DuSSS's Table 1 prints it
        "qata-cov19": {"dice_per_image": 75.57, "iou_per_image": 65.31},
        "monuseg": {"dice_per_image": 72.17, "iou_per_image": 50.88},
    },
    symbols={
        "M": ("BCP._box", "1 1 H W"),
        "X^in, X^out (Eq. 1-2), Y^in, Y^out (Eq. 4-5)": ("pasted", "B C H W"),
        "L_seg * M": ("losses dice, bce", "scalars"),
        "L_seg * (1 - M)": ("loss cons", "scalar"),
        "alpha": ("weight cons of stage semi", "scalar"),
    },
    limits="The prompt of a mixed image names the zones of both images, also those that the box hides.",
    sources={
        "beta": "paper: 2/3",
        "ema.start": "paper: 0.99",
        "ema.end": "paper: 0.99",
        "stages.semi.weights.cons.to": "paper: 0.5",
    },
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "The paper is image-only and DuSSS runs it so; the prompt of a mixed image, which the paper does not have, is "
        "the union of both.",
        "Image i of both streams makes X^in and X^out; the paper takes four different images for the two.",
        "The labels of the teacher keep all components, not the largest alone: lesions are often two.",
        "The burn-in does not paste labelled images into each other.",
        "DuSSS prints 1.81 M parameters for it; its network is not named.",
    ),
)


class BCPRecipe(TwoStreamRecipe):
    """Fields of `bcp`.

    Attributes:
        ema: decay of the teacher's average.
        beta: rows and columns of the box, as a share of those of the image.
    """

    method: str = "bcp"
    ema: EMA = EMA(start=0.99, end=0.99)
    beta: float = Field(2 / 3, gt=0, le=1)
    stages: tuple[Stage, ...] = two_stream_stages(cons=0.5)


def build_bcp(recipe: BCPRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.bcp.method import BCP

    return BCP(recipe)


SPEC = MethodSpec("bcp", CARD, BCPRecipe, build_bcp)
