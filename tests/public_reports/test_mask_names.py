"""Names of masks as people have them: a word, another ending, another letter case, several per image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.manifest import read_manifest
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.errors import DataError, DataWarning
from textmask.layouts.read import read_layout

SIZE = 16
quiet = pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")


def save(path: Path, seed: int, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE), np.uint8)
    if mask:
        pixels[:] = 0
        pixels[: seed + 1] = 255
    Image.fromarray(pixels).save(path)


def pairs(path: Path) -> dict[str, str | None]:
    return {row.image: row.mask for row in read_layout(path).rows}


@quiet
@pytest.mark.parametrize(
    "mask",
    ["case_mask.png", "mask_case.png", "CASE_MASK.PNG", "Case_Mask.png", "case-mask.tif",
     "case_segmentation.bmp", "case_gt.png", "case_labelmap.tiff", "case_mask.gif"],
)  # fmt: skip
@pytest.mark.parametrize("image", ["case.png", "case.jpg", "Case.JPG", "case.bmp"])
@pytest.mark.parametrize("apart", [True, False], ids=["two folders", "one folder"])
def test_a_word_an_ending_and_letter_case(
    tmp_path: Path, image: str, mask: str, apart: bool
) -> None:
    folders = ("images/", "masks/") if apart else ("", "")
    save(tmp_path / f"{folders[0]}{image}", 0)
    save(tmp_path / f"{folders[1]}{mask}", 3, mask=True)
    assert pairs(tmp_path) == {f"{folders[0]}{image}": f"{folders[1]}{mask}"}
    manifest = decide_rule(read_layout(tmp_path))
    assert row_mask(manifest, manifest.rows[0]).sum() == 4 * SIZE


@quiet
@pytest.mark.parametrize("mask", ["CASE.PNG", "case.tif", "Case.bmp"])
def test_the_same_name_with_another_ending_or_case(tmp_path: Path, mask: str) -> None:
    save(tmp_path / "images/case.jpg", 0)
    save(tmp_path / f"masks/{mask}", 3, mask=True)
    assert pairs(tmp_path) == {"images/case.jpg": f"masks/{mask}"}


@quiet
def test_names_that_begin_alike_are_not_mixed_up(tmp_path: Path) -> None:
    """1, 10 and 1_0 have their own masks, whatever the order of the files."""
    for seed, name in enumerate(("1", "10", "1_0", "11")):
        save(tmp_path / f"images/{name}.png", seed)
        save(tmp_path / f"masks/{name}_mask.png", seed, mask=True)
    manifest = decide_rule(read_layout(tmp_path))
    assert {row.image: row.mask for row in manifest.rows} == {
        f"images/{name}.png": f"masks/{name}_mask.png" for name in ("1", "10", "1_0", "11")
    }


@quiet
def test_dots_spaces_and_other_scripts_in_names(tmp_path: Path) -> None:
    names = ("a.b.c", "patient 1 (2)", "größe", "甲状腺", "1.2.840.113")
    for seed, name in enumerate(names):
        save(tmp_path / f"images/{name}.png", seed)
        save(tmp_path / f"masks/{name}_mask.png", seed, mask=True)
    assert pairs(tmp_path) == {f"images/{name}.png": f"masks/{name}_mask.png" for name in names}


@quiet
def test_an_image_that_is_called_mask(tmp_path: Path) -> None:
    """A study of people who wear masks: the word in the name of an image does not make it a mask."""
    save(tmp_path / "images/face_mask.png", 0)
    save(tmp_path / "masks/face_mask.png", 3, mask=True)
    assert pairs(tmp_path) == {"images/face_mask.png": "masks/face_mask.png"}


@quiet
def test_the_same_names_in_two_splits(tmp_path: Path) -> None:
    """train/1.png and test/1.png: each takes the mask of its own split."""
    for seed, split in enumerate(("train", "test")):
        save(tmp_path / f"{split}/images/1.png", seed)
        save(tmp_path / f"{split}/masks/1_mask.png", seed, mask=True)
    assert pairs(tmp_path) == {
        "train/images/1.png": "train/masks/1_mask.png",
        "test/images/1.png": "test/masks/1_mask.png",
    }


@quiet
def test_a_missing_mask_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save(tmp_path / f"images/{name}.png", seed)
    save(tmp_path / "masks/a_mask.png", 1, mask=True)
    with pytest.raises(DataError, match=r"1 of 2 names have no mask: 'images/b.png'"):
        read_layout(tmp_path)


def test_a_mask_without_an_image_is_said(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save(tmp_path / f"images/{name}.png", seed)
        save(tmp_path / f"masks/{name}_mask.png", seed, mask=True)
    (tmp_path / "images/b.png").unlink()
    with pytest.warns(DataWarning) as said:
        assert pairs(tmp_path) == {"images/a.png": "masks/a_mask.png"}
    assert any("1 masks have no image" in str(w.message) for w in said)


@quiet
@pytest.mark.parametrize("names", [
    ("a_mask_1", "a_mask_2"), ("a_mask", "a_mask_2"), ("a_mask", "a_seg"), ("a_mask", "mask_a"), ("a", "a_mask"),
])  # fmt: skip
def test_two_masks_in_two_folders_are_two_rows(tmp_path: Path, names: tuple[str, str]) -> None:
    """Two lesions of one image in two files: none of them is left out."""
    save(tmp_path / "images/a.png", 0)
    save(tmp_path / "images/b.png", 1)
    for i, name in enumerate((*names, "b_mask")):
        save(tmp_path / f"masks/{name}.png", i, mask=True)
    manifest = decide_rule(read_layout(tmp_path))
    assert sorted((row.image, row.mask) for row in manifest.rows) == [
        *sorted(("images/a.png", f"masks/{name}.png") for name in names),
        ("images/b.png", "masks/b_mask.png"),
    ]


@quiet
def test_the_mask_of_another_image_is_not_taken(tmp_path: Path) -> None:
    """a_mask.png is the mask of the image a_mask.png if there is one, and one mask with two endings is one."""
    for i, name in enumerate(("a", "a_mask")):
        save(tmp_path / f"images/{name}.png", i)
        save(tmp_path / f"masks/{name}.png", i, mask=True)
        save(tmp_path / f"masks/{name}.tif", i, mask=True)
    assert sorted((row.image, row.mask) for row in read_layout(tmp_path).rows) == [
        ("images/a.png", "masks/a.png"),
        ("images/a_mask.png", "masks/a_mask.png"),
    ]


@quiet
def test_two_masks_in_one_folder_are_two_rows(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 0)
    for i, name in enumerate(("a_mask_1", "a_mask_2")):
        save(tmp_path / f"{name}.png", i, mask=True)
    manifest = decide_rule(read_layout(tmp_path))
    assert [(row.image, row.mask) for row in manifest.rows] == [
        ("a.png", "a_mask_1.png"),
        ("a.png", "a_mask_2.png"),
    ]


TABLE = """image,mask,text,split
images/a.png,masks/a_1.png,the upper lesion,train
images/a.png,masks/a_2.png,the lower lesion,train
images/a.png,masks/a_2.png,the lesion below the other one,train
images/b.png,masks/b_1.png,one lesion,train
images/c.png,masks/c_1.png,one lesion,valid
"""


def several(root: Path) -> Path:
    for seed, name in enumerate("abc"):
        save(root / f"images/{name}.png", seed)
        for i in (1, 2):
            save(root / f"masks/{name}_{i}.png", seed + 3 * i, mask=True)
    return root


@pytest.mark.parametrize("name", ["table.csv", "prompts.tsv"])
def test_several_prompts_and_masks_of_an_image(tmp_path: Path, name: str) -> None:
    """Each (image, prompt, mask) is a row with its own mask; the image is decoded once."""
    several(tmp_path)
    mark = "\t" if name.endswith("tsv") else ","
    (tmp_path / name).write_text(TABLE.replace(",", mark))
    manifest = read_layout(tmp_path / name)
    assert manifest.splits == {"train": 4, "valid": 1}
    data = open_split(manifest, "train", (SIZE, SIZE), tmp_path / "cache")
    rows = {prompt: int(mask.sum()) for prompt, mask in zip(data.prompts, data.masks, strict=True)}
    assert rows == {
        "the upper lesion": 4 * SIZE,
        "the lower lesion": 7 * SIZE,
        "the lesion below the other one": 7 * SIZE,
        "one lesion": 5 * SIZE,
    }
    assert len(set(data.keys)) == 4
    stored = [path for path in (tmp_path / "cache").rglob("*.images*") if path.is_file()]
    assert sum(path.stat().st_size for path in stored) == 2 * SIZE * SIZE


def test_the_names_of_rows_do_not_depend_on_their_order(tmp_path: Path) -> None:
    several(tmp_path)
    lines = TABLE.splitlines()
    keys = []
    for order in (lines[1:], lines[:0:-1]):
        (tmp_path / "table.csv").write_text("\n".join([lines[0], *order]) + "\n")
        manifest = read_manifest(tmp_path / "table.csv")
        keys.append({row.text + row.image: manifest.key(row) for row in manifest.rows})
    assert keys[0] == keys[1]


def test_rows_of_an_image_in_two_splits_are_refused(tmp_path: Path) -> None:
    """The second prompt of a training image in test would be a leak."""
    several(tmp_path)
    leak = "images/a.png,masks/a_2.png,another prompt,test\n"
    (tmp_path / "table.csv").write_text(TABLE + leak)
    with pytest.raises(DataError, match=r"images/a.png"):
        read_layout(tmp_path)


def test_one_image_and_prompt_with_two_masks(tmp_path: Path) -> None:
    """Two annotators: the same prompt with two masks is two rows with names of their own."""
    several(tmp_path)
    (tmp_path / "table.csv").write_text(
        "image,mask,text,split\nimages/a.png,masks/a_1.png,lesion,train\n"
        "images/a.png,masks/a_2.png,lesion,train\n"
    )
    manifest = read_manifest(tmp_path / "table.csv")
    assert [manifest.key(row) for row in manifest.rows] == ["images/a.png#1", "images/a.png#2"]
    assert [row.mask for row in manifest.rows] == ["masks/a_1.png", "masks/a_2.png"]
