"""The text-guided backbones by name, for the methods that build on one of them."""

from __future__ import annotations

from textmask.nn.fields import BackboneFields
from textmask.nn.guide_decoder import GuideDecoder
from textmask.nn.mmi_unet import MMIUNet
from textmask.nn.pretrained_image import build_image_encoder


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
