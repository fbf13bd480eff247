"""The nested skip pathways of U-Net++ (Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textmask.nn.fields import NormName
from textmask.nn.image_encoders import ConvBlock, UNetEncoder
from textmask.types import Image


class NestedUNet(nn.Module):
    """Encoder and the nodes X^{i,j} between its scales and the output.

    X^{i,0} is scale i of the encoder, X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, U(X^{i+1,j-1})])  (Eq. 1): two convolutions
    over all earlier nodes of the same scale and the enlarged node below. U is bilinear.
    """

    def __init__(
        self, widths: Sequence[int], stem_stride: int = 1, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        self.encoder = UNetEncoder(widths, stem_stride, norm=norm)
        self.nodes = nn.ModuleDict()
        for j in range(1, len(widths)):
            for i in range(len(widths) - j):
                node = ConvBlock(j * widths[i] + widths[i + 1], widths[i], norm)
                self.nodes[f"{i}-{j}"] = node

    def forward(self, image: Image) -> tuple[Tensor, ...]:
        """Image B 3 H W -> X^{0,1}, X^{0,2}, ..., each B C_0 H/s W/s."""
        # rows[i] holds the nodes of scale i that are known so far
        rows = [[feature] for feature in self.encoder(image)]
        for j in range(1, len(rows)):
            for i in range(len(rows) - j):
                below = nn.functional.interpolate(
                    rows[i + 1][j - 1],
                    rows[i][0].shape[-2:],
                    mode="bilinear",
                    align_corners=False,
                )
                rows[i].append(self.nodes[f"{i}-{j}"](torch.cat([*rows[i], below], dim=1)))
        return tuple(rows[0][1:])
