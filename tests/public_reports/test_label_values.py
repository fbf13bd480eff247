"""Values of label files that users of comparable tools met: 255 for 1, soft edges, gaps, regions to ignore."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.label_maps import with_mask_options
from textmask.data.manifest import Manifest
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.errors import DataError, DataWarning
from textmask.layouts.read import read_layout

SIZE = 32
quiet = pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")


def square(top: int, value: int = 1, side: int = 8) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + side, 4 : 4 + side] = value
    return mask


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE), np.uint8)


def folders(root: Path, *masks: np.ndarray, suffix: str = "png", **options: object) -> Path:
    for i, mask in enumerate(masks):
        save(root / f"images/{i}.png", image(i))
        save(root / f"masks/{i}.{suffix}", mask, **options)
    return root


def nnunet(root: Path, labels: dict[str, object], *maps: np.ndarray, suffix: str = "png") -> Path:
    for i, values in enumerate(maps):
        save(root / f"imagesTr/case_{i}_0000.{suffix}", image(i))
        save(root / f"labelsTr/case_{i}.{suffix}", values)
    content = {"channel_names": {"0": "US"}, "labels": labels, "file_ending": f".{suffix}"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def masks_of(manifest: Manifest) -> list[np.ndarray]:
    manifest = decide_rule(manifest)
    return [row_mask(manifest, row) for row in manifest.rows if row.mask]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_255_where_one_is_declared(tmp_path: Path, suffix: str) -> None:
    """Labels saved as 0 and 255 although dataset.json declares 1, as PNG and as TIFF (nnU-Net #1678, #1777).

    The file and the value are named; with the value corrected in dataset.json the same files are read.
    """
    masks = [square(2, 255), square(16, 255)]
    root = nnunet(tmp_path, {"background": 0, "nodule": 1}, *masks, suffix=suffix)
    with pytest.raises(
        DataError, match=rf"labelsTr/case_0.{suffix} contains the value 255.*nodule"
    ):
        read_layout(root)
    nnunet(tmp_path, {"background": 0, "nodule": 255}, *masks, suffix=suffix)
    manifest = read_layout(root)
    assert [row.text for row in manifest.rows] == ["nodule", "nodule"]
    for got, mask in zip(masks_of(manifest), masks, strict=True):
        np.testing.assert_array_equal(got, mask > 0)


@quiet
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [1, 255])
def test_both_ways_to_save_a_binary_mask(tmp_path: Path, suffix: str, top: int) -> None:
    """Masks of 0 and 255, and of 0 and 1, mean the same (nnU-Net #1678, #1777)."""
    root = folders(tmp_path, square(2, top), square(16, top), suffix=suffix)
    first, second = masks_of(read_layout(root))
    np.testing.assert_array_equal(first, square(2))
    np.testing.assert_array_equal(second, square(16))


@quiet
def test_0_1_and_0_255_in_one_data_set_stop(tmp_path: Path) -> None:
    """Two annotators, two ways to save: one rule for all masks is not possible, and nothing is guessed."""
    root = folders(tmp_path, square(2, 1), square(16, 255))
    with pytest.raises(DataError, match=r"values 0, 1, 255; each file alone is binary"):
        decide_rule(read_layout(root))
    # and both are read if the user says so
    chosen = with_mask_options(read_layout(root), values="1,255")
    assert [int(mask.sum()) for mask in masks_of(chosen)] == [64, 64]


def soft(top: int) -> np.ndarray:
    """A disc whose edge has every gray value, as after resizing with interpolation."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(rows - top - 4, columns - 14)
    return np.clip(128 - (distance - 8) * 24, 0, 255).astype(np.uint8)


@quiet
def test_gray_edges_stop_until_a_threshold_is_given(tmp_path: Path) -> None:
    """Vessel masks with gray edges: many values although two are expected (nnU-Net #2404)."""
    root = folders(tmp_path, soft(6), soft(14))
    with pytest.raises(DataError, match=r"(?s)masks/0.png.* gray values.*--mask-threshold X"):
        decide_rule(read_layout(root))
    for got, mask in zip(
        masks_of(with_mask_options(read_layout(root), threshold=127)),
        (soft(6), soft(14)),
        strict=True,
    ):
        np.testing.assert_array_equal(got, mask > 127)


def test_gray_edges_in_label_maps_stop(tmp_path: Path) -> None:
    """The same files as label maps of one structure: the first value that has no name is named (nnU-Net #2404)."""
    root = nnunet(tmp_path, {"background": 0, "vessel": 1}, soft(6), soft(14))
    with pytest.raises(DataError, match=r"contains the value \d+, which dataset.json does not"):
        read_layout(root)


@quiet
def test_masks_saved_as_jpeg(tmp_path: Path) -> None:
    """A mask that went through JPEG has values all over 0..40 and 215..255 (nnU-Net #2404)."""
    root = folders(tmp_path, square(2, 255), square(16, 255), suffix="jpg", quality=75)
    manifest = read_layout(root)
    with pytest.warns(DataWarning, match="compression noise"):
        decided = decide_rule(manifest)
    for row, mask in zip(decided.rows, (square(2), square(16)), strict=True):
        np.testing.assert_array_equal(row_mask(decided, row), mask)


@pytest.mark.parametrize(
    "values",
    [(2, 5), (100, 200, 201), (205, 420, 500), (1, 10, 2)],
    ids=["gap", "far", "16 bit", "order"],
)
def test_values_with_gaps(tmp_path: Path, values: tuple[int, ...]) -> None:
    """Labels that are not 0, 1, 2, ...: each keeps its own number, 16-bit maps too."""
    depth = np.uint16 if max(values) > 255 else np.uint8
    maps = np.zeros((SIZE, SIZE), depth)
    for i, value in enumerate(values):
        maps[4 + 8 * i : 8 + 8 * i, 4:20] = value
    labels: dict[str, object] = {"background": 0}
    labels.update({f"organ {value}": value for value in values})
    manifest = read_layout(nnunet(tmp_path, labels, maps, maps[::-1].copy()))
    assert len(manifest.rows) == 2 * len(values)
    for row in manifest.rows[: len(values)]:
        assert row.label == (int(row.text.split()[1]),)
        np.testing.assert_array_equal(row_mask(manifest, row), maps == row.label[0])


@quiet
def test_values_with_gaps_in_folders(tmp_path: Path) -> None:
    """The same without dataset.json: refused with the values, then read by a table of names beside the folders."""
    both = square(2, 3) + square(16, 7)
    root = folders(tmp_path, both, square(16, 7))
    with pytest.raises(DataError, match=r"values 0, 3, 7.*--classes"):
        decide_rule(read_layout(root))
    (root / "classes.csv").write_text("value,name\n3,liver\n7,spleen\n")
    manifest = with_mask_options(read_layout(root), classes="classes.csv")
    found = [(row.image, row.text, int(row_mask(manifest, row).sum())) for row in manifest.rows]
    assert found == [
        ("images/0.png", "liver", 64),
        ("images/0.png", "spleen", 64),
        ("images/1.png", "spleen", 64),
    ]


def test_a_declared_value_that_no_map_shows(tmp_path: Path) -> None:
    """dataset.json counts 1 to 3, the files have 1 and 3: nothing is shifted."""
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    manifest = read_layout(nnunet(tmp_path, labels, square(2, 1) + square(16, 3), square(2, 3)))
    assert [(row.text, row.label) for row in manifest.rows] == [
        ("a", (1,)),
        ("c", (3,)),
        ("c", (3,)),
    ]


@quiet
def test_a_void_border_is_never_foreground_by_itself(tmp_path: Path) -> None:
    """255 around the object marks what nobody could decide; it is not a lesion unless it is asked for."""
    void = square(8, 255, 12)
    void[10:18, 6:14] = 1
    root = folders(tmp_path, void, void[::-1].copy())
    with pytest.raises(DataError, match=r"values 0, 1, 255.*--mask-values"):
        decide_rule(read_layout(root))
    masks = masks_of(with_mask_options(read_layout(root), values="1"))
    np.testing.assert_array_equal(masks[0], void == 1)


@pytest.mark.parametrize("value", [2, 3, 255])
def test_an_ignore_label_is_read_and_said(tmp_path: Path, value: int) -> None:
    """Partly annotated maps with a label named ignore, at the end of the numbers or as 255."""
    maps = square(2, 1) + square(16, value)
    labels = {"background": 0, "tumor": 1, "ignore": value}
    root = nnunet(tmp_path, labels, maps, square(2, 1))
    with pytest.warns(DataWarning, match="'ignore' count as background"):
        manifest = read_layout(root)
    assert [(row.text, row.label) for row in manifest.rows] == [("tumor", (1,)), ("tumor", (1,))]
    np.testing.assert_array_equal(row_mask(manifest, manifest.rows[0]), maps == 1)


def test_a_map_of_only_ignored_pixels_is_left_out_and_said(tmp_path: Path) -> None:
    """An image that nobody annotated: no empty mask is made of it."""
    labels = {"background": 0, "tumor": 1, "ignore": 2}
    root = nnunet(tmp_path, labels, square(2, 2), square(2, 1))
    with pytest.warns(DataWarning) as said:
        manifest = read_layout(root)
    assert [row.image for row in manifest.rows] == ["imagesTr/case_1_0000.png"]
    assert any("show none of the structures" in str(w.message) for w in said)


@pytest.mark.parametrize("top", [100, 128, 254])
@quiet
def test_two_unusual_values(tmp_path: Path, top: int) -> None:
    """0 and 100, 128 or 254 look binary in every viewer; they stop, and are never an empty mask."""
    root = folders(tmp_path, square(2, top), square(16, top))
    with pytest.raises(DataError, match=rf"values 0, {top}"):
        decide_rule(read_layout(root))
    chosen = with_mask_options(read_layout(root), values=str(top))
    assert [int(mask.sum()) for mask in masks_of(chosen)] == [64, 64]


@pytest.mark.parametrize("values", ["1", "1,2"])
@quiet
def test_chosen_values_reach_the_decoded_split(tmp_path: Path, values: str) -> None:
    """What is trained on is what was chosen, not what the largest value is."""
    root = folders(tmp_path, square(2, 1) + square(16, 2), square(2, 2))
    manifest = with_mask_options(read_layout(root), values=values)
    data = open_split(manifest, "train", (SIZE, SIZE), tmp_path / "cache")
    assert data.masks.sum(axis=(1, 2)).tolist() == ([64, 0] if values == "1" else [128, 64])
