"""`guide_decoder`: a text-guided decoder; one of the two backbones of other methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import Recipe, Stage
from textmask.methods.presets import LITE0_LR, LITE0_STEPS, RELEASED_SOURCES, RELEASED_STAGE
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import (
    LITE_BACKBONE,
    RELEASED_GUIDE_DECODER,
    SMOKE_BACKBONE,
    GuideDecoderFields,
)

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="GuideDecoder: every scale of the decoder attends to the text",
    paper="Zhong et al., Ariadne's Thread: Using Text Prompts to Improve Segmentation of Infected Areas from Chest "
    "X-ray Images, MICCAI 2023",
    published={
        "qata-cov19": {"dice_pooled": 89.78, "iou_pooled": 81.45}
    },  # as the SSA paper prints it, Table I
    symbols={
        "f_i": ("features of the image encoder", "B C_i H/s_i W/s_i"),
        "guided": ("Referred.maps", "B C_i H/s_i W/s_i, coarse to fine"),
        "mixed text": ("Referred.texts", "B n_i C_i"),
        "alpha": ("GuideBlock.gate", "scalar, learned"),
    },
    limits="Reads max_tokens tokens of a prompt; the text tokens never attend to the image.",
    sources={
        **RELEASED_SOURCES,
        "image_encoder": "paper: ConvNeXt-Tiny",
        "net.blocks": "code: LeakyReLU(0.01), no bias",
        "net.token_counts": "code: 24, 12, 9",
        "net.max_tokens": "code: 24",
        "net.gate": "code: 1.421; 0.01 in the copies in MMI-UNet, SGSeg and Semi-MedRef",
        "net.heads": "code: 4",
    },
    deviations=(
        "padding is masked; in the released code it enters the map over token positions",
        "position codes are two-dimensional and relative to the size of the map; there one-dimensional",
        "the loss is taken from logits, with an epsilon of its own, whatever the version of another library",
        "validation is the valid split; there the last fifth of the training table in file order",
        "masks are read by one rule per data set; there only pixels of exactly 255 count",
    ),
)


class GuideDecoderRecipe(Recipe):
    """Fields of `guide_decoder`.

    Attributes:
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`; ConvNeXt-Tiny needs `weights get`.
        text_encoder: frozen.
        net: fields of the network.
    """

    method: str = "guide_decoder"
    image_encoder: str = "convnext_tiny"
    text_encoder: str = "cxr_bert"
    net: GuideDecoderFields = RELEASED_GUIDE_DECODER
    stages: tuple[Stage, ...] = (RELEASED_STAGE,)

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM; QaTa within 40 minutes on two cores."""
        net = LITE_BACKBONE.guide_decoder
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
        net = SMOKE_BACKBONE.guide_decoder
        return (
            super()
            .smoke()
            .model_copy(update={"image_encoder": "tiny", "text_encoder": "tiny", "net": net})
        )


def build_guide_decoder(recipe: GuideDecoderRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.guide_decoder.method import GuideDecoderMethod

    return GuideDecoderMethod(recipe)


SPEC = MethodSpec("guide_decoder", CARD, GuideDecoderRecipe, build_guide_decoder)
