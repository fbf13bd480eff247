"""A further decoder over the maps of a backbone, for methods that compare several decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from textmask.nn.image_encoders import norm_layer
from textmask.nn.shuffle_head import ShuffleHead
from textmask.types import Image, Logits

Enlarging = Literal["bilinear", "nearest"]


class MapsDecoder(nn.Module):
    """From the coarsest map to the finest by enlarging, concatenation, and a 3x3 convolution with norm and ReLU.

    Its head does not see the image, so that a perturbed map cannot be repaired by it.

    Args:
        channels: of the maps, coarse to fine; each map has twice the rows and columns of the one before.
        stride: of the coarsest map.
        enlarging: how a map is brought to the size of the next one.
        head_channels: at full size.
    """

    def __init__(
        self, channels: Sequence[int], stride: int, enlarging: Enlarging, head_channels: int = 8
    ) -> None:
        super().__init__()
        self.enlarging = enlarging
        self.mixes = nn.ModuleList()
        for coarse, fine in pairwise(channels):
            mix = nn.Conv2d(coarse + fine, fine, 3, padding=1, bias=False)
            self.mixes.append(nn.Sequential(mix, norm_layer("batch", fine), nn.ReLU()))
        finest = stride // 2 ** (len(channels) - 1)
        self.head = ShuffleHead(channels[-1], finest, head_channels)

    def forward(self, maps: Sequence[Tensor], image: Image) -> Logits:
        """Maps B C h w, coarse to fine, and the image B 3 H W, of which only the size counts -> logits B 1 H W."""
        x = maps[0]
        corners = None if self.enlarging == "nearest" else False
        for mix, skip in zip(self.mixes, maps[1:], strict=True):
            x = nn.functional.interpolate(
                x, skip.shape[-2:], mode=self.enlarging, align_corners=corners
            )
            x = mix(torch.cat([x, skip], 1))
        logits: Logits = self.head(x, image)
        return logits
