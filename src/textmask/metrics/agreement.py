"""Agreement of masks with their prompts: side, level, zone, laterality, count and absence, each as an F1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from textmask.errors import DataError, choose
from textmask.metrics.overlap import Bools, Counts, Ints, as_masks
from textmask.statement import ZONES, Laterality, Side, Statement
from textmask.text.zones import ZONE_MAPS, Band, ZoneMap, image_zones, zone_map

ASPECTS = ("side", "level", "zone", "lateral", "count", "absence")
SUBSETS = ("all", "one_sided")
# share of a mask's area; smaller pieces are specks, which have no count and no place
PIECE = 0.02
BLOCK = 256  # masks that are summed together


@dataclass(frozen=True)
class Shown:
    """Zones, number of pieces and emptiness of N masks.

    Attributes:
        zones: N 3 3, True if side x level contains lesion.
        pieces: N, number of connected pieces of at least 2 % of the mask's area.
        empty: N, True for masks without a pixel.
    """

    zones: Bools
    pieces: Ints
    empty: Bools


def shown(masks: npt.ArrayLike, statements: Sequence[Statement], table: str | None = None) -> Shown:
    """Read N masks with the zone maps of their prompts.

    Args:
        masks: N H W; not 0 means foreground.
        statements: N; only their grammar is used, to choose the zone map.
        table: a key of `ZONE_MAPS` to use for all masks instead.

    Raises:
        DataError: the numbers of statements and masks differ.
    """
    array = as_masks(masks)
    if len(array) != len(statements):
        raise DataError(
            f"got {len(array)} masks and {len(statements)} statements; expected one statement per mask."
        )
    if table is not None:
        choose("zone map", table, list(ZONE_MAPS))
    names = [table or zone_map(statement).name for statement in statements]
    zones = np.zeros((len(array), 3, 3), np.bool_)
    pieces = np.zeros(len(array), np.int64)

    # all masks of one zone map at once; some maps go by the centers of pieces instead of by area
    for name in dict.fromkeys(names):
        chosen = np.flatnonzero([other == name for other in names])
        for begin in range(0, len(chosen), BLOCK):  # bounds the memory
            part = chosen[begin : begin + BLOCK]
            zones[part] = _by_share(array[part], ZONE_MAPS[name])
    for i, (mask, name) in enumerate(zip(array, names, strict=True)):
        centres = _pieces(mask)
        pieces[i] = len(centres)
        if ZONE_MAPS[name].told_by == "centroid":
            zones[i] = _by_centroid(centres, ZONE_MAPS[name])
    return Shown(zones, pieces, np.asarray(~array.any(axis=(1, 2)), np.bool_))


def share_in_zones(mask: npt.NDArray[np.bool_], statement: Statement) -> float | None:
    """Share of a mask H W that lies in the zones that a prompt names; None without a zone or without a mask.

    The bands of neighboring zones overlap, and the outer ones reach to the edge of the image: a mask is only counted as
    elsewhere if no reader would call its place by this name.
    """
    zones = image_zones(statement)
    if not zones or not mask.any():
        return None
    table = zone_map(statement)
    named = np.zeros(mask.shape, np.bool_)
    for side, level in zones:
        columns = _within(table.sides[side], table.sides.values(), mask.shape[1])
        rows = _within(table.levels[level], table.levels.values(), mask.shape[0])
        named |= rows[:, None] & columns[None]
    return float(mask[named].sum() / mask.sum())


def _within(band: Band, bands: Iterable[Band], n: int) -> npt.NDArray[np.bool_]:
    """Which of n pixels lie in a band; the first and the last of the bands reach to the edges."""
    others = list(bands)
    low = 0.0 if band.low <= min(one.low for one in others) else band.low
    high = 1.0 if band.high >= max(one.high for one in others) else band.high
    at = (np.arange(n) + 0.5) / n
    found: npt.NDArray[np.bool_] = (at >= low) & (at <= high)
    return found


def _by_share(masks: npt.NDArray[np.uint8], table: ZoneMap) -> Bools:
    """N 3 3 by area: sides with enough of the mask, and on each the levels with enough of the side."""
    rows, columns = masks.shape[1:]
    by_side = _summed(masks > 0, table.side_cuts, columns, 2)
    area = _summed(by_side, table.level_cuts, rows, 1).transpose(0, 2, 1)
    side = area.sum(axis=2)
    enough = (side > 0) & (side >= table.side_share * side.sum(axis=1, keepdims=True))
    found: Bools = enough[:, :, None] & (area > 0) & (area >= table.level_share * side[:, :, None])
    return found


def _summed(values: npt.NDArray[np.generic], cuts: tuple[float, float], n: int, axis: int) -> Ints:
    """Sums of the three stretches between the cuts along an axis; pixel i lies at (i + 0.5) / n."""
    edges = [0, *(int(np.ceil(cut * n - 0.5)) for cut in cuts), n]
    parts = [
        values.take(range(a, b), axis=axis).sum(axis=axis, dtype=np.int64)
        for a, b in pairwise(edges)
    ]
    return np.stack(parts, axis=axis)


def _pieces(mask: npt.NDArray[np.uint8]) -> list[tuple[float, float]]:
    """Centroids (row, column, as shares of the image) of the pieces that are not specks."""
    if not mask.any():
        return []
    _, _, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    rows, columns = mask.shape
    kept = centroids[1:][areas >= PIECE * areas.sum()]
    return [((y + 0.5) / rows, (x + 0.5) / columns) for x, y in kept]


def _by_centroid(centres: list[tuple[float, float]], table: ZoneMap) -> Bools:
    """3 3: the zones in which a piece has its center."""
    found = np.zeros((3, 3), np.bool_)
    for y, x in centres:
        side = np.searchsorted(table.side_cuts, x, "right")
        level = np.searchsorted(table.level_cuts, y, "right")
        found[side, level] = True
    return found


def agreement(found: Shown, statements: Sequence[Statement]) -> dict[str, Counts]:
    """Counts per image and aspect: claimed and shown, shown, claimed.

    `Counts` (intersection = true positives, predicted = shown, true = claimed) make F1 the same as `dice_pooled`, with
    its intervals and paired differences. Images whose prompt makes no claim about an aspect do not count for it.

    Aspects: `side` and `level` over the three of each, `zone` over all nine, `lateral` for "bilateral", `count` for
    the number of pieces (the smaller of the two numbers agrees), `absence` for an empty mask. Sides are those of
    the image (`image_zones`); with an unknown laterality convention, side, zone and lateral make no claim.

    Raises:
        DataError: the numbers of statements and masks differ.
    """
    n = len(found.zones)
    if n != len(statements):
        raise DataError(
            f"got {n} masks and {len(statements)} statements; expected one statement per mask."
        )

    # what each prompt claims
    claimed = np.zeros((n, 9), np.bool_)
    placed, known, absent = (np.zeros(n, np.bool_) for _ in range(3))
    numbers = np.zeros(n, np.int64)
    for i, statement in enumerate(statements):
        zones = image_zones(statement)
        claimed[i] = [zone in zones for zone in ZONES]
        placed[i] = statement.has_location
        known[i] = statement.laterality is not Laterality.UNKNOWN
        numbers[i] = statement.count or 0
        absent[i] = statement.absent

    seen, sided = found.zones.reshape(n, 9), placed & known
    pieces = np.where(numbers > 0, found.pieces, 0)
    return {
        "side": _flag_counts(_any(seen, 2), _any(claimed, 2), sided),
        "level": _flag_counts(_any(seen, 1), _any(claimed, 1), placed),
        "zone": _flag_counts(seen, claimed, sided),
        "lateral": _flag_counts(_both_sides(seen), _both_sides(claimed), sided),
        "count": Counts(np.minimum(pieces, numbers), pieces, numbers),
        "absence": _flag_counts(found.empty[:, None], absent[:, None], placed | absent),
    }


def _any(zones: Bools, axis: int) -> Bools:
    """N 9 -> N 3: over the levels of each side (axis 2) or the sides of each level (axis 1)."""
    return np.asarray(zones.reshape(-1, 3, 3).any(axis=axis), np.bool_)


def _both_sides(zones: Bools) -> Bools:
    """N 9 -> N 1: True if both left and right are present."""
    return np.asarray(_any(zones, 2)[:, [0, 2]].all(axis=1, keepdims=True), np.bool_)


def _flag_counts(seen: Bools, claimed: Bools, counted: Bools) -> Counts:
    """N K flags to counts; images with `counted` False contribute nothing."""
    seen, claimed = seen & counted[:, None], claimed & counted[:, None]
    return Counts((seen & claimed).sum(axis=1), seen.sum(axis=1), claimed.sum(axis=1))


def one_sided(statements: Sequence[Statement]) -> Bools:
    """N, True if a prompt names only the left or only the right, so that a mask can be on the wrong side."""
    return np.array([s.sides in ({Side.LEFT}, {Side.RIGHT}) for s in statements], bool)


def location(counts: dict[str, Counts]) -> Counts:
    """The summary score: F1 over sides and levels together, since a place has both."""
    side, level = counts["side"], counts["level"]
    return Counts(
        side.intersection + level.intersection,
        side.predicted + level.predicted,
        side.true + level.true,
    )
