"""`tganet`: text-guided attention (Tomar et al.); number and size of the lesions are classified on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from textmask.config import Recipe, Stage
from textmask.methods.presets import BASELINE_STAGE, ENCODER_LR, LITE0_STEPS
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="TGANet: number and size of the lesions, learned from the prompts, weight the channels of the decoder",
    paper="Tomar et al., TGANet: Text-guided Attention for Improved Polyp Segmentation, MICCAI 2022",
    uses_text=False,
    published={
        # as the C2Seg paper prints it, Tables 1 and 2
        "qata-cov19": {"dice_per_image": 77.17, "iou_per_image": 64.39},
        "mosmeddata+": {"dice_per_image": 69.48, "iou_per_image": 55.81},
        "cvc-clinicdb": {"dice_per_image": 89.93, "iou_per_image": 84.56},
        "kvasir": {"dice_per_image": 90.44, "iou_per_image": 84.19},
    },
    symbols={
        "number, size": ("aux number, aux size", "B 2, B 3 logits"),
        "label vectors": ("labels", "5 E"),
        "FEM": ("FEM", "B C H W"),
    },
    limits="Does not read the prompt when it predicts: the words of training only name classes of the auxiliary task.",
    sources={
        "rates": "paper: 1, 6, 12, 18",
        "stages.segment.weights.dice": "paper: with cross-entropy",
        "stages.segment.weights.bce": "paper: with Dice",
    },
    deviations=(
        "number and size come from the prompt; there they are measured in the mask. A prompt that names none of them "
        "has no loss of that kind",
        "the five label vectors are learned; there they are byte-pair embeddings of the five words",
        "the image encoders of this library in place of ResNet-50; the widths are ours",
        "written from the text of the paper, which leaves the layers of its figures open",
    ),
)


class TGANetRecipe(Recipe):
    """Fields of `tganet`.

    Attributes:
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`; ConvNeXt-Tiny needs `weights get`.
        width: channels of the enhanced maps and of the decoder.
        label_width: length of the label vectors.
        rates: dilation of the parallel convolutions.
    """

    method: str = "tganet"
    image_encoder: str = "convnext_tiny"
    width: int = Field(128, ge=4)
    label_width: int = Field(300, ge=1)
    rates: tuple[int, ...] = (1, 6, 12, 18)
    stages: tuple[Stage, ...] = (
        BASELINE_STAGE.model_copy(
            update={"weights": {"dice": 1.0, "bce": 1.0, "number": 1.0, "size": 1.0}}
        ),
    )

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0 and a narrow decoder; QaTa within an hour on two cores."""
        stage = self.stages[0].lite(epochs=8, steps=LITE0_STEPS, lr_scale=ENCODER_LR)
        net = {"image_encoder": "efficientnet_lite0", "width": 32, "label_width": 64}
        return self.model_copy(update={**net, "stages": (stage,)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        net = {"image_encoder": "tiny", "width": 8, "label_width": 8, "rates": (1, 2)}
        return super().smoke().model_copy(update=net)


def build_tganet(recipe: TGANetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.tganet.method import TGANet

    return TGANet(recipe)


SPEC = MethodSpec("tganet", CARD, TGANetRecipe, build_tganet)
