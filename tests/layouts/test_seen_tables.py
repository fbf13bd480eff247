"""Tables that a folder holds are used, or named."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from textmask.errors import DataWarning
from textmask.layouts.read import read_layout


def folders(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / kind).mkdir()
        for i in range(4):
            cv2.imwrite(str(root / f"{kind}/case{i}.png"), np.full((4, 4), 60 * i, np.uint8))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("texts.tsv", "case0.png\tthe heart\n"),
        ("texts.jsonl", '{"file_name": "images/case0.png", "text": "the heart"}\n'),
        ("texts.txt", "case0 the heart\n"),
        ("texts.parquet", "PAR1"),
    ],
)
def test_a_table_that_no_layout_reads_is_named(tmp_path: Path, name: str, line: str) -> None:
    folders(tmp_path)
    (tmp_path / name).write_text(line)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manifest = read_layout(tmp_path, "folders")
    said = [str(warning.message) for warning in caught if warning.category is DataWarning]
    named = any(f"{name} was seen and not used" in text for text in said)
    assert named or all(row.text for row in manifest.rows), said


def test_a_read_me_and_a_list_of_names_are_not_tables(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "README.txt").write_text("Images and masks of the heart, see the paper.\n")
    (tmp_path / "labelled.txt").write_text("case0.png\ncase1.png\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_layout(tmp_path, "folders")
    assert not [warning for warning in caught if "seen and not used" in str(warning.message)]


def test_a_workbook_keeps_its_masks_and_splits(tmp_path: Path) -> None:
    folders(tmp_path)
    book = openpyxl.Workbook()
    book.active.append(("image", "mask", "text", "split"))
    for i, split in enumerate(("train", "train", "val", "test")):
        # the mask of another name: only the column knows
        book.active.append((f"case{i}.png", f"masks/case{3 - i}.png", f"prompt {i}", split))
    book.save(tmp_path / "table.xlsx")
    rows = read_layout(tmp_path).rows
    assert [row.split for row in rows] == ["train", "train", "valid", "test"]
    assert [row.mask for row in rows] == [f"masks/case{3 - i}.png" for i in range(4)]


@pytest.mark.filterwarnings("ignore:.*have no prompt")
@pytest.mark.parametrize("kind", ["xlsx", "csv"])
def test_a_table_without_splits_is_train(tmp_path: Path, kind: str) -> None:
    folders(tmp_path)
    if kind == "csv":
        (tmp_path / "prompts.csv").write_text("image,text\ncase0.png,a\ncase1.png,b\n")
    else:
        book = openpyxl.Workbook()
        for row in (("Image", "Description"), ("case0.png", "a"), ("case1.png", "b")):
            book.active.append(row)
        book.save(tmp_path / "prompts.xlsx")
    with pytest.warns(DataWarning, match=r"every row is 'train'.*--hold-out"):
        manifest = read_layout(tmp_path)
    assert manifest.splits == {"train": 2}


@pytest.mark.filterwarnings("ignore:.*have no prompt")
@pytest.mark.parametrize("text", ["text", "caption"])
def test_the_folders_of_the_images_are_the_splits_of_such_a_table(
    tmp_path: Path, text: str
) -> None:
    for part in ("Train", "Test"):
        (tmp_path / part).mkdir()
        folders(tmp_path / part)
    for i in (2, 3):
        for kind in ("images", "masks"):
            (tmp_path / f"Train/{kind}/case{i}.png").unlink()
    lines = "".join(f"case{i}.png,prompt {i}\n" for i in (2, 3))
    (tmp_path / "prompts.csv").write_text(f"image,{text}\nTrain/images/case0.png,a\n{lines}")
    rows = read_layout(tmp_path).rows
    assert [row.split for row in rows] == ["train", "test", "test"]
