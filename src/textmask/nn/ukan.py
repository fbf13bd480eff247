"""U-KAN (Li et al., AAAI 2025): convolutions at the fine scales, tokenized KAN blocks at the coarse ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.decoders import SubPixelHead
from textmask.nn.fields import NormName
from textmask.nn.image_encoders import ConvBlock, EncoderInfo, ImageEncoder, norm_layer
from textmask.types import Image, Logits

Feature = Float[Tensor, "b c h w"]
Map = Callable[[int, int], nn.Module]
"""Builds a map over the last dimension, in_features -> out_features: a KAN layer or a linear one."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place, B C H W."""

    def forward(self, input: Feature) -> Feature:
        """B C H W -> B C H W."""
        return rearrange(
            super().forward(rearrange(input, "b c h w -> b h w c")), "b h w c -> b c h w"
        )


class KANBlock(nn.Module):
    """x + three times (KAN over the channels of each token, depth-wise 3x3 convolution, norm, ReLU)."""

    def __init__(self, channels: int, kan: Map, norm: NormName = "batch") -> None:
        super().__init__()
        self.maps = nn.ModuleList(kan(channels, channels) for _ in range(3))
        self.mixes = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(3)
        )
        self.norms = nn.ModuleList(norm_layer(norm, channels) for _ in range(3))

    def forward(self, x: Feature) -> Feature:
        """B C H W -> B C H W."""
        y = x
        for layer, mix, norm in zip(self.maps, self.mixes, self.norms, strict=True):
            # the map is applied to the channels of each place
            y = rearrange(layer(rearrange(y, "b c h w -> b h w c")), "b h w c -> b c h w")
            y = torch.relu(norm(mix(y)))
        return x + y


class UKANEncoder(ImageEncoder):
    """Five scales by default: three convolutional, two of KAN blocks on patch embeddings.

    Args:
        widths: channels per scale, fine to coarse.
        kan_stages: how many of the coarsest scales are KAN; 0 is a plain CNN, `len(widths)` a pure KAN encoder.
        kan_depth: KAN blocks per scale; the released U-KAN has 1.
        stem_stride: stride of the finest map; 2 as in U-KAN, 4 convolves at a quarter of the size (CPU presets).
        kan: builds the KAN layers.
    """

    def __init__(
        self,
        widths: Sequence[int],
        kan: Map,
        kan_stages: int = 2,
        kan_depth: int = 1,
        stem_stride: Literal[2, 4] = 2,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.info = EncoderInfo(
            "ukan", tuple(widths), tuple(stem_stride * 2**i for i in range(len(widths)))
        )
        self.stem_stride = stem_stride

        # stride 2 pools after the first block instead; a pure KAN encoder embeds patches with stride 2
        convs = len(widths) - kan_stages
        channels = 3
        stem: list[nn.Module] = []
        for _ in range(2 if stem_stride == 4 and convs else stem_stride // 4):
            stem += [nn.Conv2d(channels, widths[0], 3, stride=2, padding=1, bias=False)]
            stem += [norm_layer(norm, widths[0]), nn.ReLU()]
            channels = widths[0]
        self.stem = nn.Sequential(*stem)

        self.convs, self.kans = nn.ModuleList(), nn.ModuleList()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        for level, width in enumerate(widths):
            if level < convs:
                self.convs.append(ConvBlock(channels, width, norm))
            else:
                embed = nn.Conv2d(channels, width, 3, stride=2, padding=1)
                blocks = [KANBlock(width, kan, norm) for _ in range(kan_depth)]
                self.kans.append(
                    nn.Sequential(embed, ChannelNorm(width), *blocks, ChannelNorm(width))
                )
            channels = width

    def begin(self, image: Image) -> Tensor:
        """The stem."""
        x: Tensor = self.stem(image)
        return x

    def scale(self, i: int, x: Tensor) -> Tensor:
        """Two convolutions and pooling, or patch embedding and KAN blocks."""
        if i >= len(self.convs):
            out: Tensor = self.kans[i - len(self.convs)](x)
            return out
        x = self.convs[i](x)
        return self.pool(x) if i or self.stem_stride == 2 else x


class UKANDecoder(nn.Module):
    """Two convolutions, bilinear up-sampling and the skip *added*, once per scale; a KAN block after the coarsest ones.

    Returns the finest decoded feature B C_0 H/s_0 W/s_0.
    """

    def __init__(
        self, channels: Sequence[int], kan: Map, kan_stages: int = 2, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        self.convs = nn.ModuleList(
            ConvBlock(coarse, fine, norm, between=coarse) for coarse, fine in pairs
        )
        self.kans = nn.ModuleList(
            nn.Sequential(KANBlock(fine, kan, norm), ChannelNorm(fine))
            for _, fine in pairs[:kan_stages]
        )
        self.out_channels = channels[0]

    def forward(self, features: Sequence[Tensor]) -> Feature:
        """Features fine to coarse -> the finest decoded feature."""
        x = features[-1]
        for i, (block, skip) in enumerate(zip(self.convs, reversed(features[:-1]), strict=True)):
            x = skip + nn.functional.interpolate(
                block(x), skip.shape[-2:], mode="bilinear", align_corners=False
            )
            if i < len(self.kans):
                x = self.kans[i](x)
        return x


class BilinearHead(nn.Module):
    """Two convolutions at the decoder's scale, bilinear up-sampling to the image, 1x1 convolution (U-KAN)."""

    def __init__(self, channels: int, norm: NormName = "batch") -> None:
        super().__init__()
        self.block = ConvBlock(channels, channels, norm)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, feature: Float[Tensor, "b _c _h _w"], image: Image) -> Logits:
        """Feature B C h w and the image B 3 H W -> logits B 1 H W."""
        x = nn.functional.interpolate(
            self.block(feature), image.shape[-2:], mode="bilinear", align_corners=False
        )
        logits: Tensor = self.out(x)
        return logits


def build_head(channels: int, stride: int, norm: NormName = "batch") -> nn.Module:
    """U-KAN's head at stride 2; at coarser strides the sub-pixel head, which also reads the image."""
    return BilinearHead(channels, norm) if stride == 2 else SubPixelHead(channels, stride)
