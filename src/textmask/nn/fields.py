"""Sizes and settings of the networks, without torch: what recipes and cards need before any network is built."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from textmask.config import Config

NormName = Literal["batch", "group"]
# `released`: as in the published code of GuideDecoder and MMI-UNet; otherwise what the CPU presets were trained with
HeadName = Literal["released", "image"]
BlocksName = Literal["released", "plain"]
IntensityName = Literal["released", "encoder"]
# of maps, see `textmask.nn.perturbations.perturbed_maps`
Perturbing = Literal["noise", "drop", "channels", "context", "objects"]
# for the CPU presets: 2 M parameters with a stem at stride 4
LITE_WIDTHS = (32, 80, 144, 208)
UKAN_WIDTHS = (16, 32, 128, 160, 256)
UKAN_LITE_WIDTHS = (32, 64, 128, 160, 208)  # for the CPU presets, with a stem at stride 4


class UNetFields(Config):
    """An image-only U-Net.

    Attributes:
        unet: `compact` is that of DuSSS (14.75 M parameters by default), `plain` that of the method `unet`.
        widths, norm: channels per scale, fine to coarse; batch or group norm.
        stem_stride: of the finest map of the plain U-Net.
    """

    unet: Literal["compact", "plain"] = "compact"
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    stem_stride: int = 1
    norm: NormName = "batch"


class ReleasedFields(Config):
    """What GuideDecoder and MMI-UNet share. The paper presets set all three to `released`; see `RELEASED`.

    Attributes:
        head: `released` is `ShuffleHead` (332k parameters, does not see the image again); `image` is `SubPixelHead`.
        blocks: `released`: in GuideDecoder's up-sampling blocks LeakyReLU(0.01) and no bias, in MMI-UNet's bridgers
            first weights by kaiming fan-out; `plain`: ReLU, and torch's first weights.
        intensity: `released` gives each channel of each image zero mean and unit variance; `encoder` uses the fixed
            constants of the image encoder's pretraining.
    """

    head: HeadName = "image"
    blocks: BlocksName = "plain"
    intensity: IntensityName = "encoder"


RELEASED = ReleasedFields(head="released", blocks="released", intensity="released")


class MMIUNetFields(ReleasedFields):
    """Fields of MMI-UNet; the sizes are those of the released code.

    Attributes:
        scales: how many of the encoder's coarsest scales the decoder uses.
        fused: how many of those, counted from the coarsest, have a bridger; the others are plain skips.
        heads, hidden, dropout: of the interactors.
        head_channels: channels at full resolution.
    """

    scales: int = Field(4, ge=2)
    fused: int = Field(4, ge=1)
    heads: int = Field(8, ge=1)
    hidden: int = Field(128, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    head_channels: int = Field(24, ge=1)


class GuideDecoderFields(ReleasedFields):
    """Fields of GuideDecoder; the sizes are those of the released code.

    Attributes:
        token_counts: number of tokens that the text is mixed to at each guided scale, coarse to fine.
        max_tokens: prompt length in tokens that the mixing reads; longer prompts are cut with a warning.
        gate: initial value of the learned factor on the text branch: 1.421 in LanGuideMedSeg, 0.01 in the copies in
            MMI-UNet, SGSeg and Semi-MedRef, so that results of "GuideDecoder" differ by repository.
        heads: of the cross-attention.
        head_channels: channels at full resolution.
    """

    token_counts: tuple[int, ...] = (24, 12, 9)
    max_tokens: int = Field(24, ge=3)
    gate: float = 1.421
    heads: int = Field(4, ge=1)
    head_channels: int = Field(24, ge=1)


class BackboneFields(Config):
    """Which backbone, on which image encoder, with which fields (only those of the named backbone are used).

    Attributes:
        name: of the backbone.
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`; ConvNeXt-Tiny needs `weights get`.
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


# for the paper presets
RELEASED_MMI_UNET = MMIUNetFields(**RELEASED.model_dump())
RELEASED_GUIDE_DECODER = GuideDecoderFields(**RELEASED.model_dump())
PAPER_BACKBONE = BackboneFields(mmi_unet=RELEASED_MMI_UNET, guide_decoder=RELEASED_GUIDE_DECODER)
# for the CPU presets
LITE_BACKBONE = BackboneFields(
    image_encoder="efficientnet_lite0",
    mmi_unet=MMIUNetFields(fused=3, head_channels=8),
    guide_decoder=GuideDecoderFields(max_tokens=32, head_channels=8),
)
LITE_UNET = UNetFields(unet="plain", widths=LITE_WIDTHS, stem_stride=4)
# for the tests
SMOKE_UNET = UNetFields(widths=(8, 12))
SMOKE_BACKBONE = BackboneFields(
    image_encoder="tiny",
    mmi_unet=MMIUNetFields(heads=2, hidden=8, head_channels=4),
    guide_decoder=GuideDecoderFields(token_counts=(6, 4, 3), head_channels=4),
)
