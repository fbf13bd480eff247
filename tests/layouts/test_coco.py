"""COCO annotation files, from the folder to the decoded masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.manifest import read_manifest, write_manifest
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.data.mask_sources import annotation_mask
from textmask.errors import DataError
from textmask.layouts.read import detect, read_layout

SIZE = (6, 8)
SQUARE = [2, 1, 5, 1, 5, 4, 2, 4]  # columns 2 to 4, rows 1 to 3


def square() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[1:4, 2:5] = 1
    return mask


def compressed(lengths: list[int]) -> str:
    """COCO's string, as the published C code writes it."""
    text = ""
    for i, length in enumerate(lengths):
        value = length - (lengths[i - 2] if i > 2 else 0)
        while True:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr((bits | 0x20 if more else bits) + 48)
            if not more:
                break
    return text


def run_lengths(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def coco(root: Path, **changes: Any) -> Path:
    folder = root / "images"
    folder.mkdir()
    for i in (1, 2):
        Image.fromarray(np.full(SIZE, 50 * i, np.uint8)).save(folder / f"{i}.png")
    image = {"height": SIZE[0], "width": SIZE[1]}
    other = np.zeros(SIZE, np.uint8)
    other[5, 7] = 1
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", **image} for i in (1, 2)],
        "categories": [{"id": 7, "name": "polyp"}],
        "annotations": [
            {"id": 0, "image_id": 1, "category_id": 7, "segmentation": [SQUARE]},
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "segmentation": {"size": list(SIZE), "counts": run_lengths(other)},
            },
            {
                "id": 2,
                "image_id": 2,
                "caption": "a small polyp",
                "segmentation": {"size": list(SIZE), "counts": compressed(run_lengths(square()))},
            },
        ],
        **changes,
    }
    (root / "instances_test.json").write_text(json.dumps(content))
    return root


def test_rows_and_masks(tmp_path: Path) -> None:
    root = coco(tmp_path)
    assert detect(root) == "coco"
    manifest = decide_rule(read_layout(root))
    assert [(row.image, row.mask, row.text, row.split, row.label) for row in manifest.rows] == [
        ("images/1.png", "instances_test.json", "polyp", "test", (1, 2)),
        ("images/2.png", "instances_test.json", "a small polyp", "test", (3,)),
    ]
    both = square()
    both[5, 7] = 1
    np.testing.assert_array_equal(row_mask(manifest, manifest.rows[0]), both)
    np.testing.assert_array_equal(row_mask(manifest, manifest.rows[1]), square())


def test_a_manifest_of_them_is_decoded(tmp_path: Path) -> None:
    root = coco(tmp_path)
    write_manifest(read_layout(root), root / "manifest.csv")
    split = open_split(read_manifest(root / "manifest.csv"), "test", SIZE, tmp_path / "cache")
    np.testing.assert_array_equal(split.masks[1], square())
    assert split.keys == ("images/1.png", "images/2.png")


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_both_kinds(seed: int) -> None:
    mask = (np.random.default_rng(seed).random((40, 70)) < 0.02 * (seed + 1)).astype(np.uint8)
    for counts in (run_lengths(mask), compressed(run_lengths(mask))):
        found = annotation_mask({"size": [40, 70], "counts": counts}, (40, 70), "x")
        np.testing.assert_array_equal(found, mask)


def test_polygons_cover_the_pixels_whose_center_is_inside() -> None:
    rows, columns = np.mgrid[0:50, 0:60] + 0.5
    disk = (rows - 24.3) ** 2 + (columns - 30.1) ** 2 < 15.2**2
    angles = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    circle = np.stack([30.1 + 15.2 * np.cos(angles), 24.3 + 15.2 * np.sin(angles)], axis=1)
    found = annotation_mask([circle.ravel().tolist()], (50, 60), "x")
    np.testing.assert_array_equal(found, disk)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [6, 8], "counts": [1, 2]}, "cover 3 pixels, the image has 48"),
        ({"size": [8, 6], "counts": [48]}, "are of the size"),
        ([[1, 2, 3, 4]], "2 points"),
        ([], "a box is not a mask"),
    ],
)
def test_what_cannot_be_drawn(segmentation: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        annotation_mask(segmentation, SIZE, "x")


def test_an_image_that_is_not_listed(tmp_path: Path) -> None:
    root = coco(tmp_path, annotations=[{"image_id": 9, "segmentation": [SQUARE]}])
    with pytest.raises(DataError, match="annotation 1: image_id 9 is not in images"):
        read_layout(root)
