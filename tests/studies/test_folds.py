"""Cross-validation: every image is tested once, no group is divided, and the command resumes."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from textmask.data.splits import fold_manifests
from textmask.errors import ConfigError
from textmask.studies.grid.folds import run_folds
from textmask.studies.grid.runner import StudyOptions


def grouped(manifest, patients):
    rows = [replace(row, group=f"p{i % patients}") for i, row in enumerate(manifest.rows)]
    return replace(manifest, rows=tuple(rows))


def test_every_image_is_tested_once_and_no_group_is_divided(phantom_manifest):
    manifest = grouped(phantom_manifest, 10)
    parts = fold_manifests(manifest, 5)
    tested = [row.image for part in parts for row in part.rows_of("test")]
    assert sorted(tested) == sorted(row.image for row in manifest.rows)
    for part in parts:
        splits = [{row.group for row in part.rows_of(name)} for name in ("train", "valid", "test")]
        assert sum(map(len, splits)) == 10
        assert {len(names) for names in splits} == {2, 6}
    # each image also chooses exactly once
    chosen = [row.image for part in parts for row in part.rows_of("valid")]
    assert sorted(chosen) == sorted(tested)


def test_the_folds_depend_on_the_seed_only(phantom_manifest):
    manifest = grouped(phantom_manifest, 10)
    again = replace(manifest, rows=manifest.rows)
    assert fold_manifests(manifest, 4, seed=1) == fold_manifests(again, 4, seed=1)
    assert fold_manifests(manifest, 4, seed=1) != fold_manifests(manifest, 4, seed=2)


@pytest.mark.parametrize(("folds", "patients"), [(2, 10), (5, 4)])
def test_too_few_folds_or_groups_are_refused(phantom_manifest, folds, patients):
    with pytest.raises(ConfigError, match="at least 3 folds"):
        fold_manifests(grouped(phantom_manifest, patients), folds)


def test_folds_are_trained_scored_and_resumed(phantom_manifest, tmp_path):
    manifest = grouped(phantom_manifest, 8)
    options = StudyOptions(preset="smoke", cache_dir=tmp_path / "cache", n_bootstrap=50)
    result = run_folds("unet", manifest, tmp_path / "out", 3, options)
    with (tmp_path / "out" / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(manifest)
    assert np.isclose(np.mean([float(row["dice"]) for row in rows]), result.dice.estimate)
    for number, mean in enumerate(result.dice_by_fold):
        dice = [float(row["dice"]) for row in rows if row["fold"] == str(number)]
        assert np.isclose(np.mean(dice), mean)
    assert "standard deviation over folds" in result.lines()[-1]

    weights = tmp_path / "out" / "fold0" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert run_folds("unet", manifest, tmp_path / "out", 3, options) == result
    assert weights.stat().st_mtime_ns == before
