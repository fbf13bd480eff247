"""The image-only U-Nets of the semi-supervised methods, also behind the interface of a text-guided backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.decoders import UNet
from textmask.nn.fields import NormName, UNetFields
from textmask.nn.image_encoders import EncoderInfo, norm_layer, standardise
from textmask.nn.referring import Referred
from textmask.types import Image, Logits, TextFeatures


class CompactUNet(nn.Module):
    """U-Net with one convolution as stem, transposed convolutions, and a deepest scale as wide as the one above it.

    With widths 64, 128, 256, 512, 512 it has 14 751 873 parameters, the 14.75 M of Table 1. The original U-Net, with
    1024 channels at the deepest scale and two convolutions at the finest, has 31.4 M.

    Args:
        widths: channels per scale, fine to coarse.
        norm: after every 3x3 convolution.

    Source: DuSSS, Table 1; the layers follow a description of the released code.
    """

    def __init__(self, widths: Sequence[int], norm: NormName = "batch") -> None:
        super().__init__()
        self.stem = _convolutions(3, widths[0], 1, norm)
        self.downs = nn.ModuleList(_convolutions(i, o, 2, norm) for i, o in pairwise(widths))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

        # from the coarsest skip to the finest; each level hands on the width of the next finer one
        self.grows, self.mixes = nn.ModuleList(), nn.ModuleList()
        channels = widths[-1]
        for level in reversed(range(len(widths) - 1)):
            self.grows.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
            out = widths[max(level - 1, 0)]
            self.mixes.append(_convolutions(channels + widths[level], out, 2, norm))
            channels = out
        self.head = nn.Conv2d(channels, 1, 1)
        strides = tuple(2**i for i in range(len(widths)))
        self.info = EncoderInfo("compact", tuple(widths), strides)

    def forward(self, image: Image) -> tuple[Logits, Float[Tensor, "b _c h w"]]:
        """Image B 3 H W -> (logits B 1 H W, last decoder feature B C H W)."""
        return self.decode(self.encode(image), image)

    def encode(self, image: Image) -> list[Tensor]:
        """Image B 3 H W -> the map of each scale, fine to coarse."""
        features = [self.stem(image)]
        for down in self.downs:
            features.append(down(self.pool(features[-1])))
        return features

    def decode(
        self, features: Sequence[Tensor], image: Image
    ) -> tuple[Logits, Float[Tensor, "b _c h w"]]:
        """The maps of `encode` -> as `forward`; the image is not read again."""
        *skips, x = features
        for grow, mix, skip in zip(self.grows, self.mixes, reversed(skips), strict=True):
            # an odd size was rounded up on the way down
            rows, columns = skip.shape[-2:]
            x = mix(torch.cat([grow(x)[..., :rows, :columns], skip], 1))
        return self.head(x), x


def build_plain_unet(fields: UNetFields) -> UNet | CompactUNet:
    """Build the U-Net that these fields describe."""
    if fields.unet == "compact":
        return CompactUNet(fields.widths, fields.norm)
    return UNet(fields.widths, fields.stem_stride, norm=fields.norm)


class ImageOnly(nn.Module):
    """A U-Net with the interface of `MMIUNet` and `GuideDecoder`; it does not read the prompt.

    Args:
        fields: of the U-Net.
    """

    def __init__(self, fields: UNetFields) -> None:
        super().__init__()
        self.unet = build_plain_unet(fields)
        self.info = self.unet.info
        self.widths = tuple((c, 0) for c in self.info.channels[::-1])

    def forward(self, image: Image, text: TextFeatures | None) -> Referred:
        """Image B 3 H W in [0, 1] -> logits B 1 H W and the maps of the encoder, coarse to fine."""
        return self.decode(self.encode(image), image, text)

    def encode(self, image: Image) -> tuple[Tensor, ...]:
        """Image B 3 H W in [0, 1] -> the maps of the encoder, fine to coarse."""
        return tuple(self.unet.encode(standardise(image)))

    def decode(
        self, features: tuple[Tensor, ...], image: Image, text: TextFeatures | None
    ) -> Referred:
        """The maps of `encode` and the image -> as `forward`; the text is ignored."""
        logits, feature = self.unet.decode(features, standardise(image))
        return Referred(logits, feature, tuple(features[::-1]), (), ())


def _convolutions(in_channels: int, channels: int, count: int, norm: NormName) -> nn.Sequential:
    """`count` times 3x3 convolution, norm, ReLU."""
    layers: list[nn.Module] = []
    for i in range(count):
        ins = channels if i else in_channels
        layers += [nn.Conv2d(ins, channels, 3, padding=1), norm_layer(norm, channels), nn.ReLU()]
    return nn.Sequential(*layers)
