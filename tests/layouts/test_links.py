"""Data sets that are linked into place: folders, files and whole data sets; loops end and broken links are named."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from textmask.errors import DataError, DataWarning
from textmask.evaluation.mask_folders import read_folder
from textmask.inference.folder_images import images_below
from textmask.io.folders import files_below
from textmask.layouts.read import read_layout

pytestmark = pytest.mark.filterwarnings(
    "error", "ignore:.*rows have no text", "ignore:.*no folder names a split"
)


def case(root: Path, name: str = "a") -> None:
    """An image and its mask in `images/` and `masks/`."""
    rng = np.random.default_rng(len(name))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 200, (12, 12), np.uint8)).save(root / f"images/{name}.png")
    mask = np.zeros((12, 12), np.uint8)
    mask[3:7, 3:9] = 255
    Image.fromarray(mask).save(root / f"masks/{name}.png")


def read(root: Path) -> list[tuple[str, str | None, str]]:
    return [(row.image, row.mask, row.split) for row in read_layout(root, "folders").rows]


def test_linked_folders_of_images_and_masks_are_read(tmp_path: Path) -> None:
    case(tmp_path / "store")
    root = tmp_path / "set"
    root.mkdir()
    for folder in ("images", "masks"):
        os.symlink(tmp_path / "store" / folder, root / folder)
    assert read(root) == [("images/a.png", "masks/a.png", "train")]


def test_linked_data_sets_are_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        case(tmp_path / "store" / split)
        os.makedirs(tmp_path / "set", exist_ok=True)
        os.symlink(tmp_path / "store" / split, tmp_path / "set" / split)
    os.symlink("set", tmp_path / "link")
    for root in ("set", "link"):
        assert read(tmp_path / root) == [
            ("test/images/a.png", "test/masks/a.png", "test"),
            ("train/images/a.png", "train/masks/a.png", "train"),
        ]


def test_linked_files_are_read(tmp_path: Path) -> None:
    case(tmp_path / "store")
    case(tmp_path / "set", "b")
    for folder in ("images", "masks"):
        os.symlink(tmp_path / "store" / folder / "a.png", tmp_path / "set" / folder / "a.png")
    assert [row[0] for row in read(tmp_path / "set")] == ["images/a.png", "images/b.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "images", "/"])
def test_each_folder_is_read_once_and_loops_end(tmp_path: Path, target: str) -> None:
    root = tmp_path / "above" / "set"
    case(root)
    os.symlink(target, root / "again")
    with pytest.warns(DataWarning, match=r"again -> .* \(already read, or above the folder\)"):
        found = read(root)
    assert found == [("images/a.png", "masks/a.png", "train")]


def test_links_to_each_other_end(tmp_path: Path) -> None:
    case(tmp_path / "set")
    case(tmp_path / "store", "b")
    os.symlink(tmp_path / "store", tmp_path / "set" / "train")
    os.symlink(tmp_path / "set", tmp_path / "store" / "back")
    with pytest.warns(DataWarning, match=r"train/back -> .*set \(already read"):
        found = read(tmp_path / "set")
    assert [row[0] for row in found] == ["images/a.png", "train/images/b.png"]


@pytest.mark.parametrize(
    ("name", "target"), [("images/b.png", "nowhere"), ("test", "nowhere"), ("self", "self")]
)
def test_broken_links_are_named(tmp_path: Path, name: str, target: str) -> None:
    case(tmp_path)
    os.symlink(target, tmp_path / name)
    with pytest.warns(DataWarning, match=rf"{name} -> {target} \(does not exist\)"):
        assert len(read(tmp_path)) == 1
    (tmp_path / "t.csv").write_text(f"image,mask,split\n{name},masks/a.png,train\n")
    with pytest.raises(DataError, match=name), pytest.warns(DataWarning, match="does not exist"):
        read_layout(tmp_path)


def test_a_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case(tmp_path)
    (tmp_path / "private").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if "private" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(DataWarning, match=r"private \(Permission denied\)"):
        assert len(read(tmp_path)) == 1


def test_prediction_and_masks_of_other_tools_follow_links_too(tmp_path: Path) -> None:
    case(tmp_path / "store")
    (tmp_path / "mine").mkdir()
    os.symlink(tmp_path / "store/images", tmp_path / "mine/hospital")
    assert images_below(tmp_path / "mine") == [tmp_path / "mine/hospital/a.png"]
    (tmp_path / "nnunet").mkdir()
    os.symlink(tmp_path / "store/masks", tmp_path / "nnunet/images")
    manifest = read_layout(tmp_path / "store", "folders")
    assert (
        len(read_folder("nnU-Net", tmp_path / "nnunet", manifest, manifest.rows, None).masks) == 1
    )


def test_hidden_files_and_depth(tmp_path: Path) -> None:
    for name in ("a/b/c.png", ".git/x.png", "a/.hidden.png", "d.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files_below(tmp_path) == ["a/b/c.png", "d.csv"]
        assert files_below(tmp_path, max_depth=1) == ["d.csv"]
