"""Pictures and masks on disk to arrays and back: every odd file is one array shape, or an error that names it.

Decoding is Pillow's, because it refuses a truncated file where OpenCV returns a half-grey picture; OpenCV decodes what
Pillow would cut to 8 bits (16-bit colour) and resizes.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from textmask.errors import DataError
from textmask.io.files import write_whole
from textmask.io.intensity import stretch, value_range

MAX_PIXELS = 100_000_000
GREY_MODES = ("L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# what Pillow raises on damaged bytes, depending on the format and on where the damage is
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
)

Bytes = npt.NDArray[np.uint8]
# uint8, uint16, int32 or float32, as the file has it
Pixels = npt.NDArray[Any]


def read_image(path: str | Path) -> Bytes:
    """Read a picture as uint8: H W when it is grey (also when it was stored as three equal channels), else H W 3 RGB.

    Deeper pixels (16 or 32 bits, float) are stretched by their own range: the 0.1th percentile becomes 0 and the
    99.9th 255 (lowest and highest value where these two are equal). Transparency is dropped, a palette is looked up,
    the orientation tag of a photograph is applied.

    Raises:
        DataError: the file is missing, empty, truncated, no picture, a stack of pages, or has more than 100 Mpx.
    """
    return _greys(_decode_image(Path(path), Path(path)), str(path))


def image_of_bytes(data: bytes, name: str) -> Bytes:
    """`read_image` of the bytes of a file; `name` is what messages call it.

    Raises:
        DataError: as `read_image`.
    """
    if not data:
        raise DataError(f"{name}: is empty (0 bytes). Copy or download it again.")
    return _greys(_decode_image(io.BytesIO(data), Path(name)), name)


def without_equal_channels(pixels: Pixels) -> Pixels:
    """H W where three channels are the same, else as it is."""
    if (
        pixels.ndim == 3
        and (pixels[..., 0] == pixels[..., 1]).all()
        and (pixels[..., 0] == pixels[..., 2]).all()
    ):
        return pixels[..., 0]
    return pixels


def read_mask(path: str | Path) -> Bytes:
    """Read a mask as uint8 H W of 0 and 1, whatever it was saved as: 0/1, 0/255, three channels, noised by JPEG.

    Foreground is > 127 where the highest value is above 1, else > 0; of several channels the brightest counts.

    Raises:
        DataError: as `read_image`.
    """
    pixels = _decode_image(Path(path), Path(path))
    if pixels.ndim == 3:
        pixels = pixels.max(axis=-1)
    threshold = 127 if pixels.max() > 1 else 0
    return np.ascontiguousarray(pixels > threshold, dtype=np.uint8)


def stored_size(path: str | Path, data: bytes | None = None) -> tuple[int, int]:
    """(rows, columns) from the header, without decoding.

    Args:
        path: the file, or what messages call it where `data` is given.
        data: its bytes, where it is no file.

    Raises:
        DataError: the file is missing, empty, no picture, or too large.
    """
    path = Path(path)
    if data is None:
        _check_file(path)
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(path, str(error)) from error
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def resize_image(image: Bytes, size: tuple[int, int]) -> Bytes:
    """Resize H W or H W 3 to `size` (rows, columns): area average where pixels get fewer, else bilinear."""
    rows, columns = size
    if image.shape[:2] == (rows, columns):
        return image
    fewer = rows * columns < image.shape[0] * image.shape[1]
    return np.asarray(
        cv2.resize(
            image, (columns, rows), interpolation=cv2.INTER_AREA if fewer else cv2.INTER_LINEAR
        ),
        np.uint8,
    )


def resize_mask(mask: Bytes, size: tuple[int, int]) -> Bytes:
    """Resize a 0/1 mask to `size` (rows, columns); the result is 0/1 again.

    Where pixels get fewer a pixel is foreground when at least half of the area it covers is, which keeps the size of
    a lesion without dilating it; where they get more it takes the nearest pixel (`INTER_NEAREST_EXACT`, not shifted).
    """
    rows, columns = size
    if mask.shape == (rows, columns):
        return mask
    if rows * columns < mask.shape[0] * mask.shape[1]:
        share = cv2.resize(
            np.where(mask > 0, 255, 0).astype(np.uint8),
            (columns, rows),
            interpolation=cv2.INTER_AREA,
        )
        return np.asarray(share > 127, np.uint8)
    return np.asarray(
        cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )


def write_png(
    path: str | Path, array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.bool_]
) -> None:
    """Write H W or H W 3 (RGB) as PNG, whole or not at all; True becomes 255, numbers stay as they are.

    Raises:
        DataError: another shape or dtype, or the file cannot be written.
    """
    write_whole(Path(path), png_bytes(array, str(path)))


def png_bytes(
    array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.bool_],
    name: str = "picture",
) -> bytes:
    """Encode H W or H W 3 (RGB) as PNG; True becomes 255, numbers stay as they are.

    Raises:
        DataError: another shape or dtype; the message begins with `name`.
    """
    if array.dtype == np.bool_:
        array = np.where(array, 255, 0).astype(np.uint8)
    if (
        array.dtype not in (np.uint8, np.uint16)
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (3,))
    ):
        raise DataError(
            f"{name}: cannot write {array.dtype} {array.shape} as PNG; expected H W or H W 3 of uint8, uint16 or bool."
        )
    pixels = array if array.ndim == 2 else array[..., ::-1]
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise DataError(f"{name}: the PNG encoder refused an array of shape {array.shape}.")
    return bytes(data.tobytes())


def jpeg_bytes(image: Bytes, most_columns: int, quality: int = 88) -> tuple[bytes, int, int]:
    """Encode H W or H W 3 (RGB) as JPEG, scaled down where it is wider; returns the bytes, rows and columns.

    Raises:
        DataError: the encoder refuses the picture.
    """
    rows, columns = image.shape[:2]
    if columns > most_columns:
        image = resize_image(image, (max(1, round(rows * most_columns / columns)), most_columns))
    pixels = image if image.ndim == 2 else image[..., ::-1]
    # full colour resolution: outlines are one pixel wide
    how = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels), how)
    if not done:
        raise DataError(f"the JPEG encoder refused a picture of shape {image.shape}.")
    return data.tobytes(), image.shape[0], image.shape[1]


def few_colours(png: bytes, colours: int = 32) -> bytes:
    """A drawing with a palette of few colours, a quarter of the bytes; not for pictures that are measured."""
    buffer = io.BytesIO()
    drawing = Image.open(io.BytesIO(png)).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    drawing.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path, and the letter case of its name.")
    if not path.is_file():
        raise DataError(f"{path}: is a folder or device, expected a picture file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes). Copy or download it again.")


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path}: may not be read ({error.strerror}). Check its permissions.")
    if path.suffix.lower() in (".dcm", ".nii", ".gz", ".npy", ".npz"):
        return DataError(f"{path}: is not a picture; expected PNG, JPEG, TIFF or BMP.")
    return DataError(
        f"{path}: cannot be decoded ({error}). Expected a complete PNG, JPEG, TIFF or BMP: copy or download it again, "
        "or remove its row."
    )


def _too_many_pixels(path: Path, got: str) -> DataError:
    return DataError(
        f"{path}: {got}; at most {MAX_PIXELS:,} pixels are decoded. Scale or crop it first."
    )


def _decode_image(source: Path | io.BytesIO, path: Path) -> Pixels:
    """H W or H W 3 pixels at the depth they were stored in; `path` is what messages call the file."""
    if isinstance(source, Path):
        _check_file(source)
    try:
        with Image.open(source) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_many_pixels(path, f"{picture.height} x {picture.width} pixels")
            pages = getattr(picture, "n_frames", 1) if picture.format in ("TIFF", "GIF") else 1
            if pages > 1:
                raise DataError(
                    f"{path}: holds {pages} pages, expected one picture. Export the page you mean."
                )
            if _is_deep_colour(picture, source):
                return _decode_deep(source, path)
            return _pillow_pixels(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(path, str(error)) from error
    except UnidentifiedImageError as error:
        # of bytes in memory Pillow's message gives an address
        raise _unreadable(
            path, error if isinstance(source, Path) else OSError("of no known format")
        ) from error
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def _pillow_pixels(picture: Image.Image) -> Pixels:
    picture.load()
    upright = ImageOps.exif_transpose(picture) if picture.format in ("JPEG", "MPO") else picture
    if upright.mode in GREY_MODES:
        return np.asarray(upright)
    if upright.mode in ("1", "LA", "La"):
        return np.asarray(upright.convert("L"))
    return np.asarray(upright.convert("RGB"))


def _is_deep_colour(picture: Image.Image, source: Path | io.BytesIO) -> bool:
    """Whether the file has 16-bit colour, which Pillow would silently cut to its high bytes."""
    if picture.mode not in ("RGB", "RGBA"):
        return False
    if picture.format == "PNG":
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as file
        ):
            return file.read(25)[24:25] == b"\x10"  # bit depth in the IHDR chunk
    tags = getattr(picture, "tag_v2", None)
    return tags is not None and max(tags.get(258, (8,))) > 8  # BitsPerSample


def _decode_deep(source: Path | io.BytesIO, path: Path) -> Pixels:
    with Image.open(source) as picture:
        picture.load()  # refuses truncated data; OpenCV does not
    data = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError(
            f"{path}: the 16-bit colour picture cannot be decoded. Save it with 8 bits per channel."
        )
    return np.ascontiguousarray(pixels[..., 2::-1])  # BGR or BGRA -> RGB


def _greys(pixels: Pixels, where: str) -> Bytes:
    """As uint8, H W where it is grey; deep pixels stretched by their own range."""
    pixels = without_equal_channels(pixels)
    if pixels.dtype != np.uint8:
        return stretch(pixels, *value_range(pixels, where))
    return np.ascontiguousarray(pixels, dtype=np.uint8)
