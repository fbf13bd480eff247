"""Random changes of the maps between an image encoder and a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def channels_dropped(maps: Sequence[Tensor], p: float) -> tuple[Tensor, ...]:
    """Each channel of each map is 0 with probability p and scaled by 1 / (1 - p) otherwise.

    Args:
        maps: B C h w each, of any number of channels.
        p: in [0, 1).
    """
    dropped = []
    for x in maps:
        kept = torch.rand(x.shape[:2], device=x.device)[:, :, None, None] >= p
        dropped.append(x * (kept / (1 - p)).to(x.dtype))
    return tuple(dropped)
