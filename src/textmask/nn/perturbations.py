"""Random changes of the maps between an image encoder and a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textmask.nn.fields import Perturbing
from textmask.types import Mask


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


def perturbed_maps(
    maps: Sequence[Tensor], kind: Perturbing, probability: Mask
) -> tuple[Tensor, ...]:
    """The maps under one of the perturbations of CCT.

    Args:
        maps: B C h w each.
        kind: `noise` adds up to 30 % of each value (F-Noise); `drop` clears the most active places (F-Drop);
            `channels` clears half of the channels (spatial dropout); `context` keeps only the objects that the main
            decoder sees (Con-Msk), and `objects` clears them (Obj-Msk).
        probability: of the main decoder, B 1 H W.

    Source: CCT, section 3.3.
    """
    if kind == "channels":
        return channels_dropped(maps, 0.5)

    found = []
    for x in maps:
        if kind == "noise":
            found.append(x + x * (torch.rand_like(x) * 0.6 - 0.3))
        elif kind == "drop":
            activity = x.mean(dim=1, keepdim=True)
            share = torch.rand(len(x), 1, 1, 1, device=x.device) * 0.3 + 0.6
            highest = activity.amax(dim=(2, 3), keepdim=True)
            found.append(x * (activity < highest * share).to(x.dtype))
        else:
            objects = (probability > 0.5).to(x.dtype)
            objects = nn.functional.interpolate(objects, x.shape[-2:], mode="nearest")
            found.append(x * (objects if kind == "context" else 1 - objects))
    return tuple(found)
