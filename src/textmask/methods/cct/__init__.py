"""`cct`: cross-consistency training; decoders of perturbed maps agree with the main decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from textmask.config import Stage
from textmask.methods.presets import TWO_STREAM_DEVIATIONS, TwoStreamRecipe, two_stream_stages
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import Perturbing

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="CCT: decoders of perturbed maps agree with the decoder of a text-guided network",
    paper="Ouali et al., Semi-Supervised Semantic Segmentation with Cross-Consistency Training, CVPR 2020 (baseline)",
    published={  # image only, 50 % of the labels, as DuSSS's Table 1 prints it
        "qata-cov19": {"dice_per_image": 80.25, "iou_per_image": 71.69},
        "monuseg": {"dice_per_image": 76.23, "iou_per_image": 55.87},
    },
    symbols={
        "h, g": ("CCT.net", "network"),
        "g_a^k": ("CCT.decoders", "networks"),
        "p_r(z)": ("perturbed_maps", "maps"),
        "L_u (Eq. 2)": ("loss cons", "scalar"),
    },
    limits="The further decoders are not used after training. Unlabelled images need their prompt.",
    sources={
        "perturbations": "paper: seven kinds; these five of them",
        "stages.semi.weights.cons.to": "paper: 30",
    },
    deviations=(
        *TWO_STREAM_DEVIATIONS,
        "The further decoders read all maps that are fused with the prompt (network=unet: of the encoder), not the "
        "coarsest alone, and have a U shape.",
        "No guided cutout and no intermediate VAT. Each kind has one decoder; the paper has several.",
        "Main and further decoders see the strong view.",
        "DuSSS prints 4.65 M parameters for it; its network is not named.",
    ),
)


class CCTRecipe(TwoStreamRecipe):
    """Fields of `cct`.

    Attributes:
        perturbations: of the maps, one decoder each; see `textmask.nn.perturbations.perturbed_maps`.
    """

    method: str = "cct"
    perturbations: tuple[Perturbing, ...] = Field(
        ("noise", "drop", "channels", "context", "objects"), min_length=1
    )
    stages: tuple[Stage, ...] = two_stream_stages(burn_in={"decoders.*": 0.0}, cons=1.0)


def build_cct(recipe: CCTRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.cct.method import CCT

    return CCT(recipe)


SPEC = MethodSpec("cct", CARD, CCTRecipe, build_cct)
