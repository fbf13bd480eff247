"""TransUNet: a residual CNN, a vision transformer on its coarsest map, and the cascaded upsampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.image_encoders import ConvBlock, norm_layer
from textmask.nn.transformer import PreNormBlock, SelfAttention
from textmask.types import Image

EXPANSION = 4  # of the channels of a residual unit


class ResidualUnit(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with group norm, added to the input: the bottleneck of ResNet-50."""

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        channels = EXPANSION * width
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            norm_layer("group", width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            norm_layer("group", width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1, bias=False),
            norm_layer("group", channels),
        )
        self.stride = stride
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.skip = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False),
                norm_layer("group", channels),
            )

    def forward(self, x: Float[Tensor, "b _i _h _w"]) -> Float[Tensor, "b _c _r _s"]:
        """B I H W -> B C H/stride W/stride."""
        # sliced, because 1x1 convolutions with a stride corrupt memory on CPUs (torch 2.13, fp32, channels last)
        return torch.relu(self.layers(x) + self.skip(x[..., :: self.stride, :: self.stride]))


class HybridStem(nn.Module):
    """Maps at 1/2, 1/4, 1/8 and 1/16 of the image; with stages of 3, 4 and 9 units the first part of ResNet-50."""

    def __init__(self, width: int, units: Sequence[int]) -> None:
        super().__init__()
        self.root = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            norm_layer("group", width),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

        self.stages = nn.ModuleList()
        self.channels = [width]
        for level, depth in enumerate(units):
            inner = width * 2**level
            layers = [ResidualUnit(self.channels[-1], inner, stride=2 if level else 1)]
            layers += [ResidualUnit(EXPANSION * inner, inner) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*layers))
            self.channels.append(EXPANSION * inner)

    def forward(self, image: Image) -> list[Tensor]:
        """Image B 3 H W, sides in multiples of 16 -> maps fine to coarse."""
        maps = [self.root(image)]
        x = self.pool(maps[0])
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class GridTransformer(nn.Module):
    """Tokens of a map with learned position embeddings (Eq. 1), transformer blocks (Eq. 2-3), and the map again."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        grid: tuple[int, int],
        depth: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, width, 1)
        self.position = nn.Parameter(torch.empty(1, width, *grid))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                PreNormBlock(width, SelfAttention(width, heads), hidden, dropout)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "b _i h w"]) -> Float[Tensor, "b _c h w"]:
        """B I h w -> B C h w; position embeddings are interpolated to other sizes than the trained one."""
        rows, columns = x.shape[-2:]
        position: Tensor = self.position
        if position.shape[-2:] != (rows, columns):
            position = nn.functional.interpolate(
                position, (rows, columns), mode="bilinear", align_corners=False
            )
        tokens = rearrange(self.embed(x) + position, "b c h w -> b (h w) c")
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        out: Tensor = rearrange(tokens, "b (h w) c -> b c h w", h=rows)
        return out


class CascadedUpsampler(nn.Module):
    """A 3x3 convolution, then per step bilinear enlargement to twice the size, the skip, and two convolutions.

    Args:
        in_channels: of the transformer's map.
        widths: channels after the first convolution and after each step.
        skips: channels of the skips, coarse to fine; the last step, to full size, has none.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], skips: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            norm_layer("batch", widths[0]),
            nn.ReLU(),
        )
        ins = zip(widths[:-1], [*skips, 0], strict=True)
        self.steps = nn.ModuleList(
            ConvBlock(coarse + skip, fine)
            for (coarse, skip), fine in zip(ins, widths[1:], strict=True)
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Float[Tensor, "b _c _h _w"]:
        """The transformer's map and the skips, coarse to fine -> the map at full size."""
        x = self.first(x)
        for i, step in enumerate(self.steps):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = step(torch.cat([x, skips[i]], dim=1) if i < len(skips) else x)
        return x


def grid_of(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of the map of an image that is padded to multiples of the stride."""
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)
