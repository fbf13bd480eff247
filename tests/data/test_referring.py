"""Label maps as referring data: values are kept, masks are made on the fly, sides follow the declared convention."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.label_maps import ClassNames, as_label_maps, read_classes, with_classes
from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.data.referring import label_masks, open_referring
from textmask.errors import DataError, DataWarning, LateralityError
from textmask.io.images import resize_label_map
from textmask.layouts.read import read_layout
from textmask.statement import Laterality
from textmask.text.execution import run_program
from textmask.text.program_grammar import parse_program

NAMES = ClassNames(
    {1: "liver", 2: "left kidney", 3: "right kidney", 4: "pancreas"}, source="classes.csv"
)
PATIENT, IMAGE, UNKNOWN = Laterality.PATIENT, Laterality.IMAGE, Laterality.UNKNOWN


def write(root: Path, laterality: Laterality, *maps: np.ndarray) -> Manifest:
    rows = []
    for i, labels in enumerate(maps):
        pixels = np.random.default_rng(i).integers(0, 256, labels.shape, dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"i{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(root / f"m{i}.png")
        rows.append(Row(f"i{i}.png", f"m{i}.png", "", "train", f"p{i}", laterality))
    return Manifest(root, tuple(rows), "own")


def body() -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    labels[2:12, 2:14] = 1
    labels[18:26, 22:28] = 2
    labels[18:25, 4:10] = 3
    return labels


def test_image_and_label_map_are_decoded_once_and_masks_made_on_the_fly(tmp_path: Path) -> None:
    manifest = write(tmp_path, PATIENT, body(), np.where(body() == 3, 0, body()))
    data = open_referring(manifest, NAMES, "train", (32, 32), cache_dir=tmp_path / "c")
    assert len(data) == 2
    np.testing.assert_array_equal(data.data.masks[0], body())
    assert data.data.images.shape == (2, 1, 32, 32)
    masks = data.masks(1)
    np.testing.assert_array_equal(masks["left kidney"], body() == 2)
    assert not masks["right kidney"].any()
    got = data.mask(0, parse_program("both kidneys and the liver", PATIENT))
    np.testing.assert_array_equal(got, body() > 0)
    assert got.dtype == np.uint8


def test_drawn_prompts_have_the_mask_of_their_words(tmp_path: Path) -> None:
    data = open_referring(
        write(tmp_path, PATIENT, body()), NAMES, "train", (32, 32), cache_dir=tmp_path / "c"
    )
    drawn = data.draw(0, 12, np.random.default_rng(0))
    assert len({expression.kind for expression, _ in drawn}) > 5
    for expression, mask in drawn:
        program = parse_program(expression.prompt, PATIENT)
        np.testing.assert_array_equal(mask, run_program(program, data.masks(0)))
    absent = [one for one in data.expressions(0, np.random.default_rng(0)) if one.kind == "absent"]
    assert ["pancreas" in one.prompt for one in absent] == [True]
    again = data.draw(0, 12, np.random.default_rng(0))
    assert [one for one, _ in drawn] == [one for one, _ in again]


def test_names_by_the_sides_of_the_image_are_turned_into_the_patients(tmp_path: Path) -> None:
    manifest = write(tmp_path, IMAGE, body())
    data = open_referring(manifest, NAMES, "train", (32, 32), cache_dir=tmp_path / "c")
    np.testing.assert_array_equal(data.masks(0)["right kidney"], body() == 2)
    assert data.laterality is IMAGE


def test_a_side_of_unknown_convention_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, UNKNOWN, body())
    with pytest.raises(LateralityError, match=r"'left kidney' has a side, .* --laterality patient"):
        open_referring(manifest, NAMES, "train", (32, 32), cache_dir=tmp_path / "c")


def test_values_and_names_that_are_unknown_are_said(tmp_path: Path) -> None:
    manifest = write(tmp_path, PATIENT, body() + 200 * (body() == 1).astype(np.uint8))
    with pytest.warns(DataWarning, match=r"classes\.csv does not name .* background: 201"):
        open_referring(manifest, NAMES, "train", (32, 32), cache_dir=tmp_path / "c")
    gizmo = ClassNames({1: "gizmo", 2: "left kidney", 3: "right kidney"}, source="own.csv")
    with pytest.warns(DataWarning, match=r"own\.csv: 1 names are not in the vocabulary .* gizmo"):
        data = open_referring(
            write(tmp_path, PATIENT, body()), gizmo, "train", (32, 32), cache_dir=tmp_path / "c"
        )
    assert data.masks(0)["gizmo"].any()
    assert not any("gizmo" in one.prompt for one in data.expressions(0, np.random.default_rng(0)))


def test_values_above_a_byte_are_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, PATIENT, body())
    Image.fromarray(body().astype(np.uint16) * 100).save(tmp_path / "m0.png")
    names = ClassNames({100: "liver", 200: "heart", 300: "pancreas"})
    with pytest.raises(DataError, match="has the value 300; values above 255"):
        as_label_maps(manifest, names, cache_dir=tmp_path / "c")


def test_label_maps_are_resized_without_new_values() -> None:
    values = np.kron([[1, 3], [0, 7]], np.ones((8, 8))).astype(np.uint8)
    np.testing.assert_array_equal(resize_label_map(values, (4, 4)), values[::4, ::4])
    np.testing.assert_array_equal(resize_label_map(values, (32, 16)), np.repeat(values, 2, axis=0))
    assert resize_label_map(values, (16, 16)) is values


def test_bits_overlap() -> None:
    values = np.array([[0, 1, 3, 2]], np.uint8)
    masks = label_masks(values, {"lung": (1, 3), "heart": (2, 3)})
    np.testing.assert_array_equal(masks["lung"], [[False, True, True, False]])
    np.testing.assert_array_equal(masks["heart"], [[False, False, True, True]])


SETS = {
    "jsrt-scr": PATIENT, "lumbar-vertebrae": UNKNOWN, "mini-curvas-abdomen": PATIENT, "mini-uwm-gi": UNKNOWN,
    "retina-av": UNKNOWN, "wbc": UNKNOWN,
}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_prompts_for_real_label_maps_are_read_as_they_are_meant(
    data_root: Path, name: str, tmp_path: Path
) -> None:
    root = data_root / "multi-target" / name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rows have no text")
        manifest = read_layout(root, laterality=SETS[name])
    few = Manifest(root, manifest.rows_of("test")[:4], name)
    classes = read_classes(root / "classes.csv")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*values are read as bits")
        data = open_referring(few, classes, "test", (96, 96), cache_dir=tmp_path / "c")
        rows = decide_rule(with_classes(few, classes, cache_dir=tmp_path / "c")).rows
    for number in range(len(data)):
        masks = data.masks(number)
        for one in data.expressions(number, np.random.default_rng(number), held_out="with"):
            program = parse_program(one.prompt, data.laterality)
            want = run_program(one.step, masks)
            np.testing.assert_array_equal(run_program(program, masks), want, one.prompt)

    # at their own size the masks are those of `--classes`
    row = next(row for row in rows if row.image == few.rows[0].image)
    stored = np.asarray(Image.open(root / few.rows[0].mask)).astype(np.uint8)
    got = label_masks(stored, data.labels)[data.structures.find(row.text).label]
    np.testing.assert_array_equal(got, row_mask(few, row).astype(bool))
