"""Data as people have them: cells without a value, paths of another machine, columns and files that are left out."""

import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.errors import DataError, DataWarning
from textmask.io.spreadsheets import read_table
from textmask.layouts.choice import TableChoice
from textmask.layouts.read import read_layout

SPLITS = ("train", "train", "valid", "test")
quiet = pytest.mark.filterwarnings("error")


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 250, (16, 16))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def mask(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((16, 16), np.uint8)
    pixels[seed : seed + 5, 3:9] = 255
    Image.fromarray(pixels).save(path)


def pairs(root: Path, images: str = "images/c{}.png", masks: str = "masks/c{}.png") -> None:
    for i in range(4):
        image(root / images.format(i), i)
        mask(root / masks.format(i), i)


def table(root: Path, *cells: str, head: str = "image,mask,text,split,note") -> None:
    """A table of the four images; a cell may hold {} for the number."""
    lines = [head]
    for i, split in enumerate(SPLITS):
        lines.append(",".join([*(cell.format(i) for cell in cells), split, ""]))
    root.mkdir(parents=True, exist_ok=True)
    (root / "cases.csv").write_text("\n".join(lines), encoding="utf-8")


def rows(root: Path, **options: object) -> list[tuple[str, str | None]]:
    return [(row.image, row.mask) for row in read_layout(root, **options).rows]  # type: ignore[arg-type]


PAIRS = [(f"images/c{i}.png", f"masks/c{i}.png") for i in range(4)]


@pytest.mark.parametrize("value", ["NaN", "nan", "<NA>", "#N/A", "null", " nan "])
def test_cells_without_a_value_are_empty(tmp_path: Path, value: str) -> None:
    pairs(tmp_path)
    (tmp_path / "cases.csv").write_text(
        "image,mask,text,split,patient\n"
        f"images/c0.png,{value},a polyp,train,{value}\n"
        f"images/c1.png,masks/c1.png,{value},train,p\n"
    )
    with pytest.warns(DataWarning, match="1 of 2 rows have no text"):
        first, second = read_layout(tmp_path).rows
    assert (first.mask, first.group, first.labelled) == (None, "", False)
    assert (second.text, second.group) == ("", "p")


def test_a_manifest_and_json_have_such_cells_too(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "cases.csv").write_text("image,mask,text,split\nimages/c0.png,nan,nan,train\n")
    with pytest.warns(DataWarning, match="1 of 1 rows have no text"):
        (row,) = read_layout(tmp_path).rows
    assert (row.mask, row.text) == (None, "")
    (tmp_path / "cases.jsonl").write_text('{"image": "images/c0.png", "text": NaN, "mask": null}')
    assert read_table(tmp_path / "cases.jsonl")[1] == [(1, ["images/c0.png", "", ""])]


@pytest.mark.parametrize("value", ["nan", ""])
def test_a_split_without_a_value_is_an_error(tmp_path: Path, value: str) -> None:
    pairs(tmp_path)
    (tmp_path / "cases.csv").write_text(
        f"image,mask,text,split,x\nimages/c0.png,masks/c0.png,a,{value},\n"
    )
    with pytest.raises(DataError, match=r"row 2: split ''; expected train, valid, test"):
        read_layout(tmp_path)


@quiet
@pytest.mark.parametrize("name", ["cases.csv", "manifest.csv"])
def test_a_table_without_a_mask_column_takes_the_masks_of_the_same_name(
    tmp_path: Path, name: str
) -> None:
    pairs(tmp_path)
    lines = [f"images/c{i}.png,polyp {i},{split}" for i, split in enumerate(SPLITS)]
    (tmp_path / name).write_text("\n".join(["image,text,split", *lines]))
    assert rows(tmp_path) == PAIRS


@quiet
def test_without_masks_such_a_table_is_unlabelled(tmp_path: Path) -> None:
    image(tmp_path / "images/c0.png")
    (tmp_path / "cases.csv").write_text("image,text,split\nimages/c0.png,a polyp,train\n")
    assert rows(tmp_path) == [("images/c0.png", None)]


@pytest.mark.parametrize("head", ["lung,heart", "mask_lung,mask_heart"])
def test_columns_of_files_that_are_not_read_are_named(tmp_path: Path, head: str) -> None:
    pairs(tmp_path)
    for i in range(4):
        mask(tmp_path / f"lung/c{i}.png", i + 1)
        mask(tmp_path / f"heart/c{i}.png", i + 2)
    cells = ("images/c{}.png", "lung/c{}.png", "heart/c{}.png", "a lung")
    table(tmp_path, *cells, head=f"image,{head},text,split,note")
    first, second = head.split(",")
    with pytest.warns(DataWarning, match=rf"{first}, {second} name image files.*--mask-column"):
        assert rows(tmp_path) == PAIRS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rows(tmp_path, choice=TableChoice(mask_column=first))
    assert found[1] == ("images/c1.png", "lung/c1.png")


@pytest.mark.parametrize(
    ("image_cell", "mask_cell", "said"),
    [
        ("/home/else/data/images/c{}.png", "/home/else/data/masks/c{}.png", "/home/else/data/"),
        ("C:\\data\\images\\c{}.png", "D:\\m\\masks\\c{}.png", "D:/m/"),
        ("C:/data/images/c{}.png", "masks/c{}.png", "C:/data/"),
        ("ROOT/images/c{}.png", "ROOT/masks/c{}.png", ""),
    ],
)
def test_paths_of_another_machine(
    tmp_path: Path, image_cell: str, mask_cell: str, said: str
) -> None:
    pairs(tmp_path)
    cells = [cell.replace("ROOT", str(tmp_path)) for cell in (image_cell, mask_cell)]
    table(tmp_path, *cells, "a polyp")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert rows(tmp_path) == PAIRS
    messages = " ".join(str(one.message) for one in caught)
    assert (f"begin with {said}" in messages) if said else not caught


def test_paths_that_exist_elsewhere_are_not_taken_for_copies_here(tmp_path: Path) -> None:
    pairs(tmp_path / "set")
    pairs(tmp_path / "other")
    other = tmp_path / "other"
    table(tmp_path / "set", f"{other}/images/c{{}}.png", "masks/c{}.png", "a polyp")
    with pytest.raises(DataError, match=r"exists outside .*ln -s"):
        read_layout(tmp_path / "set")

    # linked into place, as the error says
    os.rename(tmp_path / "set/images", tmp_path / "old")
    os.symlink(other / "images", tmp_path / "set/images")
    with pytest.warns(DataWarning, match="begin with"):
        assert rows(tmp_path / "set") == PAIRS


def test_paths_with_several_beginnings_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "cases.csv").write_text(
        "image,mask,text,split,x\n/a/images/c0.png,masks/c0.png,a,train,\n"
        "/b/images/c1.png,masks/c1.png,a,train,\n"
    )
    with pytest.raises(DataError, match=r"row 2: image '/a/images/c0.png' is absolute"):
        read_layout(tmp_path)


def test_repeated_rows_are_named(tmp_path: Path) -> None:
    pairs(tmp_path)
    table(tmp_path, "images/c{}.png", "masks/c{}.png", "a polyp")
    text = (tmp_path / "cases.csv").read_text()
    (tmp_path / "cases.csv").write_text(f"{text}\n" + text.split("\n", 2)[1])
    with pytest.warns(DataWarning, match=r"1 row repeats .*csv row 6 is cases\.csv row 2"):
        assert rows(tmp_path) == PAIRS


@pytest.mark.filterwarnings("ignore:.*(rows have no text|no folder names)")
def test_an_image_with_the_name_of_another_is_named(tmp_path: Path) -> None:
    pairs(tmp_path)
    image(tmp_path / "images/c0.jpg", 9)
    with pytest.warns(DataWarning, match=r"1 images have the name .*images/c0\.jpg"):
        assert rows(tmp_path) == PAIRS


@pytest.mark.filterwarnings("error", "ignore:.*(rows have no text|no folder names)")
@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/c{}_image.png", "masks/c{}_mask.png"),
        ("images/img_{}.png", "masks/mask_{}.png"),
        ("images/c{}.png", "masks/c{}_label.png"),
        ("images/c{}.png", "masks/c{}_annotation.png"),
        ("images/c{}.png", "masks/c{}_lesion.png"),
        ("images/c{}.png", "annotations/c{}.png"),
        ("scans/c{}.png", "segmentations/c{}.png"),
        ("Images/C{}.PNG", "Masks/c{}.PNG"),
        ("images/fälle ({}) é.png", "masks/fälle ({}) é.png"),
    ],
)
def test_names_that_people_give(tmp_path: Path, images: str, masks: str) -> None:
    pairs(tmp_path, images, masks)
    assert rows(tmp_path) == [(images.format(i), masks.format(i)) for i in range(4)]


@pytest.mark.filterwarnings("error", "ignore:.*(rows have no text|no folder names)")
def test_letters_with_accents_are_written_in_two_ways(tmp_path: Path) -> None:
    """A Mac writes an accent as a sign of its own; tables and other systems write one letter."""
    one, two = (unicodedata.normalize(form, "fälle{}") for form in ("NFC", "NFD"))
    assert one != two
    pairs(tmp_path, f"images/{two}.png", f"masks/{one}.png")
    assert rows(tmp_path)[2] == (f"images/{two.format(2)}.png", f"masks/{one.format(2)}.png")
    table(tmp_path, f"images/{one}.png", f"masks/{two}.png", "a polyp")
    assert rows(tmp_path)[2] == (f"images/{two.format(2)}.png", f"masks/{one.format(2)}.png")


def test_a_folder_of_images_alone_is_explained(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"neither masks nor a table.*textmask predict"):
        read_layout(tmp_path)


@quiet
@pytest.mark.parametrize("head", ["image,mask,text,split,note", "image,mask,text,split"])
@pytest.mark.parametrize(
    ("image_cell", "mask_cell"),
    [
        ("images\\c{}.png", "masks\\c{}.png"),
        ("ROOT/images/c{}.png", "ROOT/masks/c{}.png"),
        ("c{}.png", "c{}.png"),
        ("c{}", "c{}"),
        (" ./images/c{}.png ", "masks/c{}.png "),
    ],
)
def test_the_same_cells_with_and_without_a_column_more(
    tmp_path: Path, head: str, image_cell: str, mask_cell: str
) -> None:
    """A table with exactly the columns of a manifest is read like any other if it is not one."""
    pairs(tmp_path)
    cells = [cell.replace("ROOT", str(tmp_path)) for cell in (image_cell, mask_cell)]
    table(tmp_path, *cells, "a polyp", head=head)
    if head.endswith("split"):
        path = tmp_path / "cases.csv"
        path.write_text("\n".join(line.removesuffix(",") for line in path.read_text().split("\n")))
    assert rows(tmp_path) == PAIRS


@pytest.mark.filterwarnings("error", "ignore:.*(rows have no text|no folder names)")
@pytest.mark.parametrize(
    ("images", "masks"),
    [("p{}/images/1.png", "p{}/masks/1.png"), ("images/P{}/1.png", "masks/p{}/1_mask.png")],
)
def test_a_folder_per_patient_with_equal_names(tmp_path: Path, images: str, masks: str) -> None:
    pairs(tmp_path, images, masks)
    expected = [(images.format(i), masks.format(i)) for i in range(4)]
    assert rows(tmp_path) == expected
    assert [row.group for row in read_layout(tmp_path).rows] == ["p0", "p1", "p2", "p3"]
    table(tmp_path, images, "a polyp", head="image,text,split,note")
    assert rows(tmp_path) == expected
    table(tmp_path, "elsewhere/p{}/1.png", "a polyp", head="image,text,split,note")
    if images.startswith("p"):
        assert rows(tmp_path) == expected


def test_the_mask_of_another_patient_is_never_taken(tmp_path: Path) -> None:
    pairs(tmp_path, "p{}/images/1.png", "p{}/masks/1.png")
    (tmp_path / "p2/masks/1.png").rename(tmp_path / "p2/masks/9.png")
    with (
        pytest.raises(DataError, match=r"1 of 4 names have no mask: 'p2/images/1\.png'"),
        pytest.warns(DataWarning),
    ):
        read_layout(tmp_path)
    table(tmp_path, "1.png", "a polyp", head="image,text,split,note")
    with pytest.raises(DataError, match=r"'1\.png' may mean p0/images/1\.png or p1/images/1\.png"):
        read_layout(tmp_path)


@pytest.mark.filterwarnings("ignore:.*no folder names")
def test_equal_names_whose_masks_cannot_be_told_apart(tmp_path: Path) -> None:
    pairs(tmp_path, "images/p{}/1.png", "masks/{}.png")
    with pytest.raises(DataError, match=r"images/p0/1\.png and images/p1/1\.png have one name"):
        read_layout(tmp_path)


@quiet
def test_an_image_is_looked_for_in_the_folder_of_images(tmp_path: Path) -> None:
    pairs(tmp_path)
    for i in range(4):
        image(tmp_path / f"annotated/c{i}.png", i + 9)
    table(tmp_path, "c{}.png", "masks/c{}.png", "a polyp")
    assert rows(tmp_path) == PAIRS


@pytest.mark.filterwarnings("ignore:.*(rows have no text|no folder names)")
def test_a_text_file_per_image_is_named(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "prompts").mkdir()
    for i in range(4):
        (tmp_path / f"prompts/c{i}.txt").write_text("a polyp on the left")
    with pytest.warns(DataWarning, match=r"4 text files are named after images .*prompts/c0\.txt"):
        assert rows(tmp_path) == PAIRS

    # boxes are no prompts
    for i in range(4):
        (tmp_path / f"prompts/c{i}.txt").write_text("0 0.5 0.5 0.2 0.2")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*text files")
        assert rows(tmp_path) == PAIRS
