import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from textmask.errors import DataError
from textmask.io.images import (
    read_image,
    resize_image,
    resize_mask,
    stored_size,
    write_png,
)
from textmask.io.masks import read_mask

GREY = np.random.default_rng(0).integers(0, 256, (37, 51), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (37, 51, 3), dtype=np.uint8)
BINARY = (np.add.outer(np.arange(40), np.arange(60)) % 37 < 15).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_gray_and_color_come_back_as_stored(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read_image(save(tmp_path / f"g.{suffix}", GREY)), GREY)
    assert np.array_equal(read_image(save(tmp_path / f"c.{suffix}", COLOUR)), COLOUR)


def test_three_equal_channels_are_gray(tmp_path: Path) -> None:
    assert np.array_equal(read_image(save(tmp_path / "a.png", np.stack([GREY] * 3, -1))), GREY)


def test_alpha_palette_and_one_bit(tmp_path: Path) -> None:
    alpha = np.dstack([COLOUR, GREY])
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", alpha)), COLOUR)
    Image.fromarray(BINARY * 255).convert("1").save(tmp_path / "one.png")
    assert np.array_equal(read_image(tmp_path / "one.png"), BINARY * 255)
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))


def test_gray_jpeg_as_opencv_decodes_it(tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(GREY, (9, 9), 3)
    path = save(tmp_path / "a.jpg", smooth, quality=90)
    theirs = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(int)
    assert np.abs(read_image(path).astype(int) - theirs).max() <= 1


def test_orientation_tag_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "a.jpg", np.zeros((10, 30), np.uint8), exif=exif)
    assert read_image(path).shape == (30, 10)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_stretched_by_its_own_range(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(1000, 5000, 256).astype(np.uint16).repeat(40).reshape(256, 40)
    got = read_image(save(tmp_path / f"a.{suffix}", ramp))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - np.arange(256)[:, None]).max() <= 1


def test_16_bit_outliers_and_constants(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 5000, 10000).astype(np.uint16).reshape(100, 100)
    ramp[0, 0], ramp[99, 99] = 0, 65535
    assert read_image(save(tmp_path / "hot.png", ramp)).std() > 60
    assert not read_image(save(tmp_path / "flat.png", np.full((9, 9), 700, np.uint16))).any()
    lone = np.zeros((100, 100), np.uint16)
    lone[50, 50] = 900
    assert read_image(save(tmp_path / "lone.png", lone))[50, 50] == 255


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_color_keeps_its_range_and_order(tmp_path: Path, suffix: str) -> None:
    deep = (
        COLOUR.astype(np.uint16) + 100
    ) * 3  # far below 65535: the high bytes alone would be 0..4
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), deep[..., ::-1])
    assert np.abs(read_image(path).astype(int) - COLOUR).max() <= 3


def test_float_with_nan_is_an_error(tmp_path: Path) -> None:
    values = GREY.astype(np.float32)
    values[3, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        read_image(save(tmp_path / "a.tif", values))


@pytest.mark.parametrize("read", [read_image, read_mask, stored_size])
def test_missing_empty_and_no_image(tmp_path: Path, read: object) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        read(tmp_path / "gone.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png: is empty"):
        read(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture at all")
    with pytest.raises(DataError, match=r"text\.png: cannot be decoded"):
        read(tmp_path / "text.png")
    (tmp_path / "film.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(DataError, match=r"film\.dcm: is not an image"):
        read(tmp_path / "film.dcm")
    with pytest.raises(DataError, match="is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_truncated_is_an_error_not_a_half_gray_image(
    tmp_path: Path, suffix: str, kept: float, read: object
) -> None:
    path = save(
        tmp_path / f"a.{suffix}",
        np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8),
    )
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=r"a\.(png|jpg|tif): cannot be decoded"):
        read(path)


def test_truncated_16_bit_color_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), COLOUR.astype(np.uint16) * 200)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("side", [10_001, 40_000])
@pytest.mark.parametrize("read", [read_image, stored_size])
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, side: int, read: object) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"bomb\.png: .*pixels"):
        read(tmp_path / "bomb.png")


def test_a_stack_of_pages_is_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(GREY)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="2 pages"):
        read_image(tmp_path / "a.tif")


def test_every_way_to_save_a_mask_reads_the_same(tmp_path: Path) -> None:
    noised = BINARY * 255
    variants = {
        "01.png": save(tmp_path / "01.png", BINARY),
        "0255.png": save(tmp_path / "0255.png", noised),
        "colour.png": save(tmp_path / "colour.png", np.stack([noised] * 3, -1)),
        "red.png": save(tmp_path / "red.png", np.stack([noised, 0 * noised, 0 * noised], -1)),
        "noised.jpg": save(tmp_path / "noised.jpg", noised, quality=80),
        "deep.png": save(tmp_path / "deep.png", noised.astype(np.uint16) * 257),
    }
    Image.fromarray(noised).convert("1").save(tmp_path / "bit.png")
    for path in (*variants.values(), tmp_path / "bit.png"):
        got = read_mask(path)
        assert got.dtype == np.uint8
        assert np.array_equal(got, BINARY), path.name
    jpeg = np.asarray(Image.open(tmp_path / "noised.jpg"))
    assert len(np.unique(jpeg)) > 2  # the noise is real


def test_empty_masks_stay_empty(tmp_path: Path) -> None:
    assert not read_mask(save(tmp_path / "a.png", np.zeros((9, 9), np.uint8))).any()


def test_size_without_decoding(tmp_path: Path) -> None:
    assert stored_size(save(tmp_path / "a.png", COLOUR)) == (37, 51)


def test_resize_image_shape_and_mean() -> None:
    assert resize_image(COLOUR, (20, 30)).shape == (20, 30, 3)
    assert resize_image(GREY, (74, 102)).shape == (74, 102)
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert (
        np.abs(resize_image(checker, (16, 16)).astype(int) - 128).max() <= 1
    )  # averaged, not sampled


def test_resize_mask_stays_binary_and_keeps_area() -> None:
    disc = (np.hypot(*(np.indices((200, 300)) - np.array([90, 120])[:, None, None])) < 50).astype(
        np.uint8
    )
    for size in ((64, 96), (200, 300), (400, 900)):
        got = resize_mask(disc, size)
        assert got.shape == size
        assert got.dtype == np.uint8
        assert set(np.unique(got)) == {0, 1}
        assert got.mean() == pytest.approx(disc.mean(), rel=0.02)
        rows, columns = np.nonzero(got)
        assert (rows.mean() + 0.5) / size[0] == pytest.approx(90.5 / 200, abs=0.002)  # not shifted
        assert (columns.mean() + 0.5) / size[1] == pytest.approx(120.5 / 300, abs=0.002)


@pytest.mark.parametrize("array", [GREY, COLOUR, BINARY.astype(bool), GREY.astype(np.uint16) * 200])
def test_written_png_reads_back(tmp_path: Path, array: np.ndarray) -> None:
    write_png(tmp_path / "a.png", array)
    want = array.astype(np.uint8) * 255 if array.dtype == bool else array
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), want)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", GREY)
    before = (tmp_path / "a.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("textmask.io.files.os.replace", full)
    with pytest.raises(DataError, match="No space left"):
        write_png(tmp_path / "a.png", COLOUR)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_write_png_refuses_what_is_no_image(tmp_path: Path) -> None:
    for array in (GREY.astype(np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros(5, np.uint8)):
        with pytest.raises(DataError, match="expected H W or H W 3"):
            write_png(tmp_path / "a.png", array)
    with pytest.raises(DataError, match="cannot be written"):
        write_png(tmp_path / "no" / "a.png", GREY)


def test_a_drawing_with_few_colors_looks_the_same_and_is_smaller():
    from textmask.io.images import few_colors
    from textmask.plots.charts import bar_intervals_png

    png = bar_intervals_png([("a", 0.5, 0.4, 0.6), ("b", 0.2, 0.1, 0.3)], "share")
    small = few_colors(png)
    assert len(small) < len(png) / 2
    before, after = (
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
        for data in (png, small)
    )
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 2
    assert few_colors(png) == small


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_orientation_tag_is_applied_in_every_format_that_carries_it(tmp_path, ending, tag):
    exif = Image.Exif()
    exif[274] = tag
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255
    options = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).convert("RGB").save(path, exif=exif, **options)

    # where the bright corner belongs, after the definition of the tag
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}
    corner |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    got = read_image(path)
    assert got.shape == stored_size(path) == ((32, 16) if tag >= 5 else (16, 32))
    assert got[corner[tag]] > 200
    assert got.mean() < 80


def test_orientation_tag_of_deep_color(tmp_path):
    import cv2

    deep = np.zeros((10, 30, 3), np.uint16)
    deep[:5, :10] = 65535
    deep[5:, 20:] = (65535, 0, 0)
    for tag in range(1, 9):
        exif = Image.Exif()
        exif[274] = tag
        plain = tmp_path / "plain.png"
        cv2.imwrite(str(plain), deep)
        body, chunk = plain.read_bytes(), exif.tobytes().removeprefix(b"Exif\0\0")
        part = b"eXIf" + chunk
        inserted = len(chunk).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big")
        tagged = tmp_path / f"{tag}.png"
        tagged.write_bytes(body[:33] + inserted + body[33:])
        expected = ImageOps.exif_transpose(_tagged(deep[..., ::-1] // 257, tag))
        np.testing.assert_array_equal(read_image(tagged), np.asarray(expected))


def _tagged(pixels, tag):
    image = Image.fromarray(pixels.astype(np.uint8))
    image.getexif()[274] = tag
    return image


def test_an_animation_is_not_read_as_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 255)]
    for name in ("a.webp", "a.png", "a.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match="2 pages"):
            read_image(tmp_path / name)
