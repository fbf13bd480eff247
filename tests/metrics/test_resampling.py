"""Draws that all columns share: the sums of the literal rule, column by column, in few passes."""

import numpy as np
import pytest

from textmask.evaluation.bootstrap import Bootstrap
from textmask.evaluation.scores import ImageScores
from textmask.metrics import resampling
from textmask.metrics.overlap import Counts, dice_per_image, iou_per_image
from textmask.metrics.resampling import Resampling
from textmask.metrics.statistics import (
    bootstrap_ci,
    bootstrap_pooled,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)


def literal(column, groups, n, seed):
    """Every column draws again and adds what was drawn."""
    names = list(dict.fromkeys(groups))
    sums = np.array(
        [sum(v for v, g in zip(column, groups, strict=True) if g == name) for name in names]
    )
    drawn = np.random.default_rng(seed).integers(0, len(names), (n, len(names)))
    return sums[drawn].sum(axis=1)


@pytest.mark.parametrize(("images", "groups"), [(1, 1), (40, 13), (300, 300)])
def test_the_sums_are_those_of_the_literal_rule(monkeypatch, images, groups):
    rng = np.random.default_rng(images)
    names = [f"p{i % groups}" for i in range(images)]
    columns = np.stack(
        [rng.random(images), rng.integers(0, 50_000, images), np.ones(images)], axis=1
    )
    expected = np.stack([literal(column, names, 200, 5) for column in columns.T], axis=1)
    found = Resampling(names, 200, 5).resampled(columns)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(found[:, 1:], expected[:, 1:])  # whole numbers are exact

    # announced, in another order, and in small pieces
    for name in ("CHUNK", "WEIGHTS", "TOGETHER"):
        monkeypatch.setattr(resampling, name, 2)
    draws = Resampling(names, 200, 5)
    draws.prepare(columns.T[::-1])
    np.testing.assert_allclose(draws.resampled(columns), expected, rtol=1e-12)


@pytest.fixture
def passes(monkeypatch):
    """Number of columns of each pass."""
    seen = []
    for name in ("_resampled_sums", "_swapped_sums"):
        draw = getattr(resampling, name)
        monkeypatch.setattr(
            resampling,
            name,
            lambda sums, n, seed, draw=draw: (seen.append(sums.shape[1]), draw(sums, n, seed))[1],
        )
    return seen


def scores(seed, true):
    rng = np.random.default_rng(seed)
    inside = rng.binomial(true, 0.7)
    counts = Counts(inside, inside + rng.integers(0, 60, len(true)), true)
    names = tuple(str(i) for i in range(len(true)))
    return ImageScores(
        names, names, names, dice_per_image(counts), iou_per_image(counts), counts, {}
    )


def test_announced_columns_are_drawn_in_one_pass_with_the_same_intervals(passes):
    true = np.random.default_rng(9).integers(20, 400, 60)
    rows = [scores(seed, true) for seed in range(4)]
    groups = [f"p{i // 3}" for i in range(60)]
    shared = Bootstrap(groups, 300, seed=3, permutations=250)
    columns = []
    for row in rows:
        columns += [row.dice, row.counts.intersection, row.counts.predicted, row.counts.true]
    columns += [rows[0].dice - row.dice for row in rows[1:]]
    shared.prepare(columns)
    shared.prepare_comparisons(rows[0], rows[1:])
    assert len(passes) == 2

    for row in rows:
        a, b = shared.mean(row.dice), bootstrap_ci(row.dice, groups, n=300, seed=3)
        assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high), rel=1e-12)
        a, b = (
            shared.pooled(row.counts, "iou"),
            bootstrap_pooled(row.counts, groups, "iou", 300, seed=3),
        )
        assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high), rel=1e-12)
    alone = len(passes)
    for row in rows[1:]:
        found = shared.compare("a", rows[0], "b", row)
        assert len(passes) == alone  # nothing was drawn for it
        x, y = rows[0].dice, row.dice
        per_image = paired_difference(x, y, groups, n=300, seed=3)
        assert found.dice_per_image.low == pytest.approx(per_image.low, rel=1e-9, abs=1e-12)
        pooled = paired_difference_pooled(rows[0].counts, row.counts, groups, "dice", n=300, seed=3)
        assert found.dice_pooled.high == pytest.approx(pooled.high, rel=1e-9, abs=1e-12)
        assert found.dice_per_image_p == paired_permutation(x, y, groups, n=250, seed=3)
        assert found.dice_pooled_p == paired_permutation_pooled(
            rows[0].counts, row.counts, groups, "dice", n=250, seed=3
        )
        alone = len(passes)


def test_a_selection_of_images_keeps_its_draws(passes):
    bootstrap = Bootstrap([f"p{i // 2}" for i in range(20)], 50)
    values, some = np.arange(20.0), np.arange(20) % 3 > 0
    assert bootstrap.take(np.ones(20, bool)) is bootstrap
    first = bootstrap.take(some).mean(values[some])
    assert bootstrap.take(some).mean(values[some]) == first
    assert len(passes) == 1
    bootstrap.take(np.zeros(20, bool)).prepare([np.zeros(0)])  # no image: nothing is drawn
    assert len(passes) == 1
