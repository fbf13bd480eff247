"""Label maps with the names of their values: one row per structure, with its name as the prompt."""

import csv
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.label_maps import ClassNames, read_classes, with_classes, with_mask_options
from textmask.data.manifest import Manifest, Row, read_manifest, write_manifest
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.errors import ConfigError, DataError, DataWarning
from textmask.layouts.read import read_layout
from textmask.statement import Laterality

NAMES = ClassNames({1: "liver", 2: "left kidney", 3: "right kidney"})


def label_maps(root: Path, *maps: np.ndarray) -> Manifest:
    rows = []
    for i, labels in enumerate(maps):
        pixels = np.random.default_rng(i).integers(0, 256, labels.shape, dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"i{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(root / f"m{i}.png")
        rows.append(Row(f"i{i}.png", f"m{i}.png", "", "train", f"p{i}", Laterality.PATIENT))
    return Manifest(root, tuple(rows), "own")


FIRST = np.kron([[0, 1], [2, 1]], np.ones((8, 8)))
SECOND = np.kron([[0, 3], [0, 0]], np.ones((8, 8)))


def test_one_row_per_structure_that_is_shown(tmp_path: Path) -> None:
    manifest = with_classes(label_maps(tmp_path, FIRST, SECOND), NAMES, cache_dir=tmp_path / "c")
    assert [(row.image, row.text, row.label) for row in manifest.rows] == [
        ("i0.png", "liver", (1,)),
        ("i0.png", "left kidney", (2,)),
        ("i1.png", "right kidney", (3,)),
    ]
    assert {row.laterality for row in manifest.rows} == {Laterality.PATIENT}
    assert manifest.classes == NAMES.names
    data = open_split(manifest, "train", (16, 16), tmp_path / "c")
    for mask, value, labels in zip(data.masks, (1, 2, 3), (FIRST, FIRST, SECOND), strict=True):
        np.testing.assert_array_equal(mask, labels == value)


def test_absent_structures_on_request(tmp_path: Path) -> None:
    manifest = label_maps(tmp_path, FIRST, SECOND)
    absent = with_classes(manifest, NAMES, absent=True, cache_dir=tmp_path / "c")
    assert len(absent) == 6
    data = open_split(absent, "train", (16, 16), tmp_path / "c")
    assert [bool(mask.any()) for mask in data.masks] == [True, True, False, False, False, True]
    assert data.has_mask.all()


def test_the_rows_survive_a_table(tmp_path: Path) -> None:
    manifest = with_classes(label_maps(tmp_path, FIRST, SECOND), NAMES, cache_dir=tmp_path / "c")
    write_manifest(manifest, tmp_path / "table.csv")
    got = read_manifest(tmp_path / "table.csv")
    assert got.rows == manifest.rows
    for row in got.rows:
        np.testing.assert_array_equal(row_mask(got, row), row_mask(manifest, row))


def test_values_without_a_name_are_said_and_names_may_share_values(tmp_path: Path) -> None:
    manifest = label_maps(tmp_path, FIRST, np.where(SECOND == 3, 255, FIRST))
    both = ClassNames({1: "abdominal organ", 2: "abdominal organ", 9: "spleen"}, source="c.csv")
    with pytest.warns(DataWarning, match=r"c\.csv does not name .* background: 255"):
        got = with_classes(manifest, both, cache_dir=tmp_path / "c")
    assert [(row.text, row.label) for row in got.rows] == [("abdominal organ", (1, 2))] * 2


def test_images_that_show_nothing_are_left_out_with_a_warning(tmp_path: Path) -> None:
    manifest = label_maps(tmp_path, FIRST, 0 * FIRST)
    with pytest.warns(DataWarning, match=r"1 of 2 rows show none of the structures .* i1\.png"):
        assert len(with_classes(manifest, NAMES, cache_dir=tmp_path / "c")) == 2


def bit_map() -> np.ndarray:
    overlap = np.zeros((16, 16), np.uint8)
    overlap[2:12, 2:12] |= 1
    overlap[8:15, 8:15] |= 4
    overlap[0:3, 9:15] |= 2
    return overlap


@pytest.mark.parametrize("declared", [True, False])
def test_structures_that_overlap_are_bits(tmp_path: Path, declared: bool) -> None:
    manifest = label_maps(tmp_path, bit_map())
    names = ClassNames({1: "lung", 2: "clavicle", 4: "heart"}, bits=declared)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = with_classes(manifest, names, cache_dir=tmp_path / "c")
    assert any("read as bits" in str(warning.message) for warning in caught) is not declared
    for row, bit in zip(got.rows, (1, 2, 4), strict=True):
        np.testing.assert_array_equal(row_mask(got, row), bit_map() & bit != 0)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("value,name\nx,liver\n", "row 2: value 'x'"),
        ("value,name\n1,liver\n1,spleen\n", "row 3: the value 1 is named twice"),
        ("value,name\n1,\n", "row 2: the value 1 has no name"),
        ("number,organ\n1,liver\n", "expected the columns value and name, got number, organ"),
        ("value,name\n0,background\n", "names no value above 0"),
        ("value,name,encoding\n1,liver,bytes\n", "expected label or bits"),
    ],
)
def test_bad_tables_of_classes(tmp_path: Path, table: str, why: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(table)
    with pytest.raises(DataError, match=why):
        read_classes(path)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    manifest = label_maps(tmp_path, FIRST)
    with pytest.raises(ConfigError, match="--mask-threshold and --classes exclude each other"):
        with_mask_options(manifest, threshold=1, classes="classes.csv")
    with pytest.raises(ConfigError, match="--absent needs --classes"):
        with_mask_options(manifest, absent=True)
    with pytest.raises(ConfigError, match="expected numbers such as 1,2"):
        with_mask_options(manifest, values="liver")
    with pytest.raises(DataError, match=r"--classes gone\.csv: there is no such file"):
        with_mask_options(manifest, classes="gone.csv")
    with pytest.raises(DataError, match=r"no mask contains a value of classes \(7\)"):
        with_classes(manifest, ClassNames({7: "spleen"}), cache_dir=tmp_path / "c")
    with pytest.raises(DataError, match="no mask contains a value of the column label"):
        decide_rule(with_mask_options(manifest, values="9"), tmp_path / "c")


SETS = [
    "acdc-slices",
    "jsrt-scr",
    "lumbar-vertebrae",
    "mini-curvas-abdomen",
    "mini-uwm-gi",
    "retina-av",
    "wbc",
]


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_real_label_maps(data_root: Path, name: str, tmp_path: Path) -> None:
    root = data_root / "multi-target" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        manifest = with_mask_options(
            read_layout(root), classes="classes.csv", cache_dir=tmp_path / "c"
        )

    # the column `present` of the index says which structures each image shows
    with (root / "index.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    want = Counter()
    for line in lines:
        for entry in filter(None, line["present"].split("|")):
            want[line["image"], entry.partition("=")[2]] += 1
    assert Counter((row.image, row.text) for row in manifest.rows) == want
    assert {row.group for row in manifest.rows} <= {line["group"] for line in lines}

    row = manifest.rows[0]
    value = next(v for v, text in manifest.classes.items() if text == row.text)
    stored = np.asarray(Image.open(root / row.mask))
    truth = stored & value != 0 if lines[0]["encoding"] == "bits" else stored == value
    np.testing.assert_array_equal(row_mask(manifest, row), truth)
