"""The text-guided backbones by name, for the methods that build on one of them."""

from __future__ import annotations

from typing import Literal

from textmask.config import Config
from textmask.nn.guide_decoder import GuideDecoder, GuideDecoderFields
from textmask.nn.mmi_unet import MMIUNet, MMIUNetFields
from textmask.nn.pretrained_image import build_image_encoder


class BackboneFields(Config):
    """Which backbone, on which image encoder, with which fields (only those of the named backbone are used).

    Attributes:
        name: of the backbone.
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`; ConvNeXt-Tiny needs a commit or a folder.
    """

    name: Literal["mmi_unet", "guide_decoder"] = "mmi_unet"
    image_encoder: str = "convnext_tiny"
    mmi_unet: MMIUNetFields = MMIUNetFields()
    guide_decoder: GuideDecoderFields = GuideDecoderFields()

    @property
    def scales(self) -> int:
        """Number of maps that are fused with the text."""
        return (
            self.mmi_unet.fused if self.name == "mmi_unet" else len(self.guide_decoder.token_counts)
        )


# for the CPU presets
LITE_BACKBONE = BackboneFields(
    image_encoder="efficientnet_lite0",
    mmi_unet=MMIUNetFields(fused=3, head_channels=8),
    guide_decoder=GuideDecoderFields(max_tokens=32, head_channels=8),
)
# for the tests
SMOKE_BACKBONE = BackboneFields(
    image_encoder="tiny",
    mmi_unet=MMIUNetFields(heads=2, hidden=8, head_channels=4),
    guide_decoder=GuideDecoderFields(token_counts=(6, 4, 3), head_channels=4),
)


def build_backbone(
    fields: BackboneFields, text_width: int, last_answers: bool = False
) -> GuideDecoder | MMIUNet:
    """Build the network that these fields describe.

    Args:
        fields: name and settings.
        text_width: D of the text tokens.
        last_answers: MMI-UNet's coarsest bridger also updates the text tokens, for callers that read `Referred.texts`.
    """
    encoder = build_image_encoder(fields.image_encoder)
    if fields.name == "guide_decoder":
        return GuideDecoder(encoder, text_width, fields.guide_decoder)
    return MMIUNet(encoder, text_width, fields.mmi_unet, last_answers)
