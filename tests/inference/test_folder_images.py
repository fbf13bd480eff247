"""Which files of a folder are segmented: every image that can be read, never a mask, each with its own name."""

import json
import warnings
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from textmask.errors import DataError, DataWarning
from textmask.inference.jobs import BatchItem, read_jobs

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
MASK = np.where(PHOTO > 128, 255, 0).astype(np.uint8)


def write(path, pixels=PHOTO):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def names(folder):
    return [job.image.relative_to(folder).as_posix() for job in read_jobs(folder, "lung")]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.png", "masks/a.png"),
        ("Train/images/a.png", "Train/lesion mask/a.png"),
        ("imagesTr/a_0000.png", "labelsTr/a.png"),
        ("a.png", "a_mask.png"),
        ("a.png", "a_mask_1.png"),
        ("a.png", "mask_a.png"),
        ("a.jpg", "a_segmentation.png"),
        ("a.jpg", "a_seg.png"),
        ("Training_Input/a.jpg", "Training_GroundTruth/a.png"),
        ("scans/a.png", "outlines/a.png"),  # known by its pixels only
    ],
)
def test_masks_in_a_folder_are_left_out_and_named(tmp_path, image, mask):
    write(tmp_path / image)
    write(tmp_path / mask, MASK)
    with pytest.warns(DataWarning, match="left out as masks") as caught:
        assert names(tmp_path) == [image]
    assert mask in str(caught[0].message)


def test_a_table_names_the_masks(tmp_path):
    write(tmp_path / "x1.png")
    write(tmp_path / "y1.png", MASK)
    (tmp_path / "pairs.csv").write_text("image,mask,text\nx1.png,y1.png,lung\n")
    with pytest.warns(DataWarning, match=r"left out as masks: y1\.png"):
        assert names(tmp_path) == ["x1.png"]


@pytest.mark.parametrize(
    "name", ["kvasir-seg/a.png", "a_label.png", "masquerade.png", "b/a.png", "unmasked/c.png"]
)
def test_images_with_such_names_are_not_masks(tmp_path, name):
    write(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(tmp_path) == [name]


def test_a_folder_of_masks_only_is_refused_and_a_named_mask_is_not(tmp_path):
    write(tmp_path / "set" / "masks" / "a.png", MASK)
    with pytest.raises(DataError, match=r"contains only masks: masks/a\.png"):
        read_jobs(tmp_path / "set", "lung")
    assert len(read_jobs(tmp_path / "set" / "masks" / "a.png", "lung")) == 1


def test_every_format_that_works_alone_is_found_in_a_folder(tmp_path):
    expected = [f"a.{ending}" for ending in ("bmp", "gif", "jp2", "jpg", "png", "tif", "webp")]
    for name in expected:
        write(tmp_path / name)
    (tmp_path / "phone.heic").write_bytes(b"x")
    with pytest.warns(DataWarning, match=r"not read: phone\.heic"):
        assert names(tmp_path) == expected


def test_names_of_any_script_are_kept_and_never_collide(tmp_path):
    stems = [
        "肺部-01",
        "肺部-02",
        "Lunge_ä",
        "Lunge_ö",
        "снимок",
        "สมอง",
        "ä" * 200,
        "肺" * 200,
        "हिन्दी",
    ]
    jobs = [BatchItem(tmp_path / f"{stem}.png", "lung") for stem in stems]
    found = [job.stem for job in jobs]
    assert len({stem.casefold() for stem in found}) == len(found)
    assert all(len(f"{stem}.probability.png".encode()) < 255 for stem in found)
    assert found[0].startswith("肺部-01-lung-")
    assert found[2].startswith("lunge-ä-lung-")
    assert found[8].startswith("हिन्दी-lung-")


def test_ascii_names_are_those_of_earlier_versions():
    job = BatchItem(Path("images/Case_01.png"), "Left lung!")
    assert job.stem == "case-01-left-lung-412656320e"


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.tsv", "jobs.jsonl", "jobs.xlsx"])
def test_a_jobs_file_may_be_any_table(tmp_path, name):
    path = tmp_path / name
    write(tmp_path / "films/a.png")
    rows = [
        ("image", "text", "index"),
        ("films\\a.png", "left lung", ""),
        ("films/a.png", "nan", ""),
    ]
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]]
        path.write_text("\n".join(lines))
    elif name.endswith(".xlsx"):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
    else:
        mark = "," if name.endswith(".csv") else "\t"
        path.write_text("\n".join(mark.join(row) for row in rows))
    items = read_jobs(path, None)
    assert [(item.image, item.text) for item in items] == [
        (tmp_path / "films/a.png", "left lung"),
        (tmp_path / "films/a.png", ""),
    ]
