"""HD95 and ASSD in pixels or millimetres from one fused pass, with a rule for empty masks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from textmask.compiled import compiled
from textmask.errors import DataError, choose
from textmask.metrics.overlap import Bools, Bytes, Floats, Ints, as_mask_pair
from textmask.progress import with_progress

Definition = Literal["pooled", "max_directed"]
OneEmpty = Literal["diagonal", "exclude"]
Unit = Literal["px", "mm"]
DEFINITIONS: tuple[Definition, ...] = ("pooled", "max_directed")
ONE_EMPTY: tuple[OneEmpty, ...] = ("diagonal", "exclude")

Int32s = npt.NDArray[np.int32]
# distance in a column without a surface; its square is still an exact float64
FAR = 1 << 28


@compiled
def _bounding_box(prediction: Bytes, truth: Bytes, columns: Bytes) -> tuple[int, int, int, int]:
    """First row, one past the last row, first column, one past the last column of the union (all 0 when empty)."""
    top, bottom = -1, 0
    columns[:] = 0

    # one pass over the rows finds the rows and marks the columns
    for r in range(prediction.shape[0]):
        seen, a, b = np.uint8(0), prediction[r], truth[r]
        for c in range(prediction.shape[1]):
            either = a[c] | b[c]
            columns[c] |= either
            seen |= either
        if seen:
            bottom = r + 1
            if top < 0:
                top = r
    if top < 0:
        return 0, 0, 0, 0

    left, right = 0, prediction.shape[1]
    while not columns[left]:
        left += 1
    while not columns[right - 1]:
        right -= 1
    return top, bottom, left, right


@compiled
def _edges(mask: Bytes, box: tuple[int, int, int, int], padded: Bytes, edge: Bytes) -> int:
    """Mark foreground with a background 4-neighbour (outside the image is background); 0 if there is none."""
    top, bottom, left, right = box
    h, w = bottom - top, right - left

    # a border of background, so that every pixel has four neighbors
    for r in range(h):
        source, inner = mask[top + r, left:right], padded[r + 1, 1 : w + 1]
        for c in range(w):
            inner[c] = source[c] != 0
        padded[r + 1, 0] = padded[r + 1, w + 1] = 0

    padded[0, : w + 2] = 0
    padded[h + 1, : w + 2] = 0

    marked = np.uint8(0)
    for r in range(h):
        above, here, below, line = padded[r, 1:], padded[r + 1], padded[r + 2, 1:], edge[r]
        for c in range(w):
            line[c] = here[c + 1] & ~(above[c] & below[c] & here[c] & here[c + 2])
            marked |= line[c]
    return int(marked)


@compiled
def _row_gaps(edge: Bytes, h: int, w: int, gap: Int32s) -> None:
    """Rows from each pixel to the nearest surface pixel of its own column."""
    for c in range(w):
        gap[0, c] = 0 if edge[0, c] else FAR

    # down, then up
    for r in range(1, h):
        line, above, here = edge[r], gap[r - 1], gap[r]
        for c in range(w):
            here[c] = np.int32(0) if line[c] else np.int32(above[c] + 1)
    for r in range(h - 1, 0, -1):
        here, above = gap[r], gap[r - 1]
        for c in range(w):
            above[c] = min(above[c], np.int32(here[c] + 1))


@compiled
def _directed(
    edge: Bytes,
    gap: Int32s,
    h: int,
    w: int,
    steps: tuple[float, float],
    where: Int32s,
    out: Floats,
    start: int,
) -> int:
    """Append the squared distance of every surface pixel to the other surface; return the new end of `out`.

    The nearest point is in some column k to the side, `gap` rows away; columns that are farther away than the best
    distance so far cannot be nearer, so the search of a row stops early.
    """
    dy, dx = steps
    end = start
    for r in range(h):
        found = 0
        # without a branch: a place is overwritten until a surface pixel keeps it
        for c in range(w):
            where[found] = c
            found += edge[r, c]

        # search to both sides until no column can be nearer
        for i in range(found):
            c = where[i]
            rise = gap[r, c] * dy
            best = rise * rise
            k = 1
            run = dx * dx
            while run < best:
                near = FAR
                if c >= k:
                    near = gap[r, c - k]
                if c + k < w:
                    near = min(near, gap[r, c + k])
                elif c < k:
                    break
                rise = near * dy
                best = min(best, run + rise * rise)
                k += 1
                run = (k * dx) * (k * dx)
            out[end] = best
            end += 1
    return end


@compiled
def _nth(values: Floats, low: int, high: int, n: int) -> None:
    """Reorder values[low..high] so that place n has the value that sorting would put there (Hoare's quickselect)."""
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1

        # continue in the part that contains place n
        if n <= j:
            high = j
        elif n >= i:
            low = i
        else:
            return


@compiled
def _percentile95(values: Floats, start: int, end: int) -> float:
    """95th percentile of the roots of values[start:end], linear between ranks as numpy; reorders them."""
    place = 0.95 * (end - start - 1)
    n = start + int(place)
    _nth(values, start, end - 1, n)
    if n + 1 == end:
        return math.sqrt(values[n])

    # the next larger value is the smallest of those after place n
    above = values[n + 1]
    for i in range(n + 2, end):
        above = min(above, values[i])
    below = math.sqrt(values[n])
    return below + (math.sqrt(above) - below) * (place - int(place))


@compiled
def _mean_root(values: Floats, start: int, end: int) -> float:
    """Mean of the roots of values[start:end]."""
    total = 0.0
    for i in range(start, end):
        total += math.sqrt(values[i])
    return total / (end - start)


class _Scratch:
    """Memory for one image size, reused from pair to pair."""

    def __init__(self, height: int, width: int) -> None:
        self.columns = np.zeros(width, np.uint8)
        self.padded = np.zeros((height + 2, width + 2), np.uint8)
        self.edges = np.zeros((2, height, width), np.uint8)
        self.gaps = np.zeros((height, width), np.int32)
        self.where = np.zeros(width + 1, np.int32)
        self.squared = np.zeros(2 * height * width)


def _pair_distances(
    prediction: Bytes, truth: Bytes, steps: tuple[float, float], memory: _Scratch
) -> tuple[float, float, float, int]:
    """HD95 pooled, HD95 max_directed, ASSD and the number of empty masks of one pair.

    Plain Python on purpose: a compiled function around these calls would double the compile time and is not faster.
    """
    box = _bounding_box(prediction, truth, memory.columns)
    h, w = box[1] - box[0], box[3] - box[2]
    if h == 0:
        return 0.0, 0.0, 0.0, 2

    # the surfaces of both masks
    (edge_p, edge_t), gaps, where, squared = memory.edges, memory.gaps, memory.where, memory.squared
    predicted = _edges(prediction, box, memory.padded, edge_p)
    true = _edges(truth, box, memory.padded, edge_t)
    if not (predicted and true):
        return 0.0, 0.0, 0.0, 1

    # squared distances of each surface to the other, one after the other in `squared`
    _row_gaps(edge_t, h, w, gaps)
    middle = _directed(edge_p, gaps, h, w, steps, where, squared, 0)
    _row_gaps(edge_p, h, w, gaps)
    end = _directed(edge_t, gaps, h, w, steps, where, squared, middle)

    assd = 0.5 * (_mean_root(squared, 0, middle) + _mean_root(squared, middle, end))
    directed = max(_percentile95(squared, 0, middle), _percentile95(squared, middle, end))
    return _percentile95(squared, 0, end), directed, assd, 0


@dataclass(frozen=True)
class SurfaceResult:
    """Surface distances of N images.

    Attributes:
        hd95_pooled: N, 95th percentile of both directed distance sets together (C2Seg A.5).
        hd95_max_directed: N, the larger of the two directed 95th percentiles (MONAI); never below the pooled value.
        assd: N, mean of the two directed means.
        empty_masks: N, number of empty masks: 0, 1 or 2. Two score 0, one follows `one_empty`.
        definition: which HD95 `hd95` returns; report it with every figure.
        one_empty: `diagonal` or `exclude`; excluded images have NaN and are counted in `n_excluded`.
        unit: `px` or `mm`.
    """

    hd95_pooled: Floats
    hd95_max_directed: Floats
    assd: Floats
    empty_masks: Ints
    definition: Definition
    one_empty: OneEmpty
    unit: Unit

    def __len__(self) -> int:
        """Number of images N, excluded ones too."""
        return len(self.assd)

    @property
    def kept(self) -> Bools:
        """N, False at excluded images."""
        kept: Bools = (self.empty_masks != 1) | (self.one_empty == "diagonal")
        return kept

    @property
    def n_both_empty(self) -> int:
        """Images whose two masks are empty."""
        return int((self.empty_masks == 2).sum())

    @property
    def n_one_empty(self) -> int:
        """Images with exactly one empty mask."""
        return int((self.empty_masks == 1).sum())

    @property
    def n_excluded(self) -> int:
        """Images left out of the means."""
        return int((~self.kept).sum())

    @property
    def hd95(self) -> Floats:
        """N, HD95 under `definition`."""
        return self.hd95_pooled if self.definition == "pooled" else self.hd95_max_directed

    @property
    def hd95_mean(self) -> float:
        """Mean of `hd95` over the images kept; NaN if none is."""
        return float(self.hd95[self.kept].mean()) if self.kept.any() else float("nan")

    @property
    def assd_mean(self) -> float:
        """Mean of `assd` over the images kept; NaN if none is."""
        return float(self.assd[self.kept].mean()) if self.kept.any() else float("nan")

    @classmethod
    def concatenate(cls, parts: Iterable[SurfaceResult]) -> SurfaceResult:
        """Join the results of several batches.

        Raises:
            DataError: there are none, or they were measured in different ways.
        """
        listed = list(parts)
        rules = {(part.definition, part.one_empty, part.unit) for part in listed}
        if len(rules) != 1:
            raise DataError(
                f"results to join: got {sorted(rules)}, expected one definition, empty rule and unit."
            )

        definition, one_empty, unit = rules.pop()

        def column(name: str) -> npt.NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in listed])

        hd95 = column("hd95_pooled"), column("hd95_max_directed")
        return cls(*hd95, column("assd"), column("empty_masks"), definition, one_empty, unit)


def _pixel_steps(spacing_mm: tuple[float, float] | None) -> tuple[float, float]:
    if spacing_mm is None:
        return 1.0, 1.0
    if len(spacing_mm) != 2 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise DataError(
            f"spacing_mm: got {spacing_mm}, expected (row, column) millimetres, both above 0."
        )
    return float(spacing_mm[0]), float(spacing_mm[1])


def surface_distances(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing_mm: tuple[float, float] | None = None,
    definition: Definition = "pooled",
    one_empty: OneEmpty = "diagonal",
) -> SurfaceResult:
    """HD95 in both definitions and ASSD of N pairs of masks.

    The surface is the mask minus its 4-connected erosion; outside the image is background. Source: C2Seg A.5.

    Args:
        prediction: N H W (or N 1 H W), bool or integer; not 0 means foreground.
        truth: the same.
        spacing_mm: millimetres between rows and between columns; None measures in pixels.
        definition: `pooled` (the paper) or `max_directed` (MONAI); their means differ by several pixels.
        one_empty: score of an image with exactly one empty mask: the image `diagonal`, so that an empty prediction is
            never an advantage, or `exclude`.

    Raises:
        ConfigError: unknown definition or rule.
        DataError: invalid masks or spacing.
    """
    choose("HD95 definition", definition, DEFINITIONS)
    choose("one_empty rule", one_empty, ONE_EMPTY)
    a, b = as_mask_pair(prediction, truth)

    steps = dy, dx = _pixel_steps(spacing_mm)
    memory = _Scratch(a.shape[1], a.shape[2])
    # one pair is part of a loop that shows its own progress
    pairs = list(zip(a, b, strict=True))
    shown = with_progress(pairs, "distances") if len(pairs) > 1 else pairs
    rows = [_pair_distances(one, other, steps, memory) for one, other in shown]

    # the fourth column is the number of empty masks
    out = np.array(rows, np.float64).reshape(-1, 4)
    missing = math.nan if one_empty == "exclude" else math.hypot(a.shape[1] * dy, a.shape[2] * dx)
    out[out[:, 3] == 1, :3] = missing

    unit: Unit = "px" if spacing_mm is None else "mm"
    return SurfaceResult(
        out[:, 0], out[:, 1], out[:, 2], out[:, 3].astype(np.int64), definition, one_empty, unit
    )
