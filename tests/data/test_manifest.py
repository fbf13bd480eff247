import csv
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from textmask.data.manifest import Manifest, Row, read_manifest, write_manifest
from textmask.errors import ConfigError, DataError, DataWarning
from textmask.statement import Laterality

HEADER = "image,mask,text,split,group,laterality,labelled\n"
ROWS = (
    Row("images/a.png", "masks/a.png", "upper left lung.", "train", "p1", Laterality.IMAGE, True),
    Row("images/b.png", None, "lower right lung.", "train", "p2", Laterality.IMAGE, False),
    Row("images/c.png", "masks/c.png", "no finding", "valid", "", Laterality.IMAGE, False),
    Row(
        "images/d.png",
        "masks/d.png",
        'says "left", twice',
        "external-1",
        "",
        Laterality.IMAGE,
        True,
    ),
)


def table(folder: Path, body: str, header: str = HEADER, name: str = "manifest.csv") -> Path:
    path = folder / name
    path.write_text(header + body, encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path) -> None:
    write_manifest(Manifest(tmp_path, ROWS), tmp_path / "manifest.csv")
    got = read_manifest(tmp_path / "manifest.csv")
    assert got.rows == ROWS
    assert got.root == tmp_path
    assert got.name == tmp_path.name
    assert len(got) == 4
    assert got.splits == {"train": 2, "valid": 1, "external-1": 1}
    assert got.laterality is Laterality.IMAGE
    assert got.image_path(ROWS[0]) == tmp_path / "images/a.png"
    assert got.mask_path(ROWS[0]) == tmp_path / "masks/a.png"
    with pytest.raises(DataError, match="no mask"):
        got.mask_path(ROWS[1])


def test_rows_of(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, ROWS)
    assert manifest.rows_of("train") == ROWS[:2]
    with pytest.raises(ConfigError, match=r"unknown split.*'tset'.*train, valid, external-1"):
        manifest.rows_of("tset")


def test_mixed_laterality_is_unknown(tmp_path: Path) -> None:
    mixed = (ROWS[0], replace(ROWS[1], laterality=Laterality.PATIENT))
    assert Manifest(tmp_path, mixed).laterality is Laterality.UNKNOWN


def test_hash_depends_on_rows_only(tmp_path: Path) -> None:
    one = Manifest(tmp_path, ROWS)
    assert one.hash() == Manifest(Path("/elsewhere"), ROWS[::-1], "other").hash()
    assert len(one.hash()) == 64
    changed = (replace(ROWS[0], text="upper right lung."), *ROWS[1:])
    assert one.hash() != Manifest(tmp_path, changed).hash()


def test_optional_columns_have_defaults_and_bom_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "text,image,mask,split\nleft,./x/a.png,m/a.png,Val\nright,x/b.png,,TRAIN\n",
        encoding="utf-8-sig",
    )
    got = read_manifest(path)
    assert got.name == "own"
    assert got.rows == (
        Row("x/a.png", "m/a.png", "left", "valid", "", Laterality.UNKNOWN, True),
        Row("x/b.png", None, "right", "train", "", Laterality.UNKNOWN, False),
    )


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("../secret.png", "climbs out"),
        ("images/../../secret.png", "climbs out"),
        ("/etc/passwd", "absolute"),
        ("C:/films/a.png", "drive"),
        ("c:a.png", "drive"),
        (r"\\server\share\a.png", "drive, a server"),
        (r"images\a.png", "backslashes"),
        ("https://example.org/a.png", "URL"),
        ("images/a\0.png", "NUL"),
    ],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_paths_that_leave_the_root(tmp_path: Path, cell: str, why: str, column: str) -> None:
    cells = {"image": "a.png", "mask": "m.png", column: cell}
    path = table(
        tmp_path, f"ok.png,ok.png,t,train,,,\n{cells['image']},{cells['mask']},t,train,,,\n"
    )
    with pytest.raises(DataError, match=rf"row 3, column {column}: .*{why}"):
        read_manifest(path)


def test_rows_built_in_code_cannot_leave_either(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, (Row("../a.png", "/b.png", "t", "train"),))
    with pytest.raises(DataError, match="climbs out"):
        manifest.image_path(manifest.rows[0])
    with pytest.raises(DataError, match="absolute"):
        manifest.mask_path(manifest.rows[0])


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (root / "images").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.png").touch()
    os.symlink(outside / "a.png", root / "images/file.png")
    os.symlink(outside, root / "folder")
    for cell in ("images/file.png", "folder/a.png"):
        assert read_manifest(table(root, f"{cell},,t,train,,,\n")).rows[0].image == cell
    os.symlink(root, tmp_path / "linked-root")  # the root itself may be a link
    assert read_manifest(tmp_path / "linked-root/manifest.csv").rows[0].image == "folder/a.png"


def test_duplicates_and_case_collisions(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "a.png,,t,train,,,\n./a.png,,t,train,,,\nA.PNG,,t,train,,,\na.png,,other,test,,,\n",
    )
    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert "3 problems" in str(error.value)
    assert "row 3, column image: 'a.png' was named in row 2 with the same mask" in str(error.value)
    assert "row 5, column split: 'a.png' is in split 'train' in row 2 and in 'test' here" in str(
        error.value
    )
    assert "row 4, column image: 'A.PNG' was named in row 2 in other letter case ('a.png')" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (
            "image,mask,text,split,sex\n",
            r"row 1: unknown column 'sex'. Valid: image, mask, text, split",
        ),
        ("image,mask,text\n", r"row 1: missing column split"),
        ("image,text,split,text\n", r"column text appears twice"),
        ("image;mask;text;split\n", r"separated by ;"),
    ],
)
def test_bad_header(tmp_path: Path, header: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_manifest(table(tmp_path, "a,b,c,d,e\n", header))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            "a.png,m.png,t,train,,viewer,\n",
            r"column laterality: 'viewer'; expected image, patient or unknown",
        ),
        ("a.png,m.png,t,train,,,maybe\n", r"column labelled: 'maybe'; expected true or false"),
        (" ,m.png,t,train,,,\n", r"column image: is empty"),
        ("a.png,,t,train,,,true\n", r"column labelled: is true but there is no mask"),
        ("a.png,m.png,t,,,,\n", r"column split: ''"),
        ("a.png,m.png,t,../x,,,\n", r"column split: '../x'"),
        ("a.png,m.png,left, right,train,,,\n", r"8 cells, the header has 7; quote texts"),
        (f"a.png,m.png,{'x' * 10_001},train,,,\n", r"column text: 10,001 characters"),
    ],
)
def test_bad_cells(tmp_path: Path, row: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"manifest\.csv: 1 problem\n  row 2, .*{why}"):
        read_manifest(table(tmp_path, row))


def test_at_most_ten_problems_are_shown(tmp_path: Path) -> None:
    path = table(tmp_path, "".join(f"/a{i}.png,,t,train,,,\n" for i in range(25)))
    with pytest.raises(DataError, match="25 problems") as error:
        read_manifest(path)
    assert str(error.value).count("column image") == 10
    assert "and 15 more" in str(error.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (HEADER.encode(), "no rows"),
        ("image,text,split\na.png,dröhnend,train\n".encode("latin-1"), "not UTF-8"),
        (b'image,text,split\na.png,"never closed,train\n', "cannot be read as CSV"),
        (b"image,text,split\na.png," + b"x" * 200_000 + b",train\n", "cannot be read as CSV"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(data)
    with pytest.raises(DataError, match=rf"manifest\.csv: .*{why}"):
        read_manifest(tmp_path / "manifest.csv")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_manifest(tmp_path / "gone.csv")


def test_empty_texts_warn_once(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="2 of 3 rows have no text") as caught:
        read_manifest(table(tmp_path, "a.png,,,train,,,\nb.png,, ,train,,,\nc.png,,t,train,,,\n"))
    assert len(caught) == 1


@pytest.mark.parametrize(
    "text", ["left\u202etfel lung", "left\x07 lung", "الرئة اليسرى", "zero\u200bwidth"]
)
def test_hidden_characters_warn_and_are_kept(tmp_path: Path, text: str) -> None:
    with pytest.warns(DataWarning, match="1 texts contain control or right-to-left"):
        got = read_manifest(table(tmp_path, f"a.png,,{text},train,,,\n"))
    assert got.rows[0].text == text


def test_other_languages_and_line_breaks_do_not_warn(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = read_manifest(table(tmp_path, 'a.png,,"Verschattung links,\n左肺下叶",train,,,\n'))
    assert got.rows[0].text == "Verschattung links,\n左肺下叶"


@pytest.mark.parametrize(
    "text", ["=1+1", "+x", "-left", "@cmd", "\tx", "'=x", "''-y", "'quoted'", "plain"]
)
def test_formulas_are_written_harmless_and_read_back(tmp_path: Path, text: str) -> None:
    row = Row("-images/=a.png", None, text, "train", "@group", Laterality.UNKNOWN, False)
    write_manifest(Manifest(tmp_path, (row,)), tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]
    assert read_manifest(tmp_path / "m.csv").rows == (row,)


def test_written_above_the_images(tmp_path: Path) -> None:
    inner = tmp_path / "films"
    inner.mkdir()
    write_manifest(Manifest(inner, ROWS), tmp_path / "m.csv")
    got = read_manifest(tmp_path / "m.csv")
    assert got.rows[0].image == "films/images/a.png"
    assert got.rows[1].mask is None
    with pytest.raises(DataError, match="in or above the folder"):
        write_manifest(Manifest(inner, ROWS), tmp_path / "other" / "m.csv")


MANY = (
    Row("a.png", "m1.png", "the heart", "train"),
    Row("a.png", "m2.png", "the left lung", "train"),
    Row("a.png", "map.png", "the liver", "train", label=(2,)),
    Row("a.png", "map.png", "the kidneys", "train", label=(1, 3)),
    Row("b.png", "m3.png", "the heart", "test"),
)


def test_an_image_may_have_several_rows_and_each_has_its_own_key(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, MANY)
    write_manifest(manifest, tmp_path / "m.csv")
    assert "label" in (tmp_path / "m.csv").read_text().splitlines()[0]
    got = read_manifest(tmp_path / "m.csv")
    assert got.rows == MANY
    keys = [got.key(row) for row in got.rows]
    assert keys == ["a.png#1", "a.png#2", "a.png#4", "a.png#3", "b.png"]

    # another order of the table gives the same names
    turned = Manifest(tmp_path, MANY[::-1])
    assert [turned.key(row) for row in MANY] == keys


def test_a_table_without_labels_is_written_as_before(tmp_path: Path) -> None:
    write_manifest(Manifest(tmp_path, ROWS), tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text().splitlines()[0] == HEADER.strip()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a.png,m.png,t,train,,,,heart\n", "'heart'; expected values of the mask joined with"),
        ("a.png,,t,train,,,,2\n", "is '2' but there is no mask"),
        ("a.png,m.png,t,train,,,,0\n", "'0'; 0 is the background"),
        ("a.png,m.png,t,train,,,,-1\n", "'-1'; expected values"),
    ],
)
def test_bad_labels(tmp_path: Path, row: str, why: str) -> None:
    header = HEADER.strip() + ",label\n"
    with pytest.raises(DataError, match=rf"row 2, column label: .*{why}"):
        read_manifest(table(tmp_path, row, header))


@pytest.mark.parametrize("mask", ["a.png", "b.png", "./A.png"])
def test_a_mask_is_never_an_image_of_the_table(tmp_path: Path, mask: str) -> None:
    path = table(tmp_path, f"a.png,{mask},t,train,,,\nb.png,,t,train,,,\n")
    with pytest.raises(DataError, match=r"row 2, column mask: the mask of 'a.png' is .* image"):
        read_manifest(path)
