"""What a data set allows without reading, and without looking, against values worked out by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.gap import best_single_mask, language_gap, most_expected_dice
from textmask.data.label_maps import ClassNames, with_classes
from textmask.data.manifest import Manifest, Row, write_manifest
from textmask.errors import DataError


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_of_two_equal_targets_the_union_is_best() -> None:
    left = np.zeros((4, 4), dtype=bool)
    left[:, :2] = True
    assert best_single_mask([left, ~left]) == pytest.approx([2 / 3, 2 / 3])
    assert best_single_mask([left]) == [1.0]


def test_the_best_union_is_found_among_all_overlapping_ones() -> None:
    rng = np.random.default_rng(0)
    targets = [rng.random((6, 6)) < share for share in (0.1, 0.3, 0.5, 0.7)]
    best = 0.0
    for count in range(1, 5):
        for some in itertools.combinations(targets, count):
            union = np.any(some, axis=0)
            best = max(best, float(np.mean([dice(union, target) for target in targets])))
    assert np.mean(best_single_mask(targets)) == pytest.approx(best)


def test_the_cut_of_the_mean_mask_has_the_best_expected_dice() -> None:
    rng = np.random.default_rng(1)
    mean = rng.random((5, 5)).round(2)
    got = most_expected_dice(mean)
    values = []
    for threshold in np.unique(mean):
        cut = mean >= threshold
        values.append(2 * mean[cut].sum() / (cut.sum() + mean.sum()))
    assert 2 * mean[got].sum() / (got.sum() + mean.sum()) == pytest.approx(max(values))
    assert not most_expected_dice(np.zeros((3, 3))).any()


def save(root: Path, *maps: np.ndarray) -> Manifest:
    rows = []
    for i, labels in enumerate(maps):
        pixels = np.random.default_rng(i).integers(0, 256, labels.shape, dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"i{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(root / f"m{i}.png")
        rows.append(Row(f"i{i}.png", f"m{i}.png", "", "train", f"p{i}"))
    return Manifest(root, tuple(rows), "own")


def test_a_set_whose_structures_never_move_needs_no_image(tmp_path: Path) -> None:
    """Two halves, the same in every image: no reading gives 2/3, no looking gives 1."""
    halves = np.repeat([[1] * 8 + [2] * 8], 16, axis=0)
    names = ClassNames({1: "liver", 2: "pancreas"})
    manifest = with_classes(save(tmp_path, halves, halves, halves), names, cache_dir=tmp_path / "c")
    gap = language_gap(manifest, (16, 16), tmp_path / "c")
    assert (gap.images, gap.targets, gap.targets_per_image) == (3, 6, 2)
    assert gap.ceiling == pytest.approx(2 / 3)
    assert gap.prior == pytest.approx(1)


def test_the_prior_never_sees_the_group_of_its_image(tmp_path: Path) -> None:
    """One structure that is at another place in every image: reading is not needed, looking is."""
    maps = []
    for i in range(4):
        labels = np.zeros((16, 16), np.uint8)
        labels[4 * i : 4 * i + 4] = 1
        maps.append(labels)
    manifest = with_classes(
        save(tmp_path, *maps), ClassNames({1: "liver"}), cache_dir=tmp_path / "c"
    )
    gap = language_gap(manifest, (16, 16), tmp_path / "c")
    assert (gap.ceiling, gap.prior) == (1.0, 0.0)


def test_a_set_without_masks_has_no_gap(tmp_path: Path) -> None:
    manifest = save(tmp_path, np.zeros((8, 8)))
    with pytest.raises(DataError, match=r"no row has a mask that is not empty.*--classes"):
        language_gap(manifest, (8, 8), tmp_path / "c")


def test_the_command_prints_what_is_measured(tmp_path: Path) -> None:
    halves = np.repeat([[1] * 8 + [2] * 8], 16, axis=0)
    write_manifest(save(tmp_path, halves, halves), tmp_path / "table.csv")
    (tmp_path / "classes.csv").write_text("value,name\n1,liver\n2,pancreas\n")
    arguments = [
        "data",
        "gap",
        str(tmp_path / "table.csv"),
        "--classes",
        "classes.csv",
        "--size",
        "16",
    ]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    # a narrow terminal folds the heads
    for cell in ("text-blind", "ceiling", "text-only", "2.0", "0.667", "1.000"):
        assert cell in done.output
