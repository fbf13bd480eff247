"""The plain convolutional U-Net of nnU-Net: strided convolutions, instance norm, leaky ReLU, a head per scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textmask.nn.image_encoders import padded_to
from textmask.types import Image


class PlainStage(nn.Sequential):
    """Some 3x3 convolutions, each with instance norm and leaky ReLU; the first one may halve the map."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, depth: int = 2) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)]
            layers += [nn.InstanceNorm2d(channels, affine=True), nn.LeakyReLU(0.01)]
            in_channels, stride = channels, 1
        super().__init__(*layers)


class PlainUNet(nn.Module):
    """Encoder and decoder with transposed convolutions; the coarsest scale only has an encoder.

    Images are padded, so that every scale halves evenly and the coarsest map is at least 2 x 2: instance norm needs
    more than one place.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        ins = [3, *widths[:-1]]
        self.encoder = nn.ModuleList(
            PlainStage(i, o, stride=2 if level else 1)
            for level, (i, o) in enumerate(zip(ins, widths, strict=True))
        )

        # from the coarsest scale to the finest
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(c, f, 2, stride=2) for c, f in pairs)
        self.decoder = nn.ModuleList(PlainStage(2 * fine, fine) for _, fine in pairs)

    def forward(self, image: Image) -> tuple[Tensor, ...]:
        """Image B 3 H W -> decoded maps, coarse to fine, of the padded image at 2^-k of its size."""
        x = padded_to(image, self.multiple)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)

        decoded = []
        for up, stage, skip in zip(self.ups, self.decoder, skips[-2::-1], strict=True):
            x = stage(torch.cat([up(x), skip], dim=1))
            decoded.append(x)
        return tuple(decoded)
