"""Decoders and heads: from a feature pyramid to one logit per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.fields import NormName
from textmask.nn.image_encoders import ConvBlock, EncoderInfo, UNetEncoder, norm_layer
from textmask.types import Image, Logits


class UNetDecoder(nn.Module):
    """Bilinear up-sampling to the skip's size, concatenation, two convolutions; once per scale.

    Returns the finest decoded feature: B C_0 H/s_0 W/s_0.

    Args:
        channels: of the encoder's maps, fine to coarse.
        norm: after every convolution.
        narrow: each block hands on the width of the next finer map, not of its own.
    """

    def __init__(
        self, channels: Sequence[int], norm: NormName = "batch", narrow: bool = False
    ) -> None:
        super().__init__()
        # from the coarsest scale to the finest
        self.blocks = nn.ModuleList()
        width = channels[-1]
        for level in reversed(range(len(channels) - 1)):
            out = channels[max(level - 1, 0) if narrow else level]
            self.blocks.append(ConvBlock(width + channels[level], out, norm))
            width = out
        self.out_channels = channels[0]

    def forward(
        self, features: Sequence[Tensor], films: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "b _c _h _w"]:
        """Features fine to coarse -> the finest decoded feature; `films` conditions each block, coarse to fine."""
        x = features[-1]
        for i, (block, skip) in enumerate(zip(self.blocks, reversed(features[:-1]), strict=True)):
            skip = self.skip(i, skip, x)
            x = nn.functional.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], 1), None if films is None else films[i])
        return x

    def skip(self, i: int, skip: Tensor, x: Tensor) -> Tensor:
        """What block i (coarse to fine) reads of its skip, given the coarser decoded map x: here all of it."""
        return skip


class UpBlock(nn.Module):
    """Transposed convolution to twice the size, concatenation of the skip, then 3x3 convolutions with norm and ReLU.

    With `leaky`, as in GuideDecoder's released code, LeakyReLU(0.01) and no bias in the transposed convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        convolutions: int = 2,
        norm: NormName = "batch",
        leaky: bool = False,
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 2, stride=2, bias=not leaky)
        layers: list[nn.Module] = []
        for width in (2 * channels, channels)[:convolutions]:
            layers += [
                nn.Conv2d(width, channels, 3, padding=1, bias=False),
                norm_layer(norm, channels),
                nn.LeakyReLU(0.01) if leaky else nn.ReLU(),
            ]
        self.mix = nn.Sequential(*layers)

    def forward(
        self, x: Float[Tensor, "b _i _h _w"], skip: Float[Tensor, "b c rows columns"]
    ) -> Float[Tensor, "b c rows columns"]:
        """B I h w and the skip B C 2h 2w -> B C 2h 2w."""
        out: Tensor = self.mix(torch.cat([self.up(x), skip], 1))
        return out

    def skip_part(
        self, skip: Float[Tensor, "b c rows columns"]
    ) -> Float[Tensor, "b c rows columns"]:
        """The part of the first convolution that depends on the skip alone."""
        return nn.functional.conv2d(skip, self._first_weight[:, -skip.shape[1] :], padding=1)

    def join(
        self, x: Float[Tensor, "b _i _h _w"], part: Float[Tensor, "b c rows columns"]
    ) -> Float[Tensor, "b c rows columns"]:
        """`join(x, skip_part(skip))` equals `forward(x, skip)`: a convolution of a concatenation is a sum of two."""
        grown: Tensor = self.up(x)
        # the weights of the skip's channels are already in `part`
        weight = self._first_weight[:, : grown.shape[1]]
        out: Tensor = self.mix[1:](nn.functional.conv2d(grown, weight, padding=1) + part)
        return out

    @property
    def _first_weight(self) -> Tensor:
        """Weight of the first convolution; read on use, because a teacher replaces parameters with averages."""
        return cast(nn.Conv2d, self.mix[0]).weight


# a logit before training: about 8 % foreground, the share of lesions in the sets of the five papers
PRIOR_LOGIT = -2.5


class SubPixelHead(nn.Module):
    """Feature at stride s -> logits at full size: 1x1 convolution, pixel shuffle, 3x3 that also reads the image.

    The input enters as one gray channel per three `image_channels`. With stride 1 it is the plain 1x1 head.

    The bias of the last layer starts at `PRIOR_LOGIT`, so that its ReLU units must be active for lesions. From a bias
    of 0 the many background pixels come first: the units learn to be active there and fall silent inside lesions,
    whose probability is then that of the bias, which moves by one learning rate per step.
    """

    def __init__(
        self, in_channels: int, stride: int, image_channels: int = 3, channels: int = 8
    ) -> None:
        super().__init__()
        self.stride = stride
        if stride == 1:
            self.out: nn.Module = nn.Conv2d(in_channels, 1, 1)
            return
        self.expand = nn.Conv2d(in_channels, channels * stride**2, 1)
        self.mix = nn.Conv2d(channels + image_channels // 3, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.constant_(cast(Tensor, self.out.bias), PRIOR_LOGIT)

    def forward(self, feature: Float[Tensor, "b _c _h _w"], image: Image) -> Logits:
        """Feature B C H/s W/s and the image B C H W -> logits B 1 H W."""
        rows, columns = image.shape[-2:]
        if self.stride == 1:
            logits: Tensor = self.out(feature)
            return logits
        x = self._enlarged(feature, rows, columns)
        out: Tensor = self.out(torch.relu(self.mix(torch.cat([x, _gray(image).to(x.dtype)], 1))))
        return out

    def image_part(self, image: Image) -> Float[Tensor, "b _p h w"]:
        """The part of the 3x3 convolution that depends on the image alone; no channels if the head does not read it."""
        if self.stride == 1:
            return image[:, :0]
        gray = _gray(image)
        return nn.functional.conv2d(
            gray, self.mix.weight[:, -gray.shape[1] :], self.mix.bias, padding=1
        )

    def join(self, feature: Float[Tensor, "b _c _h _w"], part: Float[Tensor, "b _p h w"]) -> Logits:
        """`join(feature, image_part(image))` equals `forward(feature, image)`."""
        if self.stride == 1:
            plain: Logits = self.out(feature)
            return plain
        rows, columns = part.shape[-2:]
        x = self._enlarged(feature, rows, columns)
        mixed = nn.functional.conv2d(x, self.mix.weight[:, : x.shape[1]], padding=1) + part
        out: Logits = self.out(torch.relu(mixed))
        return out

    def _enlarged(self, feature: Tensor, rows: int, columns: int) -> Tensor:
        """The feature at full size, cut to the image."""
        x = nn.functional.pixel_shuffle(torch.relu(self.expand(feature)), self.stride)
        return x[..., :rows, :columns]


def _gray(image: Image) -> Float[Tensor, "b _images h w"]:
    return reduce(image, "b (images rgb) h w -> b images h w", "mean", rgb=3)


class UNet(nn.Module):
    """Encoder, decoder and head; `film_widths` lists the channels of every block that a condition may modulate."""

    def __init__(
        self,
        widths: Sequence[int],
        stem_stride: int = 1,
        in_channels: int = 3,
        stem_extra: int = 0,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.encoder = UNetEncoder(widths, stem_stride, in_channels, stem_extra, norm)
        self.decoder = UNetDecoder(self.info.channels, norm)
        self.head = SubPixelHead(self.decoder.out_channels, self.info.strides[0], in_channels)
        self.film_widths = (*widths, *reversed(list(widths)[:-1]))

    @property
    def info(self) -> EncoderInfo:
        """Channels and strides of the encoder."""
        return self.encoder.info

    def forward(
        self, image: Image, films: Sequence[Tensor] | None = None, extra: Tensor | None = None
    ) -> tuple[Logits, Float[Tensor, "b _c _h _w"]]:
        """Image B C H W -> (logits B 1 H W, last decoder feature)."""
        feature = self.features(image, films, extra)
        return self.head(feature, image), feature

    def encode(self, image: Image) -> list[Tensor]:
        """Image B C H W -> the map of each scale, fine to coarse."""
        features: list[Tensor] = self.encoder(image)
        return features

    def decode(
        self, features: Sequence[Tensor], image: Image
    ) -> tuple[Logits, Float[Tensor, "b _c _h _w"]]:
        """The maps of `encode` and the image, which the head reads -> as `forward`."""
        feature = self.decoder(features)
        return self.head(feature, image), feature

    def features(
        self, image: Image, films: Sequence[Tensor] | None = None, extra: Tensor | None = None
    ) -> Float[Tensor, "b _c _h _w"]:
        """The last decoder feature alone: B C_0 H/s_0 W/s_0."""
        # the first films belong to the encoder's blocks, the others to the decoder's
        n = len(self.info.channels)
        features = self.encoder(image, None if films is None else films[:n], extra)
        out: Tensor = self.decoder(features, None if films is None else films[n:])
        return out
