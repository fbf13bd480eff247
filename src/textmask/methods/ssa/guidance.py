"""Composite directional guidance, CDG (Eq. 3-4): the places that the prompt names, within the model's attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from textmask.processes import counted_mean
from textmask.statement import Level, Side, Statement, Zone
from textmask.text.zones import ZONE_MAPS, Band, image_zones, zone_map
from textmask.types import Logits, Mask

Frame = Literal["image", "box"]
Box = Float[Tensor, "b 4"]  # top, bottom, left, right, as shares of the image
MAPS = tuple(ZONE_MAPS.values())


class Guidance(NamedTuple):
    """Result of CDG, all B 1 H W in [0, 1] without gradient; `directed` (B) is False if the prompt names no place."""

    attention: Mask
    prior: Mask
    guide: Mask
    directed: Bool[Tensor, " b"]


def directed_zones(statement: Statement) -> frozenset[Zone]:
    """The zones of the prior, by sides of the image; "bilateral" alone means the middle of both sides."""
    zones = image_zones(statement)
    if not zones and statement.lateral == "bilateral" and not statement.absent:
        return frozenset({(Side.LEFT, Level.MIDDLE), (Side.RIGHT, Level.MIDDLE)})
    return zones


def bounding_box(
    attention: Mask, level: float = 0.5, share: tuple[float, float] = (0.01, 0.95)
) -> Box:
    """Tight box round A_norm >= `level`; the whole image if less or more than `share` of the pixels pass."""
    # first and last row, then column, with a pixel above the level
    inside = attention[:, 0] >= level
    passing = inside.flatten(1).float().mean(dim=1)
    box = []
    for axis in (2, 1):  # rows that hold a pixel, then columns
        held = inside.any(dim=axis)
        n = held.shape[1]
        first = held.float().argmax(dim=1)
        last = n - held.flip(1).float().argmax(dim=1)
        box += [first / n, last / n]

    # an attention that is nearly empty or nearly everywhere does not place anything
    whole = torch.tensor([0.0, 1.0, 0.0, 1.0], device=attention.device)
    usable = (passing >= share[0]) & (passing <= share[1])
    return torch.where(usable[:, None], torch.stack(box, dim=1), whole)


def prior(
    statements: Sequence[Statement], box: Box, size: tuple[int, int], frame: Frame = "image"
) -> Mask:
    """M_pri: one Gaussian per named side x level, combined by maximum, 0 outside the box; 1 if no place is named.

    Args:
        statements: B parsed sentences; their laterality decides which side of the image "left" is.
        box: of the attention, see `bounding_box`.
        size: rows and columns of the result.
        frame: `image` places the Gaussians in the image, by the zone map of the prompt's grammar; `box` is the literal
            reading of the paper, by quarters and sixths of the box. A box that already fits a lower left lesion would
            be halved again by "lower left", hence the default.
    """
    device = box.device
    named = torch.zeros(len(statements), 3, 3)  # on the CPU: read below
    for b, statement in enumerate(statements):
        for side, level in directed_zones(statement):
            named[b, list(Side).index(side), list(Level).index(level)] = 1

    # each zone map has its own bands of levels and sides
    level_bands, side_bands = [], []
    for statement in statements:
        table = ZONE_MAPS["box"] if frame == "box" else zone_map(statement)
        level_bands.append([table.levels[level] for level in Level])
        side_bands.append([table.sides[side] for side in Side])
    levels = _band_weights(level_bands, size[0], box[:, :2], frame)
    sides = _band_weights(side_bands, size[1], box[:, 2:], frame)

    # a Gaussian is a product of its two axes; sides that no prompt names are skipped
    down = (named.to(device)[..., None] * levels[:, None]).amax(dim=2)  # B side H
    found = torch.zeros(len(statements), *size, device=device)
    for i in torch.nonzero(named.amax(dim=(0, 2)))[:, 0].tolist():
        torch.maximum(found, down[:, i, :, None] * sides[:, i, None], out=found)
    nothing_named = ~named.flatten(1).any(dim=1)
    found.masked_fill_(nothing_named.to(device)[:, None, None], 1.0)
    return found[:, None]


def _band_weights(
    bands: list[list[Band]], n: int, span: Float[Tensor, "b 2"], frame: Frame
) -> Float[Tensor, "b 3 n"]:
    """Three Gaussians along one axis, 0 outside `span` (two shares), in which frame `box` measures its shares."""
    numbers = torch.tensor(
        [[(band.centre, band.sigma) for band in row] for row in bands], device=span.device
    )
    center, sigma = numbers[..., :1], numbers[..., 1:]

    place = ((torch.arange(n, device=span.device) + 0.5) / n)[None]
    low, high = span[:, :1], span[:, 1:]
    inside = (place > low) & (place < high)
    if frame == "box":
        place = (place - low) / (high - low)
    return torch.exp(-0.5 * ((place[:, None] - center) / sigma) ** 2) * inside[:, None]


@torch.no_grad()
def guidance(
    attention: Float[Tensor, "b 1 h w"],
    statements: Sequence[Statement],
    size: tuple[int, int],
    frame: Frame,
) -> Guidance:
    """M_guide = A_norm * M_pri (Eq. 3), at `size`; `attention` is A_norm at the scale of the tokens."""
    full = nn.functional.interpolate(attention.float(), size, mode="bilinear", align_corners=False)
    m_pri = prior(statements, bounding_box(full), size, frame)
    directed = torch.tensor([bool(directed_zones(s)) for s in statements], device=full.device)
    return Guidance(full, m_pri, full * m_pri, directed)


@torch.no_grad()
def refined(logits: Logits, guide: Mask, beta: float) -> Mask:
    """P_refined = (1 - beta) P_pred + beta M_guide, in [0, 1] and without gradient."""
    return ((1 - beta) * torch.sigmoid(logits.float()) + beta * guide).clamp(0, 1)


def guide_loss(
    logits: Logits, target: Mask, found: Guidance, dead_zone: tuple[float, float] | None
) -> Float[Tensor, ""]:
    """L_guide = BCE(P_pred, P_refined) (Eq. 4), over the images whose prompt names a place; exactly 0 without one.

    Args:
        logits: of P_pred.
        target: P_refined.
        found: of `guidance`.
        dead_zone: pixels with M_guide strictly between these two values are ambiguous and are left out.
    """
    counted = found.directed[:, None, None, None]
    if dead_zone is not None:
        counted = counted & ((found.guide <= dead_zone[0]) | (found.guide >= dead_zone[1]))
    counted = counted.expand_as(target).float()

    x = logits.float()
    each = nn.functional.softplus(x) - target * x  # BCE of a logit
    total: Tensor = torch.linalg.vecdot(each.flatten(), counted.flatten())
    return counted_mean(total, counted.sum())
