"""Masks of another size than their image are refused, or fitted if the user says so."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.checks import check
from textmask.data.label_maps import with_mask_options
from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.data.mask_sizes import fit_nearest, may_be_fitted
from textmask.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("mask", "image", "may"),
    [
        ((100, 80), (100, 80), True),
        ((101, 79), (100, 80), True),
        ((50, 40), (100, 80), True),
        ((400, 320), (100, 80), True),
        ((33, 27), (100, 80), True),  # a third, rounded
        ((102, 80), (100, 80), False),
        ((80, 100), (100, 80), False),  # on its side
        ((224, 224), (100, 80), False),  # another shape
    ],
)
def test_which_sizes_may_be_fitted(mask, image, may) -> None:
    assert may_be_fitted(mask, image) is may


def test_nearest_is_that_of_pillow() -> None:
    mask = (np.random.default_rng(0).random((37, 23)) < 0.5).astype(np.uint8)
    for size in ((74, 46), (37, 24), (18, 11), (12, 8)):
        expected = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
        assert np.array_equal(fit_nearest(mask, size), np.asarray(expected))


def data(root: Path, size: tuple[int, int]) -> Manifest:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 24)).astype(np.uint8)
    cv2.imwrite(str(root / "a.png"), pixels)
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2] = 255
    cv2.imwrite(str(root / "m.png"), mask)
    return Manifest(root, (Row("a.png", "m.png", "a", "train"),))


def test_a_fitted_mask_is_read_everywhere(tmp_path: Path) -> None:
    plain = data(tmp_path, (16, 12))
    with pytest.raises(DataError, match="--resize-masks nearest"):
        open_split(plain, "train", (32, 24), tmp_path / "cache")

    fitted = decide_rule(with_mask_options(plain, resize="nearest"))
    row = fitted.rows[0]
    expected = np.zeros((32, 24), np.uint8)
    expected[:16] = 1
    assert np.array_equal(row_mask(fitted, row), expected)
    opened = open_split(fitted, "train", (32, 24), tmp_path / "cache")
    assert np.array_equal(opened.masks[0], expected)
    codes = {finding.code: finding.severity for finding in check(fitted).findings}
    assert codes["resized-mask"] == "note"
    assert "size-mismatch" not in codes
    assert "size-mismatch" in {finding.code for finding in check(plain).findings}


def test_another_shape_is_refused_all_the_same(tmp_path: Path) -> None:
    fitted = replace(data(tmp_path, (20, 20)), resize_masks=True)
    with pytest.raises(DataError, match="They must have the same size") as caught:
        open_split(fitted, "train", (32, 24), tmp_path / "cache")
    assert "--resize-masks" not in str(caught.value)
    assert "size-mismatch" in {finding.code for finding in check(fitted).findings}


def test_an_unknown_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bilinear'.*nearest"):
        with_mask_options(data(tmp_path, (32, 24)), resize="bilinear")
