"""`mmi_unet`: image and text update each other in the encoder; one of the two backbones of other methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import Recipe, Stage
from textmask.methods.presets import LITE0_LR, LITE0_STEPS, RELEASED_SOURCES, RELEASED_STAGE
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import LITE_BACKBONE, RELEASED_MMI_UNET, SMOKE_BACKBONE, MMIUNetFields

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="MMI-UNet: image and text update each other between the scales of the encoder",
    paper="Bui et al., Visual-Textual Matching Attention for Lesion Segmentation in Chest Images, MICCAI 2024",
    published={
        "qata-cov19": {"dice_pooled": 90.88, "iou_pooled": 83.28}
    },  # as the SSA paper prints it, Table I
    symbols={
        "f_i": ("map of one scale", "B C_i H/s_i W/s_i"),
        "bridged map, bridged text": (
            "Referred.maps, Referred.texts",
            "B C_i H/s_i W/s_i and B L D, coarse to fine",
        ),
    },
    limits="The text tokens of a scale depend on the finer scales, so the effect of a wrong prompt spreads.",
    sources={
        **RELEASED_SOURCES,
        "image_encoder": "code: ConvNeXt-Tiny, pretrained on ImageNet-22k (here ImageNet-1k)",
        "net.blocks": "code: kaiming fan-out in the bridgers",
        "net.scales": "code: 4",
        "net.fused": "code: 4",
        "net.heads": "code: 8",
        "net.hidden": "code: 128",
        "net.dropout": "code: 0.1",
    },
    deviations=(
        "of the released 56.17 M parameters 6.70 M are read by nothing and do not exist here: the text half of the "
        "coarsest bridger (5.52 M) and the projection of the pooled text (1.18 M)",
        "padding is masked in every attention",
        "a map with an odd number of rows is padded before it is halved; there its last row never meets the text",
        "kaiming fan-out covers the convolutions and linear maps of the bridgers, not the attention inside them",
        "the loss is taken from logits, with an epsilon of its own, whatever the version of another library",
        "the released split code keeps 80 % of the train table and 20 % of the valid table; here both are whole",
    ),
)


class MMIUNetRecipe(Recipe):
    """Fields of `mmi_unet`.

    Attributes:
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`; ConvNeXt-Tiny needs `weights get`.
        text_encoder: frozen.
        net: fields of the network.
    """

    method: str = "mmi_unet"
    image_encoder: str = "convnext_tiny"
    text_encoder: str = "cxr_bert"
    net: MMIUNetFields = RELEASED_MMI_UNET
    stages: tuple[Stage, ...] = (RELEASED_STAGE,)

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM, bridgers at three scales; QaTa within 40 minutes on two cores."""
        net = LITE_BACKBONE.mmi_unet
        stages = (self.stages[0].lite(epochs=8, steps=LITE0_STEPS, lr_scale=LITE0_LR),)
        lite = {
            "image_encoder": "efficientnet_lite0",
            "text_encoder": "minilm",
            "net": net,
            "stages": stages,
        }
        return self.model_copy(update=lite)

    def smoke(self) -> Self:
        """Tiny, for tests."""
        net = SMOKE_BACKBONE.mmi_unet
        return (
            super()
            .smoke()
            .model_copy(update={"image_encoder": "tiny", "text_encoder": "tiny", "net": net})
        )


def build_mmi_unet(recipe: MMIUNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.mmi_unet.method import MMIUNetMethod

    return MMIUNetMethod(recipe)


SPEC = MethodSpec("mmi_unet", CARD, MMIUNetRecipe, build_mmi_unet)
