"""How the values of masks become foreground: one rule per data set, or an error that names the values."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textmask.config import Augment, Stage
from textmask.data.cache import open_split
from textmask.data.check_report import CheckReport
from textmask.data.checks import check
from textmask.data.loaders import Loader
from textmask.data.manifest import Manifest, Row, interval_groups
from textmask.data.mask_scan import decide_rule, row_mask, scan_masks
from textmask.data.splits import hold_out
from textmask.errors import DataError, DataWarning
from textmask.io.mask_rule import MaskRule
from textmask.io.masks import read_mask
from textmask.layouts.read import read_layout

SIZE = (48, 64)


def disc(x: int = 30, radius: int = 11) -> np.ndarray:
    rows, columns = np.indices(SIZE)
    return (rows - 24) ** 2 + (columns - x) ** 2 < radius**2


def texture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 220, (*SIZE, 3), dtype=np.uint8)


def data_set(root: Path, *masks: np.ndarray | Image.Image, suffix: str = "png") -> Manifest:
    """One row per mask, each with a color image of its own."""
    rows = []
    for i, mask in enumerate(masks):
        Image.fromarray(texture(i)).save(root / f"i{i}.png")
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(root / f"m{i}.{suffix}")
        rows.append(Row(f"i{i}.png", f"m{i}.{suffix}", "the disc", "train", f"p{i}"))
    return Manifest(root, tuple(rows), "own")


def masks_of(manifest: Manifest, root: Path) -> list[np.ndarray]:
    decided = decide_rule(manifest, root / "cache")
    return [row_mask(decided, row) for row in decided.rows]


def rgba(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([color] * 3 + [alpha]).astype(np.uint8)


ON = disc().astype(np.uint8)


@pytest.mark.parametrize(
    "stored",
    [
        ON,
        ON * 255,
        ON.astype(np.uint16) * 65535,
        ON.astype(np.int32),
        ON.astype(np.float32),
        ON.astype(np.float32) * 255,
        np.dstack([ON * 255] * 3),
        np.dstack([ON * 255, 0 * ON, 0 * ON]),
        rgba(255 * ON, np.full(SIZE, 255)),
        rgba(np.full(SIZE, 255), 255 * ON),
        rgba(np.zeros(SIZE), 255 * ON),
    ],
    ids=[
        "01", "0255", "16 bit", "int", "float 01", "float 255", "three", "red", "opaque", "white", "black",
    ],
)  # fmt: skip
def test_binary_masks_of_every_storage(tmp_path: Path, stored: np.ndarray) -> None:
    other = np.roll(stored, 5, axis=1)
    suffix = "png" if stored.dtype == np.uint8 else "tif"
    first, second = masks_of(data_set(tmp_path, stored, other, suffix=suffix), tmp_path)
    np.testing.assert_array_equal(first, ON)
    np.testing.assert_array_equal(second, np.roll(ON, 5, axis=1))


def test_palettes_are_numbers_unless_they_are_gray(tmp_path: Path) -> None:
    labels = Image.fromarray(ON + ON * np.roll(ON, 6, axis=1))
    labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    labels.save(tmp_path / "labels.png")
    assert (
        read_mask(tmp_path / "labels.png", label=(2,)).sum() == (ON * np.roll(ON, 6, axis=1)).sum()
    )

    # index 0 is white here: only the color says what is foreground
    swapped = Image.fromarray(1 - ON)
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    swapped.save(tmp_path / "swapped.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "swapped.png"), ON)


HAZE = np.where(disc(), 1.0, 0.0).astype(np.float32)
HAZE[:12] += 0.003
VOID = ON.copy()
VOID[:2] = 255


@pytest.mark.parametrize(
    ("masks", "values"),
    [
        ((ON + ON * np.roll(ON, 4, axis=1),), r"0, 1, 2"),
        ((ON * 100,), r"0, 100"),
        ((VOID,), r"0, 1, 255"),
        ((HAZE,), r"0, 0.003, 1"),
        ((ON, ON * 255), r"0, 1, 255; each file alone is binary"),
        ((np.full(SIZE, 6, np.uint8),), r"values 6"),
        ((np.dstack([ON * 255, np.roll(ON, 9, 1) * 255, 0 * ON]),), "#000000"),
    ],
    ids=["labels", "100", "void", "haze", "mixed", "six", "two colors"],
)
def test_other_values_stop_with_the_values_and_three_ways_on(
    tmp_path: Path, masks: tuple[np.ndarray, ...], values: str
) -> None:
    suffix = "tif" if masks[0].dtype == np.float32 else "png"
    manifest = data_set(tmp_path, *masks, suffix=suffix)
    with pytest.raises(DataError, match=values) as error:
        open_split(manifest, "train", (24, 32), tmp_path / "cache")
    for way in ("--mask-threshold X", "--mask-values 1,2", "--classes classes.csv"):
        assert way in str(error.value)
    report = check(manifest)
    assert codes(report)["mask-values"] == "error"


def codes(report: CheckReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def test_the_three_ways_on(tmp_path: Path) -> None:
    both = ON + ON * np.roll(ON, 4, axis=1)
    manifest = data_set(tmp_path, both)
    row = manifest.rows[0]
    values = replace(manifest, mask_rule=MaskRule("values", values=(2,)))
    above = replace(manifest, mask_rule=MaskRule("threshold", 1))
    named = replace(manifest, rows=(replace(row, label=(2,)),))
    for way in (values, above, named):
        (got,) = masks_of(way, tmp_path)
        np.testing.assert_array_equal(got, both == 2)
    (soft,) = masks_of(replace(manifest, mask_rule=MaskRule("threshold", 0.5)), tmp_path)
    np.testing.assert_array_equal(soft, both > 0)


def test_noise_of_a_jpeg_is_recognized_and_said(tmp_path: Path) -> None:
    masks = [np.roll(ON, 4 * i, axis=1) * 255 for i in range(3)]
    manifest = data_set(tmp_path, *masks, 0 * ON, suffix="jpg")
    with pytest.warns(DataWarning, match=r"3 of 4 masks have compression noise around 0 and 255"):
        found = masks_of(manifest, tmp_path)
    for mask, got in zip(masks, found, strict=False):
        assert (got != mask // 255).mean() < 0.01
    assert not found[3].any()
    assert codes(check(manifest))["mask-noise"] == "warning"


def test_a_label_map_with_void_is_not_taken_for_noise(tmp_path: Path) -> None:
    labels = VOID + ON * np.roll(ON, 4, axis=1)
    with pytest.raises(DataError, match="0, 1, 2, 255"):
        masks_of(data_set(tmp_path, labels, ON), tmp_path)


def test_a_mask_is_never_a_copy_of_an_image_or_a_photograph(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ON * 255, ON * 255, ON * 255)
    (tmp_path / "m1.png").write_bytes((tmp_path / "i0.png").read_bytes())
    Image.fromarray(texture(9)[..., 0]).save(tmp_path / "m2.png")
    with pytest.raises(DataError) as error:
        open_split(manifest, "train", (24, 32), tmp_path / "cache")
    assert "2 rows have an image as their mask" in str(error.value)
    assert "i1.png: its mask m1.png is a copy of the image i0.png" in str(error.value)
    assert "i2.png: its mask m2.png is a photograph with" in str(error.value)
    assert codes(check(manifest))["mask-values"] == "error"


def test_a_mask_with_the_pixels_of_its_image_is_refused(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ON * 255)
    Image.fromarray(ON * 200).save(tmp_path / "i0.png")
    with pytest.raises(DataError, match=r"i0.png: its mask m0.png has the same pixels"):
        open_split(manifest, "train", (24, 32), tmp_path / "cache")


def test_an_empty_mask_may_equal_an_empty_slice(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ON * 255, 0 * ON)
    (tmp_path / "i1.png").write_bytes((tmp_path / "m1.png").read_bytes())
    data = open_split(manifest, "train", (24, 32), tmp_path / "cache")
    assert data.masks[0].any()
    assert not data.masks[1].any()


def test_masks_are_read_once_and_again_when_one_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = data_set(tmp_path, ON, np.roll(ON, 3, axis=1))
    first = scan_masks(manifest, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("textmask.data.mask_scan.read_stored", lambda *_: pytest.fail("read again"))
        assert scan_masks(manifest, tmp_path / "cache") == first
    Image.fromarray(ON * 7).save(tmp_path / "m1.png")
    assert scan_masks(manifest, tmp_path / "cache").files["m1.png"].values == (0, 7)


def test_the_decoded_cache_follows_the_files_and_the_order_of_the_rows(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ON, np.roll(ON, 9, axis=1))
    first = open_split(manifest, "train", SIZE, tmp_path / "cache")
    turned = replace(manifest, rows=manifest.rows[::-1])
    assert turned.hash() == manifest.hash()
    second = open_split(turned, "train", SIZE, tmp_path / "cache")
    np.testing.assert_array_equal(second.images, first.images[::-1])
    np.testing.assert_array_equal(second.masks, first.masks[::-1])

    # a corrected mask is read, not the old one
    Image.fromarray(np.roll(ON, -7, axis=1)).save(tmp_path / "m0.png")
    again = open_split(manifest, "train", SIZE, tmp_path / "cache")
    np.testing.assert_array_equal(again.masks[0], np.roll(ON, -7, axis=1))


def test_masks_that_are_full_or_inverted_are_named(tmp_path: Path) -> None:
    discs = [np.roll(ON, i, axis=1) * 255 for i in range(4)]
    manifest = data_set(tmp_path, *discs, 255 - discs[0], np.full(SIZE, 255, np.uint8))
    report = check(manifest)
    found = {finding.code: finding for finding in report.findings}
    assert found["full-mask"].severity == found["inverted-mask"].severity == "warning"
    assert found["full-mask"].keys == ("i5.png",)
    assert found["inverted-mask"].keys == ("i4.png",)
    assert "inverse of the others" in found["inverted-mask"].message

    (tmp_path / "all").mkdir()
    report = check(data_set(tmp_path / "all", *(255 - mask for mask in discs)))
    assert "may be swapped" in next(f.message for f in report.findings if f.code == "inverted-mask")


# --- rows that share an image -----------------------------------------------------------------------------------------


def test_rows_of_one_image_share_its_pixels(tmp_path: Path) -> None:
    labels = ON.copy()
    labels[30:, :10] = 2
    manifest = data_set(tmp_path, labels, ON)
    row = manifest.rows[0]
    rows = (
        replace(row, text="the disc", label=(1,)),
        replace(row, text="the corner", label=(2,)),
        manifest.rows[1],
        replace(row, text="both", label=(1, 2)),
        replace(row, text="nothing", label=(3,)),
    )
    data = open_split(replace(manifest, rows=rows), "train", (24, 32), tmp_path / "cache")
    assert data.keys == ("i0.png#1", "i0.png#3", "i1.png", "i0.png#2", "i0.png#4")
    assert data.images.shape == (5, 3, 24, 32)
    stored = next((tmp_path / "cache").glob("*.images.memmap")).stat().st_size
    assert stored == 2 * 3 * 24 * 32
    np.testing.assert_array_equal(data.images[0], data.images[3])
    np.testing.assert_array_equal(data.images[[0, 2]][1], data.images[2])
    assert not data.masks[4].any()
    assert data.has_mask.all()
    areas = data.masks.sum(axis=(1, 2))
    assert abs(int(areas[0] + areas[1]) - int(areas[3])) <= 12
    part = data.take(np.array([3, 2]))
    np.testing.assert_array_equal(part.images, np.asarray(data.images)[[3, 2]])


# --- the image is never its own mask ----------------------------------------------------------------------------------


def folders(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for i in range(3):
        Image.fromarray(texture(i)).save(root / f"images/{i}.jpg")
        Image.fromarray(np.roll(ON, i, axis=1) * 255).save(root / f"masks/{i}.png")


@pytest.mark.parametrize("layout", ["csv", "xlsx"])
def test_without_a_mask_column_the_mask_is_looked_up(tmp_path: Path, layout: str) -> None:
    folders(tmp_path)
    cells = [("Image", "Description", "split")]
    cells += [(f"images/{i}.jpg", f"the disc {i}", "train") for i in range(3)]
    if layout == "csv":
        (tmp_path / "table.csv").write_text("\n".join(",".join(line) for line in cells))
    else:
        import openpyxl

        book = openpyxl.Workbook()
        for line in cells:
            book.active.append(line)
        book.save(tmp_path / "train_text.xlsx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        manifest = read_layout(tmp_path)
    assert [row.mask for row in manifest.rows] == [f"masks/{i}.png" for i in range(3)]


def test_a_named_mask_that_is_the_image_is_an_error(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "table.csv").write_text(
        "image,mask,caption,split\nimages/0.jpg,masks/0.png,a,train\nimages/1.jpg,images/1.jpg,b,train\n"
    )
    with pytest.raises(
        DataError, match=r"table.csv row 3: the mask of 'images/1.jpg' is .* its own"
    ):
        read_layout(tmp_path)


def test_a_loader_takes_rows_of_one_image(tmp_path: Path) -> None:
    labels = ON.copy()
    labels[30:, :10] = 2
    manifest = data_set(tmp_path, labels, labels)
    rows = [
        replace(row, text=f"structure {v}", label=(v,)) for row in manifest.rows for v in (1, 2)
    ]
    data = open_split(replace(manifest, rows=tuple(rows)), "train", (24, 32), tmp_path / "cache")
    stage = Stage(name="s", batch_size=4, augment=Augment(flip=0.5), weights={"a": 1.0})
    (batch,) = Loader(data, stage, seed=0, train=True).batches(0)
    assert sorted(batch.keys) == ["i0.png#1", "i0.png#2", "i1.png#1", "i1.png#2"]
    (plain,) = Loader(data, stage, seed=0, train=False).batches(0)
    np.testing.assert_array_equal(plain.image[0], plain.image[1])
    np.testing.assert_array_equal(plain.mask[:, 0].numpy(), data.masks)


def test_rows_of_one_image_are_held_out_together(tmp_path: Path) -> None:
    rows = [Row(f"i{i}.png", None, f"{i} {n}", "train") for i in range(10) for n in range(3)]
    held = hold_out(Manifest(tmp_path, tuple(rows)), 0.2)
    assert held.splits == {"train": 24, "valid": 6}
    images = {split: {row.image for row in held.rows_of(split)} for split in held.splits}
    assert not images["train"] & images["valid"]
    assert interval_groups(held.rows_of("valid")) == [row.image for row in held.rows_of("valid")]
