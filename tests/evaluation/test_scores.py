"""Scores per image: what is written is read back, and two runs are compared from their files alone."""

import numpy as np
import pytest

from textmask.data.manifest import Row
from textmask.errors import CheckpointError
from textmask.evaluation.bootstrap import Bootstrap, corrected
from textmask.evaluation.scores import ImageScores, read_scores, write_scores
from textmask.metrics.overlap import Counts
from textmask.metrics.statistics import holm, paired_difference, paired_permutation

ROWS = [Row(f"a|{i}.png", "m.png", "lower, left\n\ud800", "test", f"p{i // 2}") for i in range(6)]
TRUE = np.array([10, 0, 12, 9, 30, 7])


def scores(seed, policy="one", distances=True):
    rng = np.random.default_rng(seed)
    predicted = TRUE + rng.integers(0, 9, 6) * (TRUE > 0)
    counts = Counts(rng.integers(0, TRUE + 1), predicted, TRUE)
    found = {"hd95_pooled_px": rng.random(6), "assd_px": rng.random(6)} if distances else {}
    return ImageScores.of(
        [row.image for row in ROWS], ROWS, [row.text for row in ROWS], counts, policy, found
    )


@pytest.mark.parametrize("prompts", [True, False])
@pytest.mark.parametrize("distances", [True, False])
def test_scores_are_read_back(tmp_path, prompts, distances):
    path = tmp_path / "scores.csv"
    rows = {"model": scores(0, "skip", distances), "unet": scores(1, "skip", distances)}
    write_scores(path, rows, prompts=prompts)
    found = read_scores(path)
    assert list(found) == list(rows)
    for name, row in rows.items():
        assert found[name].images == row.images
        assert found[name].groups == row.groups
        assert found[name].prompts == (("lower, left\n\\ud800" if prompts else "",) * 6)
        np.testing.assert_allclose(found[name].dice, row.dice, atol=1e-6)
        np.testing.assert_allclose(found[name].iou, row.iou, atol=1e-6)
        for column in ("intersection", "predicted", "true"):
            expected = getattr(row.counts, column)
            np.testing.assert_array_equal(getattr(found[name].counts, column), expected)
        assert list(found[name].distances) == list(row.distances)
    assert np.isnan(found["model"].dice[1])  # the policy leaves it out


def test_two_runs_are_compared_from_their_files_alone(tmp_path):
    paths = [tmp_path / f"{name}.csv" for name in ("a", "b")]
    rows = [scores(0), scores(1)]
    for path, row in zip(paths, rows, strict=True):
        write_scores(path, {"model": row})
    a, b = (read_scores(path)["model"] for path in paths)
    bootstrap = Bootstrap(a.groups, 200, seed=3, permutations=64)
    found = bootstrap.compare("a", a, "b", b)
    direct = bootstrap.compare("a", rows[0], "b", rows[1])
    assert found.dice_pooled == direct.dice_pooled
    interval = paired_difference(rows[0].dice, rows[1].dice, list(a.groups), n=200, seed=3)
    assert direct.dice_per_image.low == interval.low
    assert found.dice_per_image.estimate == pytest.approx(interval.estimate, abs=1e-5)
    p = paired_permutation(rows[0].dice, rows[1].dice, list(a.groups), n=64, seed=3)
    assert direct.dice_per_image_p == p
    family = corrected([direct, direct])
    assert [entry.dice_per_image_p for entry in family] == holm([p, p])
    assert corrected([]) == ()


def test_images_without_a_score_are_left_out_of_the_pair():
    a, b = scores(0, "skip"), scores(1, "skip")
    kept = TRUE > 0
    found = Bootstrap(a.groups, 50).compare("a", a, "b", b)
    assert found.dice_per_image.estimate == pytest.approx((a.dice - b.dice)[kept].mean())


def test_a_single_group_has_no_interval():
    value = Bootstrap(["p"] * 6, 50).mean(np.arange(6.0))
    assert (value.estimate, value.low, value.high) == (2.5, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row,image\nunet,a.png\n", "column 'group' is missing"),
        ("row,image,group,dice_per_image,iou_per_image,intersection,predicted,true\nu,a,p,x,1,1,1,1\n", "x"),
        ("row,image,group,dice_per_image,iou_per_image,intersection,predicted,true\nu,a,p,1,1,1,1,1.5\n", "1.5"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_a_clear_error(tmp_path, text, said):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=rf"scores\.csv cannot be read: .*{said}"):
        read_scores(path)
