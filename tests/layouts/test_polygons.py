"""YOLO polygons and RefCOCO-like references: masks that are drawn from a file of annotations."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.checks import check
from textmask.data.manifest import read_manifest, write_manifest
from textmask.errors import DataError, DataWarning
from textmask.layouts.read import detect, read_layout

SQUARE = "0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5"


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 250, (16, 32)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def yolo(root: Path, lines: str, names: str = "names: [polyp, tool]\n") -> None:
    for i, split in enumerate(("train", "train", "val")):
        image(root / f"images/{split}/c{i}.png", i)
        (root / f"labels/{split}").mkdir(parents=True, exist_ok=True)
        (root / f"labels/{split}/c{i}.txt").write_text(lines)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\n" + names)


def test_polygons_of_a_class_are_one_mask(tmp_path: Path) -> None:
    yolo(tmp_path, f"1 {SQUARE}\n0 0 0 0.5 0 0 0.5\n1 0.75 0.75 1 0.75 1 1 0.75 1\n")
    assert detect(tmp_path) == "yolo"
    manifest = read_layout(tmp_path)
    assert manifest.splits == {"train": 4, "valid": 2}
    rows = manifest.rows_of("valid")
    assert [(row.text, row.label) for row in rows] == [("polyp", (2,)), ("tool", (1, 3))]
    data = open_split(manifest, "valid", (16, 32), tmp_path / "cache")
    expected = np.zeros((16, 32), np.uint8)
    expected[4:8, 8:24] = 1
    expected[12:, 24:] = 1
    assert np.array_equal(data.masks[1], expected)
    assert not [finding for finding in check(manifest).findings if finding.severity == "error"]

    # the manifest says the same
    write_manifest(manifest, tmp_path / "table.csv")
    again = open_split(read_manifest(tmp_path / "table.csv"), "valid", (16, 32), tmp_path / "c2")
    assert np.array_equal(again.masks, data.masks)


@pytest.mark.parametrize(
    "names",
    [
        "names: [polyp, tool]\n",
        "names: ['polyp', \"tool\"]  # two\nnc: 2\n",
        "names:\n  - polyp\n  - tool\nnc: 2\n",
        "nc: 2\nnames:\n  0: polyp\n  1: tool\n",
        "names:\n- polyp\n- tool\nnc: 2\n",
        "names: {0: polyp, 1: tool}\n",
    ],
)
def test_names_of_classes(tmp_path: Path, names: str) -> None:
    yolo(tmp_path, f"1 {SQUARE}\n", names)
    assert {row.text for row in read_layout(tmp_path).rows} == {"tool"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (f"2 {SQUARE}\n", "class 2 has no name in data.yaml, which names 2"),
        ("0 0.5 0.5 0.2 0.2\n", "all 3 lines are boxes"),
        ("0 12 14 20 14 20 30\n", "line 1: .* between 0 and 1"),
        ("polyp 0 0 1 0 1 1\n", "not a YOLO polygon"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    yolo(tmp_path, lines)
    with pytest.raises(DataError, match=message):
        read_layout(tmp_path)


def test_boxes_and_images_without_polygons_are_named(tmp_path: Path) -> None:
    yolo(tmp_path, f"0 {SQUARE}\n0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "labels/train/c0.txt").write_text("")
    with pytest.warns(DataWarning) as caught:
        rows = read_layout(tmp_path).rows
    said = " ".join(str(warning.message) for warning in caught)
    assert "2 lines are boxes" in said
    assert "1 images have no polygon" in said
    assert len(rows) == 2


def test_a_line_that_does_not_exist(tmp_path: Path) -> None:
    yolo(tmp_path, f"0 {SQUARE}\n")
    (tmp_path / "manifest.csv").write_text(
        "image,mask,text,split,label\nimages/train/c0.png,labels/train/c0.txt,a,train,4\n"
    )
    with pytest.raises(DataError, match="label 4 is not a line"):
        open_split(read_layout(tmp_path), "train", (16, 32), tmp_path / "cache")


def refcoco(root: Path, refs: list[dict]) -> None:
    boxes = [[[0, 0, 8, 0, 8, 8, 0, 8]], [[8, 0, 16, 0, 16, 8, 8, 8]], [[0, 8, 8, 8, 8, 16, 0, 16]]]
    for i in range(2):
        image(root / f"images/{i}.png", i)
    images = [{"id": i, "file_name": f"{i}.png", "height": 16, "width": 32} for i in range(2)]
    annotations = [
        {"id": 70 + i, "image_id": i // 2, "segmentation": box, "category_id": 1}
        for i, box in enumerate(boxes)
    ]
    coco = {"images": images, "annotations": annotations, "categories": []}
    (root / "instances.json").write_text(json.dumps(coco))
    (root / "refs.json").write_text(json.dumps(refs))


REFS = [
    {"ann_id": 71, "image_id": 0, "split": "train", "sentences": [{"sent": "right"}, {"raw": "b"}]},
    {"ann_id": [70, 71], "image_id": 0, "split": "train", "sentences": ["both"]},
    {"ann_id": 72, "image_id": 1, "split": "val", "sentences": [{"sent": "below"}]},
]


def test_each_sentence_is_a_row(tmp_path: Path) -> None:
    refcoco(tmp_path, REFS)
    assert detect(tmp_path) == "refcoco"
    manifest = read_layout(tmp_path)
    assert [(row.image, row.text, row.label, row.split) for row in manifest.rows] == [
        ("images/0.png", "right", (2,), "train"),
        ("images/0.png", "b", (2,), "train"),
        ("images/0.png", "both", (1, 2), "train"),
        ("images/1.png", "below", (3,), "valid"),
    ]
    data = open_split(manifest, "train", (16, 32), tmp_path / "cache")
    assert data.masks[2][:8, :16].all()
    assert data.masks[2].sum() == 2 * data.masks[0].sum() == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": 99}, "ann_id 99 is not in instances.json"),
        ({"image_id": 1}, "image_id is 1, but annotation 71 is of image 0"),
        ({"ann_id": [70, 72]}, "not of one image"),
        ({"sentences": []}, "has no sentence"),
    ],
)
def test_wrong_references_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    refcoco(tmp_path, [REFS[0] | change])
    with pytest.raises(DataError, match=message):
        read_layout(tmp_path)


def test_references_without_annotations(tmp_path: Path) -> None:
    refcoco(tmp_path, REFS)
    (tmp_path / "instances.json").unlink()
    with pytest.raises(DataError, match="no COCO file"):
        read_layout(tmp_path)


def test_references_to_nothing_are_named(tmp_path: Path) -> None:
    refcoco(tmp_path, [*REFS, {"ann_id": [-1], "split": "train", "sentences": ["nothing"]}])
    with pytest.warns(DataWarning, match="1 references mean no annotation"):
        assert len(read_layout(tmp_path)) == 4
