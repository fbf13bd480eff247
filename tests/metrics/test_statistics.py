"""Intervals and paired tests against SciPy, enumeration and known distributions."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from textmask.errors import ConfigError, DataError
from textmask.metrics import resampling
from textmask.metrics.overlap import Counts, dice_pooled, iou_pooled
from textmask.metrics.statistics import (
    bootstrap_ci,
    bootstrap_pooled,
    holm,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)


def some_counts(n: int = 40, seed: int = 0, quality: float = 0.8) -> Counts:
    rng = np.random.default_rng(seed)
    true = np.random.default_rng(99).integers(20, 400, n)  # the same truth for every model
    inside = rng.binomial(true, quality)
    return Counts(inside, inside + rng.integers(0, 60, n), true)


def take(counts: Counts, index: np.ndarray) -> Counts:
    return Counts(counts.intersection[index], counts.predicted[index], counts.true[index])


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_equal_to_scipy_with_the_same_draws(level):
    values = np.random.default_rng(1).beta(5, 2, 80)
    want = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=2000,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    got = bootstrap_ci(values, level=level, seed=7)
    np.testing.assert_allclose([got.low, got.high], want, rtol=1e-12)
    assert (got.estimate, got.n, got.n_groups, got.level) == (
        pytest.approx(values.mean()),
        80,
        80,
        level,
    )


def test_a_callable_gives_what_the_vectorised_mean_gives():
    values = np.random.default_rng(2).normal(size=30)
    groups = [f"p{i // 3}" for i in range(30)]
    fast, slow = (
        bootstrap_ci(values, groups, seed=3, n=300),
        bootstrap_ci(values, groups, np.mean, seed=3, n=300),
    )
    np.testing.assert_allclose(
        [fast.estimate, fast.low, fast.high], [slow.estimate, slow.low, slow.high], rtol=1e-12
    )
    median = bootstrap_ci(values, groups, np.median, n=300)
    assert median.low <= median.estimate == np.median(values) <= median.high


def test_coverage_on_a_known_normal():
    rng = np.random.default_rng(4)
    hits = sum(
        not bootstrap_ci(rng.normal(0.7, 0.2, 60), n=400, seed=k).excludes(0.7) for k in range(400)
    )
    assert (
        0.90 <= hits / 400 <= 0.98
    )  # percentile intervals are a little short at n=60; sampling sd is 0.011


def test_cluster_coverage_where_images_of_a_patient_are_alike():
    rng = np.random.default_rng(5)
    groups = [f"p{i // 5}" for i in range(200)]
    clustered = naive = 0
    for k in range(200):
        values = np.repeat(rng.normal(0, 1, 40), 5) + rng.normal(0, 0.3, 200)
        clustered += not bootstrap_ci(values, groups, n=300, seed=k).excludes(0)
        naive += not bootstrap_ci(values, n=300, seed=k).excludes(0)
    assert clustered / 200 > 0.88
    assert naive / 200 < 0.75


def test_clusters_widen_the_interval():
    values = np.repeat(np.random.default_rng(6).normal(size=20), 4)
    alone, together = bootstrap_ci(values), bootstrap_ci(values, [f"p{i // 4}" for i in range(80)])
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert (together.n, together.n_groups) == (80, 20)


def test_an_empty_group_name_is_a_group_of_its_own():
    values = np.random.default_rng(7).normal(size=9)
    assert bootstrap_ci(values, [""] * 9) == bootstrap_ci(values)
    assert bootstrap_ci(values, ["a", "", "a", "", "b", "b", "", "", "b"]).n_groups == 6


def test_seed_decides_and_the_global_generator_is_left_alone():
    values = np.random.default_rng(8).normal(size=25)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert (
        bootstrap_ci(values, seed=1) == bootstrap_ci(values, seed=1) != bootstrap_ci(values, seed=2)
    )
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_drawing_in_chunks_changes_nothing(monkeypatch):
    values = np.random.default_rng(9).normal(size=25)
    whole, p = bootstrap_ci(values), paired_permutation(values, values * 0.5, n=999)
    monkeypatch.setattr(resampling, "CHUNK", 1000)
    monkeypatch.setattr(resampling, "WEIGHTS", 3000)
    assert bootstrap_ci(values) == whole
    assert paired_permutation(values, values * 0.5, n=999) == pytest.approx(p, abs=0.05)


def test_one_group_says_nothing_about_the_spread():
    interval = bootstrap_ci([0.5, 0.7], ["a", "a"])
    assert interval.estimate == pytest.approx(0.6)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.excludes(5.0)


@pytest.mark.parametrize("kind", ["dice", "iou"])
def test_pooled_interval_is_that_of_resampled_confusion_matrices(kind):
    counts, pool = some_counts(12), {"dice": dice_pooled, "iou": iou_pooled}[kind]
    groups = [f"p{i // 3}" for i in range(12)]
    got = bootstrap_pooled(counts, groups, kind, n=200, seed=11)
    drawn = np.random.default_rng(11).integers(0, 4, (200, 4))
    slow = [
        pool(take(counts, np.concatenate([np.arange(3 * g, 3 * g + 3) for g in row])))
        for row in drawn
    ]
    np.testing.assert_allclose([got.low, got.high], np.quantile(slow, [0.025, 0.975]), rtol=1e-12)
    assert got.estimate == pool(counts)


def test_pooled_with_resamples_that_are_wholly_empty():
    counts = Counts(*np.array([[0, 0, 5], [0, 0, 6], [0, 0, 8]]))
    interval = bootstrap_pooled(counts, None, "dice", n=500)
    assert interval.low == pytest.approx(10 / 14)
    assert interval.high == 1.0


def test_pairing_removes_what_the_images_share():
    rng = np.random.default_rng(12)
    hard = rng.normal(0.7, 0.2, 100)
    a, b = hard + 0.02 + rng.normal(0, 0.01, 100), hard + rng.normal(0, 0.01, 100)
    paired = paired_difference(a, b)
    assert paired.excludes(0)
    assert not paired.excludes(0.02)
    assert bootstrap_ci(a).low < b.mean()  # unpaired intervals overlap
    assert paired == bootstrap_ci(a - b)


def test_several_seeds_stand_for_the_average_of_their_pooled_scores():
    first, true = some_counts(10, 1), some_counts(10, 1).true
    seeds = [
        first,
        *(
            Counts(np.minimum(some_counts(10, k).intersection, true), true + k, true)
            for k in (2, 3)
        ),
    ]
    groups = list("aabbcdeeff")
    got = bootstrap_pooled(seeds, groups, "dice", n=200, seed=4)
    assert got.estimate == pytest.approx(np.mean([dice_pooled(one) for one in seeds]))

    def figure(images):
        return np.mean([dice_pooled(take(one, images.astype(int))) for one in seeds])

    slow = bootstrap_ci(
        np.arange(10), groups, figure, n=200, seed=4
    )  # the same draws, one after the other
    assert (got.low, got.high, got.n_groups) == pytest.approx((slow.low, slow.high, 6))
    gap = paired_difference_pooled(seeds, first, groups, "dice", n=200, seed=4)
    slow = bootstrap_ci(
        np.arange(10),
        groups,
        lambda x: figure(x) - dice_pooled(take(first, x.astype(int))),
        200,
        seed=4,
    )
    assert (gap.estimate, gap.low, gap.high) == pytest.approx((slow.estimate, slow.low, slow.high))
    with pytest.raises(DataError, match="0 models"):
        bootstrap_pooled([], groups, "dice")
    with pytest.raises(DataError, match="same in order"):
        bootstrap_pooled([first, take(first, np.arange(10)[::-1])], groups, "dice")


def test_paired_pooled_difference():
    good, poor = some_counts(seed=1, quality=0.9), some_counts(seed=2, quality=0.7)
    gap = paired_difference_pooled(good, poor, None, "dice")
    assert gap.estimate == pytest.approx(dice_pooled(good) - dice_pooled(poor))
    assert gap.low > 0
    back = paired_difference_pooled(poor, good, None, "dice")
    np.testing.assert_allclose([back.low, back.high], [-gap.high, -gap.low], rtol=1e-9)
    same = paired_difference_pooled(good, good, None, "iou")
    assert (same.low, same.estimate, same.high) == (0, 0, 0)


def test_permutation_is_exact_for_few_groups():
    a, b = np.array([0.9, 0.8, 0.85, 0.7, 0.6, 0.75]), np.array([0.7, 0.75, 0.8, 0.72, 0.5, 0.6])
    d = a - b
    means = [abs(np.mean(d * signs)) for signs in itertools.product([1, -1], repeat=6)]
    want = np.mean(np.array(means) >= abs(d.mean()) - 1e-12)
    assert paired_permutation(a, b) == pytest.approx(want)
    scipy = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_permutation(a, b) == pytest.approx(scipy.pvalue)
    by_group = np.array([d[:3].sum(), d[3:].sum()])
    sums = [abs(by_group @ signs) for signs in itertools.product([1, -1], repeat=2)]
    assert paired_permutation(a, b, list("aaabbb")) == pytest.approx(
        np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    )


def test_drawn_permutations_are_near_the_exact_ones_and_never_zero():
    rng = np.random.default_rng(13)
    a, b = rng.normal(0.15, 1, 13), rng.normal(0, 1, 13)
    assert paired_permutation(a, b, n=5000) == pytest.approx(paired_permutation(a, b), abs=0.03)
    assert paired_permutation(np.ones(50), np.zeros(50), n=999) == 1 / 1000


def test_permutation_p_is_uniform_without_a_difference():
    rng = np.random.default_rng(14)
    p = [paired_permutation(*rng.normal(size=(2, 30)), n=199, seed=k) for k in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.parametrize("kind", ["dice", "iou"])
def test_pooled_permutation_equals_enumeration(kind):
    a, b, pool = (
        some_counts(6, 1),
        some_counts(6, 2, 0.75),
        {"dice": dice_pooled, "iou": iou_pooled}[kind],
    )
    both = [
        np.stack([getattr(x, k) for x in (a, b)]) for k in ("intersection", "predicted", "true")
    ]
    gaps = []
    for swap in itertools.product([0, 1], repeat=6):
        first, second = (
            Counts(*(c[np.array(swap) ^ k, np.arange(6)] for c in both)) for k in (0, 1)
        )
        gaps.append(abs(pool(first) - pool(second)))
    want = np.mean(np.array(gaps) >= abs(pool(a) - pool(b)) - 1e-12)
    assert paired_permutation_pooled(a, b, None, kind) == pytest.approx(want)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(DataError, match="from 0 to 1"):
        holm([0.2, 1.2])


def test_bad_input_is_refused_not_dropped():
    with pytest.raises(DataError, match="1 of 2 figures are not finite"):
        bootstrap_ci([0.5, math.nan])
    with pytest.raises(DataError, match="at least 1 image"):
        bootstrap_ci([])
    with pytest.raises(DataError, match="one for each of the 2"):
        bootstrap_ci([0.5, 0.6], ["a"])
    with pytest.raises(ConfigError, match="level"):
        bootstrap_ci([0.5, 0.6], level=95)
    with pytest.raises(DataError, match="same images"):
        paired_difference([0.5, 0.6], [0.5])
    a, b = some_counts(5), some_counts(5)
    with pytest.raises(DataError, match="truth must be the same"):
        paired_difference_pooled(a, take(b, np.arange(5)[::-1]), None, "dice")
