"""Sheets of workbooks, and columns with other names than the usual ones."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.manifest import read_manifest
from textmask.errors import ConfigError, DataError, DataWarning
from textmask.layouts.choice import TableChoice
from textmask.layouts.read import read_layout


def images(root: Path, number: int = 3) -> None:
    for folder in ("scans", "outlines"):
        (root / folder).mkdir(parents=True)
        for i in range(number):
            pixels = np.random.default_rng(i).integers(0, 250, (16, 16)).astype(np.uint8)
            square = np.zeros((16, 16), np.uint8)
            square[4:9, 4 : 9 + i] = 255
            cv2.imwrite(str(root / folder / f"{i}.png"), pixels if folder == "scans" else square)


def workbook(path: Path, **sheets: list[tuple[str, ...]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)


HEAD = ("image", "mask", "text", "split")
ROWS = [(f"scans/{i}.png", f"outlines/{i}.png", f"prompt {i}", "train") for i in range(3)]


def test_a_named_sheet_is_read(tmp_path: Path) -> None:
    images(tmp_path)
    workbook(tmp_path / "table.xlsx", Read_me=[("what this is",)], cases=[HEAD, *ROWS])
    rows = read_layout(tmp_path, choice=TableChoice(sheet="cases")).rows
    assert [(row.image, row.mask, row.text) for row in rows] == [row[:3] for row in ROWS]


def test_an_unknown_sheet_lists_the_sheets(tmp_path: Path) -> None:
    images(tmp_path)
    workbook(tmp_path / "table.xlsx", first=[HEAD, *ROWS], second=[HEAD])
    with pytest.raises(ConfigError, match=r"sheet of table.xlsx 'third'.*first, second"):
        read_layout(tmp_path, choice=TableChoice(sheet="third"))


def test_a_sheet_without_a_workbook(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "table.csv").write_text(
        "image,mask,text,split\nscans/0.png,outlines/0.png,a,train\n"
    )
    with pytest.raises(ConfigError, match=r"Excel workbooks .* none"):
        read_layout(tmp_path, choice=TableChoice(sheet="cases"))


def test_the_right_sheet_is_hinted_at(tmp_path: Path) -> None:
    images(tmp_path)
    workbook(tmp_path / "table.xlsx", Read_me=[("what", "who")], cases=[HEAD, *ROWS])
    with pytest.raises(DataError, match=r"of the sheets Read_me, cases; --sheet"):
        read_layout(tmp_path)


def test_a_second_sheet_with_images_is_named(tmp_path: Path) -> None:
    images(tmp_path)
    workbook(tmp_path / "table.xlsx", train=[HEAD, *ROWS[:2]], test=[HEAD, *ROWS[2:]])
    with pytest.warns(DataWarning, match="only the sheet 'train' is read; 'test' was seen"):
        assert len(read_layout(tmp_path)) == 2


def test_a_workbook_keeps_its_patients(tmp_path: Path) -> None:
    images(tmp_path)
    head, rows = (*HEAD, "patient"), [(*row, f"p{i}") for i, row in enumerate(ROWS)]
    workbook(tmp_path / "table.xlsx", cases=[head, *rows])
    assert [row.group for row in read_layout(tmp_path).rows] == ["p0", "p1", "p2"]


def test_columns_of_any_name(tmp_path: Path) -> None:
    images(tmp_path)
    # the usual name is there too, and means something else
    lines = "".join(f"{i},scans/{i}.png,outlines/{i}.png,prompt {i}\n" for i in range(3))
    (tmp_path / "cases.csv").write_text("image,scan,outline,text\n" + lines)
    choice = TableChoice(image_column="scan", mask_column="outline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # no split
        rows = read_layout(tmp_path, choice=choice).rows
    assert [(row.image, row.mask, row.text) for row in rows] == [row[:3] for row in ROWS]


def test_a_mask_column_next_to_the_columns_of_a_manifest(tmp_path: Path) -> None:
    images(tmp_path)
    line = "scans/0.png,outlines/1.png,outlines/0.png,a,train\n"
    (tmp_path / "manifest.csv").write_text("image,mask,reader2,text,split\n" + line)
    (row,) = read_layout(tmp_path, choice=TableChoice(mask_column="reader2")).rows
    assert row.mask == "outlines/0.png"


def test_an_unknown_column_lists_the_columns(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "cases.csv").write_text("scan,text,split\nscans/0.png,a,train\n")
    with pytest.raises(
        ConfigError, match=r"'picture' \(--image-column\).*cases.csv has scan, text"
    ):
        read_layout(tmp_path, choice=TableChoice(image_column="picture"))
    with pytest.raises(ConfigError, match="for images and for masks"):
        read_layout(tmp_path, choice=TableChoice(image_column="scan", mask_column="scan"))


def test_the_command_line_reads_and_remembers_them(tmp_path: Path) -> None:
    images(tmp_path)
    head = ("scan", "outline", "text", "split")
    workbook(tmp_path / "table.xlsx", notes=[("a", "b")], cases=[head, *ROWS])
    words = ["--sheet", "cases", "--image-column", "scan", "--mask-column", "outline"]
    out = tmp_path / "table.csv"
    result = CliRunner().invoke(app, ["data", "convert", str(tmp_path), "--out", str(out), *words])
    assert result.exit_code == 0, result.output
    assert [row.mask for row in read_manifest(out).rows] == [row[1] for row in ROWS]


def test_a_csv_with_captions_alone_is_read(tmp_path: Path) -> None:
    for i in range(2):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{i}.png"), np.full((4, 4), 9 * i, np.uint8))
    (tmp_path / "all.csv").write_text("image,caption\n0.png,a\n1.png,b\n")
    with pytest.warns(DataWarning, match="every row is 'train'"):
        rows = read_layout(tmp_path).rows
    assert [(row.text, row.split, row.mask) for row in rows] == [
        ("a", "train", "masks/0.png"), ("b", "train", "masks/1.png"),
    ]  # fmt: skip
