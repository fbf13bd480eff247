"""Composite directional guidance, CDG (Eq. 3-4): the places that the prompt names, within the model's attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from textmask.processes import counted_mean
from textmask.statement import Level, Side, Statement, Zone
from textmask.text.zones import ZONE_MAPS, Band, ZoneMap, image_zones, zone_map
from textmask.types import Logits, Mask, send

Frame = Literal["image", "box"]
BoxName = Literal["tight", "soft"]
Refinement = Literal["mix", "product", "renormalised"]
Box = Float[Tensor, "b 4"]  # top, bottom, left, right, as shares of the image
# "upper" and "lower" of a lung are not places in an axial slice: only the side guides there
ANYWHERE = Band(0.5, 100.0, 0.0, 1.0)
AXIAL = replace(ZONE_MAPS["halves"], name="axial", levels=dict.fromkeys(Level, ANYWHERE))


class Guidance(NamedTuple):
    """Result of CDG, all B 1 H W in [0, 1]; `directed` (B) is False if the prompt names no place."""

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


def prior_map(statement: Statement) -> ZoneMap:
    """Where the Gaussians of a prompt lie: measured on radiographs for radiographs, by side alone for axial CT."""
    return AXIAL if statement.grammar == "mosmed" else zone_map(statement)


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
    whole = send(torch.tensor([0.0, 1.0, 0.0, 1.0]), attention.device)
    usable = (passing >= share[0]) & (passing <= share[1])
    return torch.where(usable[:, None], torch.stack(box, dim=1), whole)


def soft_box(attention: Mask, level: float = 0.5, width: float = 0.1) -> Mask:
    """Rows and columns that reach `level`, with soft edges: the product of one profile per axis, B 1 H W in [0, 1].

    For `width` towards 0 it is 1 where both the row and the column hold a place above the level. Its gradient reaches
    the attention, that of `bounding_box` does not.
    """
    rows, columns = attention.amax(dim=3, keepdim=True), attention.amax(dim=2, keepdim=True)
    return torch.sigmoid((rows - level) / width) * torch.sigmoid((columns - level) / width)


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
        table = ZONE_MAPS["box"] if frame == "box" else prior_map(statement)
        level_bands.append([table.levels[level] for level in Level])
        side_bands.append([table.sides[side] for side in Side])
    levels = _band_weights(level_bands, size[0], box[:, :2], frame)
    sides = _band_weights(side_bands, size[1], box[:, 2:], frame)

    # a Gaussian is a product of its two axes; sides that no prompt names are skipped
    down = (send(named, device)[..., None] * levels[:, None]).amax(dim=2)  # B side H
    found = torch.zeros(len(statements), *size, device=device)
    for i in torch.nonzero(named.amax(dim=(0, 2)))[:, 0].tolist():
        torch.maximum(found, down[:, i, :, None] * sides[:, i, None], out=found)
    nothing_named = ~named.flatten(1).any(dim=1)
    found.masked_fill_(send(nothing_named, device)[:, None, None], 1.0)
    return found[:, None]


def _band_weights(
    bands: list[list[Band]], n: int, span: Float[Tensor, "b 2"], frame: Frame
) -> Float[Tensor, "b 3 n"]:
    """Three Gaussians along one axis, 0 outside `span` (two shares), in which frame `box` measures its shares."""
    values = [[(band.centre, band.sigma) for band in row] for row in bands]
    numbers = send(torch.tensor(values), span.device)
    center, sigma = numbers[..., :1], numbers[..., 1:]

    place = ((torch.arange(n, device=span.device) + 0.5) / n)[None]
    low, high = span[:, :1], span[:, 1:]
    inside = (place > low) & (place < high)
    if frame == "box":
        place = (place - low) / (high - low)
    return torch.exp(-0.5 * ((place[:, None] - center) / sigma) ** 2) * inside[:, None]


def guidance(
    attention: Float[Tensor, "b 1 h w"],
    statements: Sequence[Statement],
    size: tuple[int, int],
    frame: Frame,
    box: BoxName = "tight",
) -> Guidance:
    """M_guide = A_norm * M_pri (Eq. 3), at `size`; differentiable in `attention`, A_norm at the scale of the tokens.

    Args:
        attention: A_norm.
        statements: B parsed sentences.
        size: rows and columns of the result.
        frame: of the Gaussians, see `prior`.
        box: `tight` cuts the prior off outside `bounding_box` (no gradient); `soft` fades it by `soft_box`.
    """
    full = nn.functional.interpolate(attention.float(), size, mode="bilinear", align_corners=False)
    found = bounding_box(full.detach())
    if box == "soft":
        if frame == "image":
            found = send(torch.tensor([0.0, 1.0, 0.0, 1.0]), found.device).expand_as(found)
        m_pri = prior(statements, found, size, frame) * soft_box(full)
    else:
        m_pri = prior(statements, found, size, frame)
    directed = send(torch.tensor([bool(directed_zones(s)) for s in statements]), full.device)
    return Guidance(full, m_pri, full * m_pri, directed)


def refined(logits: Logits, guide: Mask, beta: float, refine: Refinement = "mix") -> Mask:
    """P_refined, in [0, 1]: (1 - beta) P_pred + beta F, where F fuses P_pred and M_guide. No gradient through P_pred.

    Args:
        logits: of P_pred.
        guide: M_guide; its gradient, if it has one, is kept.
        beta: share of F.
        refine: what F is. `mix`: M_guide itself, which is below P_pred in most of a lesion. `product`: their product,
            which only takes away. `renormalised`: that product scaled to the area that P_pred has in its image, which
            moves the mask to the named places without shrinking it.
    """
    p = torch.sigmoid(logits.detach().float())
    fused = guide
    if refine != "mix":
        fused = p * guide
    if refine == "renormalised":
        axes = (1, 2, 3)
        area = p.sum(axes, keepdim=True) / fused.sum(axes, keepdim=True).clamp(min=1e-6)
        fused = fused * area
    return ((1 - beta) * p + beta * fused).clamp(0, 1)


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
    counted = _trained_pixels(found, dead_zone).expand_as(target).float()

    x = logits.float()
    each = nn.functional.softplus(x) - target * x  # BCE of a logit
    # autocast would make this sum one of bf16 or fp16, and over a batch of pixels fp16 is infinite
    with torch.autocast(x.device.type, enabled=False):
        total: Tensor = torch.linalg.vecdot(each.flatten(), counted.flatten())
    return counted_mean(total, counted.sum())


@torch.no_grad()
def guide_monitors(
    logits: Logits,
    target: Mask,
    mask: Mask,
    found: Guidance,
    dead_zone: tuple[float, float] | None,
) -> dict[str, Tensor]:
    """`guide_shift`, the mean of P_refined - P_pred, and what the guide does to the true lesions, in shares of pixels.

    `lesion_lower` of the pixels are trained towards less than the prediction, `lesion_left_out` lie in the dead zone or
    have a prompt without a place. Both are 0 in a batch without lesions.
    """
    p = torch.sigmoid(logits.float())
    lesion = mask > 0.5
    pixels = lesion.sum().clamp(min=1)
    counted = _trained_pixels(found, dead_zone).expand_as(lesion)
    return {
        "guide_shift": (target - p).mean(),
        "lesion_lower": (lesion & counted & (target < p)).sum() / pixels,
        "lesion_left_out": (lesion & ~counted).sum() / pixels,
    }


def _trained_pixels(
    found: Guidance, dead_zone: tuple[float, float] | None
) -> Bool[Tensor, "b 1 _h _w"]:
    """The pixels that are trained on: those of prompts that name a place, outside the dead zone."""
    counted = found.directed[:, None, None, None]
    if dead_zone is None:
        return counted
    return counted & ((found.guide <= dead_zone[0]) | (found.guide >= dead_zone[1]))
