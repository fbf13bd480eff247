"""The U-Net that DuSSS segments with (Table 1: 14.75 M parameters)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.fields import NormName
from textmask.nn.image_encoders import norm_layer
from textmask.types import Image, Logits


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

    def forward(self, image: Image) -> tuple[Logits, Float[Tensor, "b _c h w"]]:
        """Image B 3 H W -> (logits B 1 H W, last decoder feature B C H W)."""
        x = self.stem(image)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(self.pool(x))

        for grow, mix, skip in zip(self.grows, self.mixes, reversed(skips), strict=True):
            # an odd size was rounded up on the way down
            rows, columns = skip.shape[-2:]
            x = mix(torch.cat([grow(x)[..., :rows, :columns], skip], 1))
        return self.head(x), x


def _convolutions(in_channels: int, channels: int, count: int, norm: NormName) -> nn.Sequential:
    """`count` times 3x3 convolution, norm, ReLU."""
    layers: list[nn.Module] = []
    for i in range(count):
        ins = channels if i else in_channels
        layers += [nn.Conv2d(ins, channels, 3, padding=1), norm_layer(norm, channels), nn.ReLU()]
    return nn.Sequential(*layers)
