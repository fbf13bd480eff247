"""The one place where an interval or a paired difference of a result is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

from textmask.evaluation.records import Value
from textmask.evaluation.scores import ImageScores
from textmask.evaluation.summary import Difference
from textmask.metrics.overlap import Bools, Counts, Floats, Kind
from textmask.metrics.resampling import Resampling
from textmask.metrics.statistics import (
    Interval,
    bootstrap_ci,
    bootstrap_pooled,
    holm,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)


@dataclass(frozen=True)
class Bootstrap:
    """Resamples whole groups (patients) of the same N images.

    Attributes:
        groups: N names; "" is a group of its own.
        n: resamples of an interval.
        seed: random seed of all resamples.
        permutations: relabellings behind a p value.
    """

    groups: Sequence[str]
    n: int = 2000
    seed: int = 0
    permutations: int = 10_000

    @cached_property
    def _resampling(self) -> Resampling:
        return Resampling(self.groups, self.n, self.seed)

    @cached_property
    def _relabelling(self) -> Resampling:
        # resamples and relabellings share the numbers of the groups
        codes = self._resampling._codes
        return Resampling(self.groups, self.permutations, self.seed, _codes=codes)

    @cached_property
    def _parts(self) -> dict[bytes, Bootstrap]:
        return {}

    def take(self, kept: Bools) -> Bootstrap:
        """The same for the images that are kept (N booleans); the same draws each time."""
        if len(kept) == len(self.groups) and kept.all():
            return self
        key = kept.tobytes()
        if key not in self._parts:
            names = [group for group, keep in zip(self.groups, kept, strict=True) if keep]
            self._parts[key] = replace(self, groups=names)
        return self._parts[key]

    def prepare(self, columns: Iterable[npt.NDArray[np.number]]) -> None:
        """Draw the resamples of many columns of N figures together, so that asking for each costs nothing."""
        if len(self.groups):
            self._resampling.prepare(chain([np.ones(len(self.groups))], columns))

    def prepare_comparisons(self, first: ImageScores, others: Sequence[ImageScores]) -> None:
        """Draw the relabellings of comparisons (`compare`) of one row with others together."""
        columns: list[npt.NDArray[np.number]] = []
        for other in others:
            if len(other.dice) == len(first.dice):
                a, b = first.counts, other.counts
                columns += [b.intersection - a.intersection, b.predicted - a.predicted]
                columns += [b.true - a.true, first.dice - other.dice]
        self._relabelling.prepare(columns, swapped=True)

    def mean(self, values: Floats) -> Value:
        """Mean of N figures."""
        return _value(bootstrap_ci(values, self._resampling))

    def pooled(self, counts: Counts | Sequence[Counts], kind: Kind) -> Value:
        """Pooled Dice or IoU; several counts (of seeds) give the mean of their pooled scores."""
        return _value(bootstrap_pooled(counts, self._resampling, kind))

    def difference(self, a: Floats, b: Floats) -> Value:
        """Mean of a - b, N figures each."""
        return _value(paired_difference(a, b, self._resampling))

    def pooled_difference(
        self, a: Counts | Sequence[Counts], b: Counts | Sequence[Counts], kind: Kind
    ) -> Value:
        """Pooled Dice or IoU of a minus that of b."""
        return _value(paired_difference_pooled(a, b, self._resampling, kind))

    def compare(self, arm: str, a: ImageScores, minus: str, b: ImageScores) -> Difference:
        """Difference of two rows on the same N images; p values are not corrected yet, see `corrected`.

        Raises:
            DataError: no image has a score in both, or the true masks differ.
        """
        kept = np.isfinite(a.dice) & np.isfinite(b.dice)
        paired = self.take(kept)
        x, y = a.dice[kept], b.dice[kept]
        return Difference(
            arm=arm,
            minus=minus,
            dice_per_image=paired.difference(x, y),
            dice_per_image_p=paired_permutation(x, y, paired._relabelling),
            dice_pooled=self.pooled_difference(a.counts, b.counts, "dice"),
            dice_pooled_p=paired_permutation_pooled(a.counts, b.counts, self._relabelling, "dice"),
        )


def corrected(family: Sequence[Difference]) -> tuple[Difference, ...]:
    """The differences of one family with p values after Holm, for each metric by itself."""
    per_image = holm([found.dice_per_image_p for found in family])
    pooled = holm([found.dice_pooled_p for found in family])
    return tuple(
        found.model_copy(update={"dice_per_image_p": p, "dice_pooled_p": q})
        for found, p, q in zip(family, per_image, pooled, strict=True)
    )


def _value(interval: Interval) -> Value:
    """As JSON has it: with a single group the ends are NaN, which becomes None."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return Value(estimate=interval.estimate)
    return Value(estimate=interval.estimate, low=interval.low, high=interval.high)
