"""The additive attention gate of Attention U-Net (Eq. 1-2) and the decoder that it filters skips for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.decoders import UNetDecoder
from textmask.nn.fields import NormName


class AttentionGate(nn.Module):
    """How much each place of a skip counts, given the coarser map.

    q = psi^T relu(W_x^T x + W_g^T g + b_g) + b_psi on the grid of g (Eq. 1); alpha = sigmoid(q) is enlarged to the grid
    of x by bilinear interpolation, and alpha x goes on (Eq. 2).

    Source: Oktay et al. 2018, Section 2: maps without spatial support, x at the resolution of g.
    """

    def __init__(self, channels: int, gate_channels: int, between: int) -> None:
        super().__init__()
        self.w_x = nn.Conv2d(channels, between, 1, bias=False)
        self.w_g = nn.Conv2d(gate_channels, between, 1)
        self.psi = nn.Conv2d(between, 1, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], g: Float[Tensor, "b d rows columns"]
    ) -> Float[Tensor, "b c h w"]:
        """Skip B C H W and the gating signal B D H/2 W/2 (rounded up) -> B C H W."""
        # sliced, because 1x1 convolutions with a stride corrupt memory on CPUs (torch 2.13, fp32, channels last)
        q = self.psi(torch.relu(self.w_x(x[..., ::2, ::2]) + self.w_g(g)))
        alpha = torch.sigmoid(q)
        alpha = nn.functional.interpolate(alpha, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * alpha


class GatedDecoder(UNetDecoder):
    """The decoder of the U-Net with an attention gate on every skip but the finest, as in the paper.

    The gating signal of a skip is the decoded map of the next coarser scale.
    """

    def __init__(self, channels: Sequence[int], norm: NormName = "batch") -> None:
        super().__init__(channels, norm)
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[:0:-1]
        self.gates = nn.ModuleList(
            AttentionGate(fine, coarse, max(fine // 2, 1)) for coarse, fine in pairs
        )

    def skip(self, i: int, skip: Tensor, x: Tensor) -> Tensor:
        """The gated skip of block i, coarse to fine; the finest skip is not gated."""
        if i == len(self.gates):
            return skip
        gated: Tensor = self.gates[i](skip, x)
        return gated
