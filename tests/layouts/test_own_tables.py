"""Tables as people keep them: tabs, semicolons, JSON Lines, JSON lists, image folders."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from textmask.errors import DataError
from textmask.layouts.read import detect, read_layout

SPLITS = ("train", "train", "val", "test")


def folders(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(root / f"{kind}/case{i}.png"), np.full((4, 4), 60 * i, np.uint8))


def delimited(mark: str) -> str:
    lines = [mark.join(("image", "text", "split"))]
    lines += [mark.join((f"case{i}.png", f"prompt {i}", SPLITS[i])) for i in range(4)]
    return "\n".join(lines) + "\n"


def objects() -> list[dict[str, str]]:
    return [
        {"file_name": f"images/case{i}.png", "text": f"prompt {i}", "split": SPLITS[i]}
        for i in range(4)
    ]


TABLES = {
    "texts.tsv": delimited("\t"),
    "texts.tab": delimited("\t"),
    "texts.txt": delimited("\t"),
    "texts.csv": delimited(";"),
    "texts.jsonl": "\n".join(json.dumps(row) for row in objects()),
    "texts.json": json.dumps(objects()),
}


@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("named", [False, True])
def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path, name: str, named: bool) -> None:
    folders(tmp_path)
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    rows = read_layout(tmp_path / name if named else tmp_path).rows
    assert [(row.image, row.mask, row.text, row.split) for row in rows] == [
        (f"images/case{i}.png", f"masks/case{i}.png", f"prompt {i}", split)
        for i, split in enumerate(("train", "train", "valid", "test"))
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_hugging_face_image_folder(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "data" / split
        (folder / "masks").mkdir(parents=True)
        cv2.imwrite(str(folder / "1.png"), np.full((4, 4), 9, np.uint8))
        cv2.imwrite(str(folder / "masks/1.png"), np.eye(4, dtype=np.uint8))
        row = {"file_name": "1.png", "mask_file_name": "masks/1.png", "text": f"a {split} polyp"}
        lines = {"jsonl": json.dumps(row), "csv": ",".join(row) + "\n" + ",".join(row.values())}
        (folder / f"metadata.{suffix}").write_text(lines[suffix] + "\n")
    assert detect(tmp_path) == "imagefolder"
    rows = read_layout(tmp_path).rows
    assert sorted((row.image, row.mask, row.text, row.split) for row in rows) == [
        (f"data/{s}/1.png", f"data/{s}/masks/1.png", f"a {s} polyp", s) for s in ("test", "train")
    ]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"image": "case0.png", "text": "a"}\n{"image": \n')
    with pytest.raises(DataError, match=r"texts.jsonl line 2: is not JSON"):
        read_layout(tmp_path / "texts.jsonl")


@pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")
@pytest.mark.parametrize("suffix", [".webp", ".jp2", ".gif"])
def test_other_image_files(tmp_path: Path, suffix: str) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / f"{kind}/a{suffix}")
    row = read_layout(tmp_path).rows[0]
    assert (row.image, row.mask) == (f"images/a{suffix}", f"masks/a{suffix}")
