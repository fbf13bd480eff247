"""Every line of the table in docs/data.md is run on a small data set of its kind; unknown data are described."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import openpyxl
import pytest
from PIL import Image
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.manifest import read_manifest
from textmask.errors import DataError
from textmask.layouts.read import read_layout

PAGE = Path(__file__).parents[2] / "docs/data.md"


def save(path: Path, seed: int, mask: bool = False, top: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 250, (32, 32))
    square = np.zeros((32, 32), np.int64)
    square[8 : 16 + seed, 8:20] = top
    Image.fromarray((square if mask else noise).astype(np.uint8)).save(path)


def pair(root: Path, image: str, mask: str, top: int = 255) -> None:
    for i in range(3):
        save(root / image.format(i), i)
        save(root / mask.format(i), i, mask=True, top=top)


def two_folders(root: Path) -> None:
    pair(root, "train/images/{}.png", "train/masks/{}_mask.png")


def one_folder(root: Path) -> None:
    pair(root, "train/{}.png", "train/{}_mask.png")


def table(root: Path) -> None:
    pair(root, "images/{}.png", "masks/{}.png")
    lines = "".join(f"{i}.png;a polyp;train\n" for i in range(3))
    (root / "texts.csv").write_text("image;text;split\n" + lines)


def workbook(root: Path) -> None:
    pair(root, "scans/{}.png", "outlines/{}.png")
    book = openpyxl.Workbook()
    book.active.append(("notes",))
    sheet = book.create_sheet("cases")
    sheet.append(("scan", "outline", "text", "split"))
    for i in range(3):
        sheet.append((f"scans/{i}.png", f"outlines/{i}.png", "a polyp", "train"))
    book.save(root / "table.xlsx")


def other_sizes(root: Path) -> None:
    two_folders(root)
    for path in root.glob("train/masks/*.png"):
        mask = Image.open(path)
        mask.resize((16, 16), Image.Resampling.NEAREST).save(path)


def image_folder(root: Path) -> None:
    pair(root, "train/{}.png", "train/masks/{}.png")
    rows = [
        {"file_name": f"{i}.png", "text": "a polyp", "mask_file_name": f"masks/{i}.png"}
        for i in range(3)
    ]
    (root / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def npz(root: Path) -> None:
    pair(root.parent, "made/{}.png", "made/{}m.png", top=2)
    (root / "train").mkdir()
    for i in range(3):
        image, mask = (np.asarray(Image.open(root.parent / f"made/{i}{m}.png")) for m in ("", "m"))
        np.savez(root / f"train/{i}.npz", imgs=image, gts=mask)
    (root / "classes.csv").write_text("value,name\n2,polyp\n")


def npy(root: Path) -> None:
    pair(root.parent, "made/imgs/{}.png", "made/gts/{}.png", top=1)
    for folder in ("imgs", "gts"):
        (root / folder).mkdir()
        for i in range(3):
            image = np.asarray(Image.open(root.parent / f"made/{folder}/{i}.png"))
            np.save(root / folder / f"{i}.npy", image)


def nnunet(root: Path) -> None:
    pair(root, "imagesTr/c{}_0000.png", "labelsTr/c{}.png", top=1)
    (root / "dataset.json").write_text('{"labels": {"background": 0, "polyp": 1}}')


def volumes(root: Path) -> None:
    for folder, name in (("imagesTr", "c{}_0000.nii.gz"), ("labelsTr", "c{}.nii.gz")):
        (root / folder).mkdir()
        for i in range(3):
            values = np.zeros((32, 32, 2), np.uint8)
            values[8 : 16 + i, 8:20] = 1
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / folder / name.format(i))
    (root / "dataset.json").write_text('{"labels": {"background": 0, "polyp": 1}}')


def coco(root: Path) -> None:
    pair(root, "images/{}.png", "unused/{}.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in range(3)]
    shape = [[8, 8, 20, 8, 20, 20, 8, 20]]
    annotations = [{"image_id": i, "category_id": 1, "segmentation": shape} for i in range(3)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "polyp"}],
    }
    (root / "instances_train.json").write_text(json.dumps(content))


def yolo(root: Path) -> None:
    (root / "labels").mkdir()
    for i in range(3):
        save(root / f"images/{i}.png", i)
        (root / f"labels/{i}.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n")
    (root / "classes.txt").write_text("polyp\n")


def refcoco(root: Path) -> None:
    coco(root)
    path = root / "instances_train.json"
    content = json.loads(path.read_text())
    for i, annotation in enumerate(content["annotations"]):
        annotation["id"] = 70 + i
    path.write_text(json.dumps(content))
    refs = [{"ann_id": 70 + i, "split": "train", "sentences": ["a polyp"]} for i in range(3)]
    (root / "refs.json").write_text(json.dumps(refs))


def label_maps(root: Path) -> None:
    pair(root, "train/images/{}.png", "train/masks/{}.png", top=2)
    (root / "classes.csv").write_text("value,name\n2,polyp\n")
    (root / "classes.csv").rename(root.parent / "classes.csv")


MADE: list[Callable[[Path], None]] = [
    two_folders, one_folder, table, workbook, other_sizes, image_folder, npz, npy, nnunet, volumes, coco, yolo, refcoco,
    label_maps,
]  # fmt: skip


def commands() -> list[str]:
    part = PAGE.read_text(encoding="utf-8").split("## What do you have?")[1].split("\n## ")[0]
    return re.findall(r"\| `(textmask [^`]+)` \|", part)


@pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")
@pytest.mark.parametrize("number", range(len(MADE)))
def test_line(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "DATA"
    root.mkdir()
    MADE[number](root)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(commands()[number])[1:])
    assert result.exit_code == 0, result.output
    if "convert" in commands()[number]:
        rows = read_manifest(root / "table.csv").rows
        assert [row.text for row in rows] in (["polyp"] * 3, ["a polyp"] * 3)
        assert all(row.mask for row in rows)


def test_every_line_has_a_data_set() -> None:
    assert len(commands()) == len(MADE)


def test_unknown_data_are_described(tmp_path: Path) -> None:
    save(tmp_path / "scans/1.png", 1)
    (tmp_path / "info.csv").write_text("picture,remark\n1.png,a polyp\n")
    with pytest.raises(DataError) as error:
        read_layout(tmp_path)
    assert "info.csv with the columns picture, remark (nearest layout: csv" in str(error.value)
    assert "1 images in scans" in str(error.value)
