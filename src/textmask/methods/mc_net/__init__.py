"""`mc_net`: mutual consistency of decoders that enlarge their maps differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from textmask.methods.presets import TWO_STREAM_DEVIATIONS, TwoStreamRecipe
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="MC-Net: three decoders of a text-guided network learn from each other's sharpened predictions",
    paper="Wu et al., Mutual Consistency Learning for Semi-Supervised Medical Image Segmentation, Medical Image "
    "Analysis 81, 2022 (MC-Net+; baseline)",
    published={  # image only, 50 % of the labels, as DuSSS's Table 1 prints it
        "qata-cov19": {"dice_per_image": 74.98, "iou_per_image": 61.97},
        "monuseg": {"dice_per_image": 71.59, "iou_per_image": 48.75},
    },
    symbols={
        "theta_e, theta_d^1": ("MCNet.net", "network"),
        "theta_d^2, theta_d^3": ("MCNet.decoders", "networks"),
        "T": ("temperature", "scalar"),
        "L_mc": ("loss cons", "scalar"),
    },
    limits="The further decoders are not used after training. Unlabelled images need their prompt.",
    sources={"temperature": "paper: 0.1", "stages.semi.weights.cons.to": "paper: 1"},
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "The first decoder is that of the backbone. The further ones, with bilinear and nearest enlarging, read the "
        "maps that are fused with the prompt (network=unet: of the encoder).",
        "The sharpened predictions have no gradient, on which the paper says nothing.",
        "The supervised loss has a cross-entropy next to the paper's Dice.",
        "DuSSS prints 1.81 M parameters for it; its network is not named.",
    ),
)


class MCNetRecipe(TwoStreamRecipe):
    """Fields of `mc_net`.

    Attributes:
        temperature: T of the sharpening; lower is harder.
    """

    method: str = "mc_net"
    temperature: float = Field(0.1, gt=0, le=1)


def build_mc_net(recipe: MCNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.mc_net.method import MCNet

    return MCNet(recipe)


SPEC = MethodSpec("mc_net", CARD, MCNetRecipe, build_mc_net)
