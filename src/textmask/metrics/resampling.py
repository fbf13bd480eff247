"""Resamples and relabellings of groups (patients), drawn once for all columns of figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from textmask.errors import DataError
from textmask.metrics.overlap import Floats, Ints

Groups = Sequence[str] | None
Columns = npt.NDArray[np.number]
Draw = Callable[[Floats, int, int], Floats]
CHUNK = 1 << 21  # drawn numbers in memory at a time, 16 MB
WEIGHTS = 1 << 23  # times a group is in a resample, in memory at a time, 64 MB
TOGETHER = 32  # columns that are summed in one pass


@dataclass(frozen=True)
class Resampling:
    """Draws of the same groups for any number of columns; the sums of a column are remembered.

    All columns see the same draws, those that each would see alone. Columns that are announced (`prepare`) share the
    passes in which they are drawn.

    Attributes:
        groups: N names; each "" is a group of its own; None makes every image its own group.
        n: number of resamples, or of relabellings.
        seed: random seed.
    """

    groups: Groups
    n: int
    seed: int
    _known: dict[tuple[Draw, bytes], Floats] = field(default_factory=dict, compare=False)
    _codes: dict[int, tuple[Ints, int]] = field(default_factory=dict, compare=False)

    def codes(self, images: int) -> tuple[Ints, int]:
        """N group numbers, and the number of groups.

        Raises:
            DataError: there are not as many names as images.
        """
        if images not in self._codes:
            self._codes[images] = _group_codes(self.groups, images)
        return self._codes[images]

    def group_sums(self, columns: Columns) -> Floats:
        """G K, the sum of each of K columns in each group."""
        codes, n_groups = self.codes(len(columns))
        return np.stack([np.bincount(codes, column, n_groups) for column in columns.T], axis=1)

    def prepare(self, columns: Iterable[Columns], swapped: bool = False) -> None:
        """Draw columns (N figures each) that will be asked for, in one pass for each 32 of them.

        Args:
            columns: N figures each.
            swapped: they will be asked for by `swapped`, not by `resampled`.
        """
        draw = _swapped_sums if swapped else _resampled_sums
        waiting: list[Columns] = []
        for column in columns:
            waiting.append(column)
            if len(waiting) == TOGETHER:
                self._drawn(draw, self.group_sums(np.stack(waiting, axis=1)))
                waiting = []
        if waiting:
            self._drawn(draw, self.group_sums(np.stack(waiting, axis=1)))

    def resampled(self, columns: Columns) -> Floats:
        """Sums n K of K columns over G groups drawn with replacement, n times."""
        return self._drawn(_resampled_sums, self.group_sums(columns))

    def swapped(self, columns: Columns) -> tuple[Floats, bool]:
        """Sums R K of K columns over the groups that swap their two models, one row per relabelling.

        All 2^G relabellings if these are at most n (then True), otherwise n random ones.
        """
        sums = self.group_sums(columns)
        if len(sums) < 63 and 1 << len(sums) <= self.n:
            swaps = np.arange(1 << len(sums))[:, None] >> np.arange(len(sums)) & 1
            return swaps @ sums, True
        return self._drawn(_swapped_sums, sums), False

    def _drawn(self, draw: Draw, sums: Floats) -> Floats:
        """What was drawn of columns G K; those that are not known yet are drawn together."""
        keys = [(draw, xxhash.xxh3_128_digest(column.tobytes())) for column in sums.T]
        new = {key: k for k, key in enumerate(keys) if key not in self._known}
        if new:
            drawn = draw(sums[:, list(new.values())], self.n, self.seed)
            self._known.update({key: drawn[:, k] for k, key in enumerate(new)})
        return np.stack([self._known[key] for key in keys], axis=1)


def as_resampling(groups: Groups | Resampling, n: int, seed: int) -> Resampling:
    """The draws themselves, or new ones for the names of groups."""
    return groups if isinstance(groups, Resampling) else Resampling(groups, n, seed)


def _group_codes(groups: Groups, n: int) -> tuple[Ints, int]:
    """N group numbers, and the number of groups; each name "" is a group of its own."""
    if groups is None:
        return np.arange(n), n
    if len(groups) != n:
        raise DataError(
            f"groups: got {len(groups)} names, expected one for each of the {n} images."
        )

    numbers: dict[str | int, int] = {}
    codes = np.empty(n, np.int64)
    for i, name in enumerate(groups):
        key = name if name != "" else i
        codes[i] = numbers.setdefault(key, len(numbers))
    return codes, len(numbers)


def _resampled_sums(sums: Floats, n: int, seed: int) -> Floats:
    """Column sums (n K) over G groups drawn with replacement, n times."""
    rng = np.random.default_rng(seed)
    n_groups = len(sums)

    # how often each group is drawn serves all columns; in chunks, to bound the memory
    out = np.empty((n, sums.shape[1]))
    rows, step = max(1, WEIGHTS // n_groups), max(1, CHUNK // n_groups)
    for start in range(0, n, rows):
        weights = np.empty((min(rows, n - start), n_groups))
        for first in range(0, len(weights), step):
            part = weights[first : first + step]
            drawn = rng.integers(0, n_groups, part.shape)
            drawn += np.arange(len(part))[:, None] * n_groups
            part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
        out[start : start + len(weights)] = weights @ sums
    return out


def _swapped_sums(sums: Floats, n: int, seed: int) -> Floats:
    """Column sums (n K) over the groups that swap, in n random relabellings."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // len(sums))  # bounds the memory
    parts: list[Floats] = []
    for start in range(0, n, step):
        swaps = rng.integers(0, 2, (min(step, n - start), len(sums)), dtype=np.uint8)
        parts.append(swaps @ sums)
    return np.concatenate(parts)
