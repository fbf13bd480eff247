"""Names that contradict geometry are found: exchanged, mirrored, upside down; correct names are not."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.data.check_report import CheckReport
from textmask.data.checks import check
from textmask.data.label_maps import ClassNames, with_classes
from textmask.data.manifest import Manifest, Row
from textmask.data.name_checks import check_names
from textmask.statement import Laterality

PATIENT, IMAGE, UNKNOWN = Laterality.PATIENT, Laterality.IMAGE, Laterality.UNKNOWN


def spine() -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    for value in range(1, 6):
        labels[6 * value - 5 : 6 * value - 1, 10:20] = value
    return labels


def chest() -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    labels[4:28, 2:12], labels[4:28, 20:28] = 1, 2  # the patient's right lung lies on the left
    labels[18:26, 14:20] = 3
    return labels


def heart() -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = 2
    labels[12:20, 12:20] = 3
    labels[8:24, 1:8] = 1
    return labels


SPINE = ClassNames({value: f"L{value} vertebra" for value in range(1, 6)})
CHEST = ClassNames({1: "right lung", 2: "left lung", 3: "heart"})
HEART = ClassNames({1: "right ventricle", 2: "myocardium", 3: "left ventricle"})
EXCHANGED = ClassNames({1: "right ventricle", 3: "myocardium", 2: "left ventricle"})
RETINA = ClassNames({1: "artery", 2: "vein"})


def read(
    root: Path, labels: np.ndarray, names: ClassNames, laterality: Laterality, pixels=None
) -> Manifest:
    rows = []
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 60, labels.shape, dtype=np.uint8)
        Image.fromarray(image if pixels is None else pixels + image).save(root / f"i{i}.png")
        Image.fromarray(labels).save(root / f"m{i}.png")
        rows.append(Row(f"i{i}.png", f"m{i}.png", "", "train", f"p{i}", laterality))
    return with_classes(Manifest(root, tuple(rows), "own"), names, cache_dir=root / "c")


def found(manifest: Manifest) -> list[str]:
    report = CheckReport("own")
    check_names(manifest, report)
    assert report.measured["names_geometry"]
    return [finding.message for finding in report.findings if finding.code == "names-geometry"]


@pytest.mark.parametrize(
    ("labels", "names", "laterality"),
    [
        (spine(), SPINE, UNKNOWN),
        (chest(), CHEST, PATIENT),
        (chest()[:, ::-1].copy(), ClassNames({2: "right lung", 1: "left lung", 3: "pancreas"}), PATIENT),
        (heart(), HEART, UNKNOWN),
    ],
)  # fmt: skip
def test_correct_names_pass(tmp_path: Path, labels, names: ClassNames, laterality) -> None:
    assert not found(read(tmp_path, labels, names, laterality))


@pytest.mark.parametrize(
    ("labels", "names", "laterality", "why"),
    [
        (spine()[::-1].copy(), SPINE, UNKNOWN, "the order of L1 .* from the top is contradicted by 4 of 4"),
        (chest()[:, ::-1].copy(), CHEST, PATIENT, "left lung on the right of the image"),
        (chest()[:, ::-1].copy(), CHEST, PATIENT, "heart on the right half of the image"),
        (chest(), CHEST, IMAGE, "left lung on the left of the image"),
        (heart(), EXCHANGED, UNKNOWN, "left ventricle inside of my"),
        (heart()[:, ::-1].copy(), HEART, UNKNOWN, "right ventricle to the left of left ventricle"),
    ],
)  # fmt: skip
def test_names_that_contradict_geometry(
    tmp_path: Path, labels, names, laterality, why: str
) -> None:
    messages = found(read(tmp_path, labels, names, laterality))
    assert any(re.search(why, message) for message in messages)


def test_arteries_are_brighter_than_veins(tmp_path: Path) -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[2:10, 2:10], labels[20:28, 20:28] = 1, 2
    pixels = np.where(labels == 1, 150, 50).astype(np.uint8)
    assert not found(read(tmp_path, labels, RETINA, UNKNOWN, pixels))
    exchanged = ClassNames({1: "vein", 2: "artery"})
    (message,) = found(read(tmp_path, labels, exchanged, UNKNOWN, pixels))
    assert "artery brighter than vein" in message


def test_one_structure_per_image_is_said(tmp_path: Path) -> None:
    manifest = read(tmp_path, chest(), CHEST, PATIENT)
    rows = [row for i, row in enumerate(manifest.rows) if i in (0, 4, 8)]
    report = CheckReport("own")
    check_names(Manifest(tmp_path, tuple(rows), "own"), report)
    assert "one-structure-per-image" in [finding.code for finding in report.findings]


def test_the_report_of_a_data_set_has_the_findings(tmp_path: Path) -> None:
    report = check(read(tmp_path, spine()[::-1].copy(), SPINE, UNKNOWN))
    assert "names-geometry" in [finding.code for finding in report.findings]


SETS = {
    "lumbar-vertebrae": UNKNOWN,
    "mini-curvas-abdomen": PATIENT,
    "retina-av": UNKNOWN,
    "mini-uwm-gi": UNKNOWN,
}


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_the_names_of_the_public_sets_fit(data_root: Path, name: str, tmp_path: Path) -> None:
    root = data_root / "multi-target" / name
    with (root / "classes.csv").open(newline="") as file:
        names = {int(line["value"]): line["name"] for line in csv.DictReader(file)}
    with (root / "index.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))[:12]
    rows = [
        Row(line["image"], line["label"], "", "train", line["group"], SETS[name]) for line in lines
    ]
    manifest = with_classes(
        Manifest(root, tuple(rows), name), ClassNames(names), cache_dir=tmp_path / "c"
    )
    assert not found(manifest)
