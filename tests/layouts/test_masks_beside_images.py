"""Masks beside their images, and nnU-Net raw data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.mask_scan import decide_rule, row_mask
from textmask.errors import DataError, DataWarning
from textmask.layouts.read import detect, read_layout


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def gray(value: int = 90) -> np.ndarray:
    return np.full((8, 8), value)


@pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")
@pytest.mark.parametrize("name", ["a_mask", "a-mask", "mask_a", "a_seg", "a_segmentation", "A_gt"])
@pytest.mark.parametrize(("images", "masks"), [("", ""), ("images/", "masks/"), ("x/", "x/")])
def test_masks_named_after_their_images(tmp_path: Path, name: str, images: str, masks: str) -> None:
    save(tmp_path / f"{images}a.png", gray())
    save(tmp_path / f"{masks}{name}.png", np.eye(8) * 255)
    rows = {row.image: row.mask for row in read_layout(tmp_path).rows}
    assert rows[f"{images}a.png"] == f"{masks}{name}.png"


def test_several_masks_of_an_image_are_several_rows(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png", gray())
    for name in ("a_mask", "a_mask_1", "a_mask_2"):
        save(tmp_path / f"train/{name}.png", np.eye(8) * 255)
    save(tmp_path / "train/b.png", gray())
    with pytest.warns(DataWarning, match="no text"):
        manifest = read_layout(tmp_path)
    assert [(row.image, row.mask) for row in manifest.rows] == [
        ("train/a.png", "train/a_mask.png"),
        ("train/a.png", "train/a_mask_1.png"),
        ("train/a.png", "train/a_mask_2.png"),
        ("train/b.png", None),
    ]


def nnunet(root: Path, labels: dict[str, object]) -> Path:
    """Two cases: the first shows 1 and 2, the second only 2."""
    both = np.zeros((8, 8))
    both[:2], both[6:] = 1, 2
    for i, values in enumerate((both, (both == 2) * 2)):
        save(root / f"imagesTr/case_{i}_0000.png", gray(50 + i))
        save(root / f"labelsTr/case_{i}.png", values)
    save(root / "imagesTs/case_9_0000.png", gray())
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "US"}, "labels": labels, "file_ending": ".png"})
    )
    return root


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "left lung": 1, "right lung": 2},
        {"0": "background", "1": "left lung", "2": "right lung"},
    ],
)
def test_nnunet(tmp_path: Path, labels: dict[str, object]) -> None:
    root = nnunet(tmp_path, labels)
    assert detect(root) == "nnunet"
    manifest = decide_rule(read_layout(root))
    assert [(row.image, row.mask, row.text, row.split, row.label) for row in manifest.rows] == [
        ("imagesTr/case_0_0000.png", "labelsTr/case_0.png", "left lung", "train", (1,)),
        ("imagesTr/case_0_0000.png", "labelsTr/case_0.png", "right lung", "train", (2,)),
        ("imagesTr/case_1_0000.png", "labelsTr/case_1.png", "right lung", "train", (2,)),
        ("imagesTs/case_9_0000.png", None, "", "test", ()),
    ]
    assert [int(row_mask(manifest, row).sum()) for row in manifest.rows[:3]] == [16, 16, 16]


def test_nnunet_regions_and_ignored_pixels(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"background": 0, "lungs": [1, 2], "core": 1, "ignore": 3})
    rows = read_layout(root).rows
    assert [(row.text, row.label) for row in rows if row.mask] == [
        ("lungs", (1, 2)),
        ("core", (1,)),
        ("lungs", (1, 2)),
    ]


def test_nnunet_value_without_a_name(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"background": 0, "left lung": 1})
    with pytest.raises(DataError, match=r"contains the value 2, which dataset.json does not name"):
        read_layout(root)


def test_nnunet_without_a_label_map(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"background": 0, "a": 1, "b": 2})
    (root / "labelsTr/case_1.png").unlink()
    with pytest.raises(DataError, match=r"1 images in imagesTr have no label map"):
        read_layout(root)


def test_nnunet_of_volumes(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr/case_0000.nii.gz").write_bytes(b"x")
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "lung": 1}}')
    with pytest.raises(DataError, match=r"case_0000.nii.gz: is not NIfTI"):
        read_layout(tmp_path)
