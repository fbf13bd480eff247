"""Bootstrap intervals that resample whole patients, paired tests of two models, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from textmask.errors import ConfigError, DataError
from textmask.metrics.overlap import Counts, Floats, Ints, Kind, pooled
from textmask.metrics.resampling import Groups, Resampling, as_resampling

Statistic = Literal["mean"] | Callable[[Floats], float]
_OTHER_IMAGES = "paired comparison: {} and {} images, whose truth must be the same in order."


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile bootstrap interval.

    Attributes:
        estimate: value on the data.
        low, high: ends of the interval; NaN with a single group, from which no spread can be estimated.
        n, n_groups: images and independent groups (patients).
        level: nominal coverage.
    """

    estimate: float
    low: float
    high: float
    n: int
    n_groups: int
    level: float = 0.95

    def excludes(self, value: float) -> bool:
        """Whether `value` is outside the interval; never with a single group."""
        return value < self.low or value > self.high


def _finite(values: npt.ArrayLike, what: str) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise DataError(
            f"{what}: got shape {array.shape}, expected one figure for each of at least 1 image."
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise DataError(
            f"{what}: {bad} of {len(array)} figures are not finite; select the images kept first."
        )
    return array


def _check_resampling(n: int, level: float) -> None:
    if n < 1 or not 0 < level < 1:
        raise ConfigError(
            f"got n={n}, level={level}; expected n of at least 1 and a level between 0 and 1."
        )


def _interval(estimate: float, replicates: Floats, level: float, n: int, n_groups: int) -> Interval:
    if n_groups < 2:
        return Interval(estimate, math.nan, math.nan, n, n_groups, level)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), n, n_groups, level)


def _any_replicates(
    values: Floats,
    codes: Ints,
    n_groups: int,
    statistic: Callable[[Floats], float],
    n: int,
    seed: int,
) -> Floats:
    """Any statistic of n resamples of whole groups, one after the other."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(np.bincount(codes, minlength=n_groups))
    members = np.split(np.argsort(codes, kind="stable"), ends[:-1])
    replicates = np.empty(n)
    for i in range(n):
        drawn = rng.integers(0, n_groups, n_groups)
        replicates[i] = statistic(values[np.concatenate([members[g] for g in drawn])])
    return replicates


def bootstrap_ci(
    values: npt.ArrayLike,
    groups: Groups | Resampling = None,
    statistic: Statistic = "mean",
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval; whole groups are resampled.

    Args:
        values: N finite scores, one per image.
        groups: N names (patients); each "" is a group of its own; None makes every image its own group; or draws that
            other columns share, which have their own `n` and `seed`.
        statistic: "mean" (vectorized) or a function of the resampled values, e.g. `np.median`.
        n: number of resamples.
        level: nominal coverage.
        seed: random seed; the same seed gives the same interval.

    Raises:
        DataError: no figures, NaN, or a different number of groups.
    """
    array = _finite(values, "values")
    _check_resampling(n, level)
    draws = as_resampling(groups, n, seed)
    codes, n_groups = draws.codes(len(array))

    # the mean of a resample needs only sums and sizes of its groups
    if statistic == "mean":
        sums = draws.resampled(np.stack([array, np.ones_like(array)], 1))
        return _interval(float(array.mean()), sums[:, 0] / sums[:, 1], level, len(array), n_groups)

    replicates = _any_replicates(array, codes, n_groups, statistic, draws.n, draws.seed)
    return _interval(float(statistic(array)), replicates, level, len(array), n_groups)


def _columns(counts: Counts) -> Ints:
    """N 3: intersection, predicted, true."""
    if not len(counts):
        raise DataError("counts: got 0 images, expected at least 1.")
    return np.stack([counts.intersection, counts.predicted, counts.true], axis=1)


def _all_columns(counts: Counts | Sequence[Counts]) -> Ints:
    """N 3S: the columns of S models next to each other."""
    models = [counts] if isinstance(counts, Counts) else list(counts)
    if not models:
        raise DataError("counts: got 0 models, expected at least 1.")
    for other in models[1:]:
        _same_images(models[0], other)
    return np.concatenate([_columns(model) for model in models], axis=1)


def _mean_pooled(kind: Kind, sums: npt.NDArray[np.number]) -> Floats:
    """Average over S models of their pooled scores, from sums ... 3S."""
    means: Floats = pooled(kind, sums.reshape(*sums.shape[:-1], -1, 3)).mean(-1)
    return means


def _same_images(a: Counts, b: Counts) -> None:
    if len(a) != len(b) or not np.array_equal(a.true, b.true):
        raise DataError(_OTHER_IMAGES.format(len(a), len(b)))


def bootstrap_pooled(
    counts: Counts | Sequence[Counts],
    groups: Groups | Resampling,
    kind: Kind,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the pooled Dice or IoU; each resample of groups has its own confusion matrix.

    Args:
        counts: counts of N images; several for the same images (a model trained with several seeds) give the average
            of their pooled scores, and each resample has the same groups for all of them.
        groups: N names, as in `bootstrap_ci`.
        kind: `dice` or `iou`.
        n: number of resamples.
        level: nominal coverage.
        seed: random seed.
    """
    columns = _all_columns(counts)
    _check_resampling(n, level)
    draws = as_resampling(groups, n, seed)
    sums, n_groups = draws.resampled(columns), draws.codes(len(columns))[1]
    estimate = float(_mean_pooled(kind, columns.sum(0)))
    return _interval(estimate, _mean_pooled(kind, sums), level, len(columns), n_groups)


def _paired_values(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    first, second = _finite(a, "first model"), _finite(b, "second model")
    if len(first) != len(second):
        raise DataError(
            f"paired comparison: got {len(first)} and {len(second)} figures, expected the same images."
        )
    return first - second


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: Groups | Resampling = None,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of a - b over the same images.

    Args:
        a: N scores of one model.
        b: N scores of the other, same images in the same order.
        groups: N names, as in `bootstrap_ci`.
        n: number of resamples.
        level: nominal coverage.
        seed: random seed.
    """
    return bootstrap_ci(_paired_values(a, b), groups, "mean", n, level, seed)


def paired_difference_pooled(
    a: Counts | Sequence[Counts],
    b: Counts | Sequence[Counts],
    groups: Groups | Resampling,
    kind: Kind,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of pooled Dice (or IoU) of a minus that of b, both on the same resampled groups.

    Args:
        a: counts of one model on N images, or of its several seeds as in `bootstrap_pooled`.
        b: the same of the other, same images in the same order.
        groups: N names, as in `bootstrap_ci`.
        kind: `dice` or `iou`.
        n: number of resamples.
        level: nominal coverage.
        seed: random seed.
    """
    first, second = _all_columns(a), _all_columns(b)
    if not np.array_equal(first[:, 2], second[:, 2]):
        raise DataError(_OTHER_IMAGES.format(len(first), len(second)))
    columns, split = np.concatenate([first, second], axis=1), first.shape[1]
    _check_resampling(n, level)
    draws = as_resampling(groups, n, seed)
    sums, n_groups = draws.resampled(columns), draws.codes(len(columns))[1]

    total = columns.sum(0)
    estimate = float(_mean_pooled(kind, total[:split]) - _mean_pooled(kind, total[split:]))
    replicates = _mean_pooled(kind, sums[:, :split]) - _mean_pooled(kind, sums[:, split:])
    return _interval(estimate, replicates, level, len(columns), n_groups)


def _p_value(observed: float, relabelled: Floats, exact: bool) -> float:
    """Two-sided share of relabellings at least as far from 0; random ones count the observed labelling as one more."""
    slack = 1e-12 * max(1.0, abs(observed))
    extreme = int((np.abs(relabelled) >= abs(observed) - slack).sum())
    return extreme / len(relabelled) if exact else (extreme + 1) / (len(relabelled) + 1)


def paired_permutation(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: Groups | Resampling = None,
    n: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p value of the mean of a - b; the two models are exchanged group by group.

    Args:
        a: N scores of one model.
        b: N scores of the other, same images in the same order.
        groups: N names, as in `bootstrap_ci`.
        n: number of relabellings; if all 2^G are at most n, all are used and the p value is exact.
        seed: random seed.
    """
    differences = _paired_values(a, b)
    _check_resampling(n, 0.5)
    draws = as_resampling(groups, n, seed)

    # exchanging a group turns the sign of its differences
    moved, exact = draws.swapped(differences[:, None])
    mean = float(differences.mean())
    return _p_value(mean, mean - 2 * moved[:, 0] / len(differences), exact)


def paired_permutation_pooled(
    a: Counts, b: Counts, groups: Groups | Resampling, kind: Kind, n: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p value of the difference of pooled Dice (or IoU); arguments as in `paired_difference_pooled`."""
    _same_images(a, b)
    _check_resampling(n, 0.5)
    draws = as_resampling(groups, n, seed)
    first, second = _columns(a), _columns(b)

    # exchanging a group moves its counts from one model to the other
    moved, exact = draws.swapped(second - first)
    relabelled = pooled(kind, first.sum(0) + moved) - pooled(kind, second.sum(0) - moved)
    observed = float(pooled(kind, first.sum(0)) - pooled(kind, second.sum(0)))
    return _p_value(observed, relabelled, exact)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given; reject values of at most alpha.

    Raises:
        DataError: a value is not in [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p_values: got {list(p_values)}, expected values from 0 to 1.")

    # the smallest p value is multiplied by the number of tests, the next by one less, and so on
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(x) for x in adjusted]
