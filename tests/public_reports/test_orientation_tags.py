"""Photographs that a viewer turns: the orientation tag (EXIF) on the image, on the mask, on both, or on one only."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from textmask.data.cache import open_split
from textmask.data.checks import check
from textmask.data.manifest import read_manifest
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.errors import DataError
from textmask.io.images import image_of_bytes, image_of_pillow, read_image, stored_size

ORIENTATION = 274
LOSSLESS = {"webp": {"lossless": True}, "jpg": {"quality": 95}}
# what a viewer does to the stored pixels
TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.T,
    6: lambda p: p[::-1].T,
    7: lambda p: p[::-1, ::-1].T,
    8: lambda p: p[:, ::-1].T,
}


def save(path: Path, pixels: np.ndarray, tag: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = dict(LOSSLESS.get(path.suffix[1:], {}))
    if tag is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = tag
        options["exif"] = exif
    Image.fromarray(pixels).save(path, **options)


def scene(rows: int = 16, columns: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A dark image with one bright block, and the mask of the block, as they are stored."""
    image = np.full((rows, columns), 20, np.uint8)
    image[:8, :8] = 220
    return image, np.where(image > 100, 255, 0).astype(np.uint8)


def table(root: Path, image: str, mask: str) -> Path:
    lines = [f"{image},{mask},a bright block,{split}" for split in ("train",)]
    (root / "table.csv").write_text("\n".join(["image,mask,text,split", *lines]) + "\n")
    return root / "table.csv"


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "webp", "jpg", "tif"])
def test_image_and_mask_with_the_same_tag_stay_on_each_other(
    tmp_path: Path, ending: str, tag: int
) -> None:
    """Both files come from one camera or were turned together: what is marked is still the bright block."""
    image, mask = scene()
    save(tmp_path / f"a.{ending}", image, tag)
    save(tmp_path / f"a_mask.{ending}", mask, tag)
    manifest = decide_rule(read_manifest(table(tmp_path, f"a.{ending}", f"a_mask.{ending}")))
    found = row_mask(manifest, manifest.rows[0])
    np.testing.assert_array_equal(found, TURNS[tag](mask) > 0)
    seen = read_image(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(found, seen > 100)
    for name in (f"a.{ending}", f"a_mask.{ending}"):
        assert stored_size(tmp_path / name) == seen.shape


@pytest.mark.parametrize("tag", [3, 6, 8])
def test_a_mask_drawn_on_the_turned_image_fits(tmp_path: Path, tag: int) -> None:
    """The image has a tag, the annotation tool showed it upright and saved a mask without one."""
    image, mask = scene()
    save(tmp_path / "a.jpg", image, tag)
    save(tmp_path / "a_mask.png", TURNS[tag](mask), None)
    data = open_split(
        read_manifest(table(tmp_path, "a.jpg", "a_mask.png")), "train", (32, 32), tmp_path / "cache"
    )
    bright = data.images[0][0] > 120
    assert (bright != (data.masks[0] > 0)).mean() < 0.03


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_stored_pixels_is_refused(tmp_path: Path, tag: int) -> None:
    """The annotation tool ignored the tag: rows and columns are exchanged, and the mask is not stretched to fit."""
    image, mask = scene()
    save(tmp_path / "a.jpg", image, tag)
    save(tmp_path / "a_mask.png", mask, None)
    manifest = read_manifest(table(tmp_path, "a.jpg", "a_mask.png"))
    with pytest.raises(
        DataError, match=r"a.jpg has 32 x 16 pixels, its mask a_mask.png has 16 x 32"
    ):
        open_split(manifest, "train", (32, 32), tmp_path / "cache")
    report = check(manifest)
    assert report.has_errors
    assert "orientation-tag" not in {finding.code for finding in report.findings}


@pytest.mark.parametrize(("tag", "columns"), [(3, 32), (2, 32), (6, 16)])
def test_a_tag_on_one_of_two_files_of_equal_size_is_said(
    tmp_path: Path, tag: int, columns: int
) -> None:
    """The sizes fit either way, so that nothing but the tag tells that the mask may lie elsewhere."""
    image, mask = scene(16, columns)
    save(tmp_path / "a.jpg", image, tag)
    save(tmp_path / "a_mask.png", mask, None)
    report = check(read_manifest(table(tmp_path, "a.jpg", "a_mask.png")))
    (finding,) = [f for f in report.findings if f.code == "orientation-tag"]
    assert finding.severity == "warning"
    assert "a.jpg" in finding.message
    # the same tag on both is no question
    save(tmp_path / "a_mask.png", mask, tag)
    report = check(read_manifest(table(tmp_path, "a.jpg", "a_mask.png")))
    assert "orientation-tag" not in {f.code for f in report.findings}


@pytest.mark.parametrize("kind", ["palette", "one bit", "alpha", "16 bit"])
@pytest.mark.parametrize("tag", [3, 6])
def test_every_way_to_store_a_mask_is_turned(tmp_path: Path, kind: str, tag: int) -> None:
    image, mask = scene()
    save(tmp_path / "a.png", image, tag)
    if kind == "palette":
        stored = Image.fromarray((mask > 0).astype(np.uint8), "P")
        stored.putpalette([0, 0, 0, 255, 0, 0])
    elif kind == "one bit":
        stored = Image.fromarray(mask).convert("1")
    elif kind == "alpha":
        stored = Image.fromarray(np.dstack([np.full((*mask.shape, 3), 255, np.uint8), mask]))
    else:
        stored = Image.fromarray((mask > 0).astype(np.uint16) * 65535)
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    stored.save(tmp_path / "a_mask.png", exif=exif)
    manifest = decide_rule(read_manifest(table(tmp_path, "a.png", "a_mask.png")))
    np.testing.assert_array_equal(row_mask(manifest, manifest.rows[0]), TURNS[tag](mask) > 0)


def texture(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("kind", ["gray", "color", "16 bit"])
def test_a_tiff_on_its_side_is_not_scrambled(
    tmp_path: Path, kind: str, compression: str | None, tag: int
) -> None:
    """Uncompressed and compressed files have the same pixels, opened by path, as bytes and with Pillow."""
    stored = texture((6, 10, 3)[: 3 if kind == "color" else 2], np.uint8)
    if kind == "16 bit":
        stored = stored.astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    Image.fromarray(stored).save(path, compression=compression, tiffinfo={ORIENTATION: tag})
    planes = stored if stored.ndim == 3 else stored[..., None]
    turned = np.dstack([TURNS[tag](planes[..., i]) for i in range(planes.shape[2])])
    seen = read_image(path)
    if kind == "16 bit":
        assert seen.shape == turned.shape[:2]
        assert np.corrcoef(seen.ravel(), turned.ravel())[0, 1] > 0.99
    else:
        np.testing.assert_array_equal(seen, turned if kind == "color" else turned[..., 0])
    np.testing.assert_array_equal(image_of_bytes(path.read_bytes(), "a.tif"), seen)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image_of_pillow(opened), seen)
    assert stored_size(path) == seen.shape[:2]


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_tiff_of_16_bit_color_is_turned(tmp_path: Path, tag: int) -> None:
    """Microscopes write these; both files of a pair would have lain in two ways."""
    stored = texture((6, 10, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.tif"), stored[..., ::-1])
    data = bytearray((tmp_path / "a.tif").read_bytes())
    assert data[:4] == b"II*\0"
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [bytes(data[start + 2 + 12 * i : start + 14 + 12 * i]) for i in range(count)]
    entries = [entry for entry in entries if struct.unpack("<H", entry[:2])[0] != ORIENTATION]
    entries.append(struct.pack("<HHIHH", ORIENTATION, 3, 1, tag, 0))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    # a new directory behind the file, with one more entry
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    (tmp_path / "a.tif").write_bytes(data)
    seen = read_image(tmp_path / "a.tif")
    turned = np.dstack([TURNS[tag](stored[..., i]) for i in range(3)])
    assert seen.shape == turned.shape
    assert np.corrcoef(seen.ravel(), turned.ravel())[0, 1] > 0.99
