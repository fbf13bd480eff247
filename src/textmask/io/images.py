"""Read and write image and mask files: every variant becomes one array shape, or an error that names the file.

Pillow decodes, because it refuses a truncated file, of which OpenCV returns a half-gray image. OpenCV decodes what
Pillow would cut to 8 bits (16-bit color), and resizes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from textmask.errors import DataError
from textmask.io.array_files import array_image, array_mask, array_size, is_array_file
from textmask.io.files import write_whole
from textmask.io.intensity import MAX_PIXELS, stretch, value_range

# formats with an orientation tag that Pillow does not apply by itself, as it does for TIFF
TAGGED = ("JPEG", "MPO", "PNG", "WEBP")
ORIENTATION_TAG = 274
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap rows and columns
GRAY_MODES = ("L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# what Pillow raises on damaged bytes, depending on the format and on the place of the damage
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
# uint8, uint16, int32 or float32, as in the file
Pixels = npt.NDArray[Any]


def read_image(path: str | Path) -> Bytes:
    """Read an image file as uint8: H W if it is gray (also if stored as three equal channels), else H W 3 RGB.

    Deeper pixels (16 or 32 bits, float) are stretched by their own range: the 0.1th percentile becomes 0 and the
    99.9th 255 (or the lowest and the highest value, if these two are equal). Transparency is dropped, palette colors
    are looked up, and the orientation tag of a photograph is applied. An .npz or .npy is an array, and a NIfTI file has
    one slice.

    Raises:
        DataError: the file is missing, empty, truncated, not an image, a stack of pages, or has more than 100 Mpx.
        ConfigError: the file is NIfTI and nibabel is not installed.
    """
    if is_array_file(path):
        return _as_uint8(array_image(Path(path)), str(path))
    return _as_uint8(_decode_image(Path(path), Path(path)), str(path))


def image_of_bytes(data: bytes, name: str) -> Bytes:
    """As `read_image`, from the bytes of a file.

    Args:
        data: a whole file.
        name: what error messages call the file.

    Raises:
        DataError: as `read_image`.
    """
    if not data:
        raise DataError(f"{name}: is empty (0 bytes). Copy or download it again.")
    return _as_uint8(_decode_image(io.BytesIO(data), Path(name)), name)


def is_pillow_image(image: object) -> bool:
    """Whether an object is an image of Pillow."""
    return isinstance(image, Image.Image)


def image_of_pillow(image: Image.Image) -> Bytes:
    """As `read_image`, from an image that Pillow has opened; its orientation tag is applied.

    Raises:
        DataError: the file behind it is damaged.
    """
    try:
        _read_without_map(image)
        return _as_uint8(_pillow_pixels(ImageOps.exif_transpose(image)), "the Pillow image")
    except DAMAGED as error:
        raise DataError(f"the Pillow image cannot be decoded ({error}).") from error


def without_equal_channels(pixels: Pixels) -> Pixels:
    """H W if all three channels are equal, else the same array."""
    if (
        pixels.ndim == 3
        and (pixels[..., 0] == pixels[..., 1]).all()
        and (pixels[..., 0] == pixels[..., 2]).all()
    ):
        return pixels[..., 0]
    return pixels


def read_mask_pixels(path: str | Path) -> Pixels:
    """Pixels H W or H W 3 of a mask in their stored depth, where transparency and palettes have a meaning.

    A transparent pixel is background; if the color is the same everywhere, the transparency itself is the mask. A
    palette of gray values is looked up; of any other palette the numbers are the values.

    Raises:
        DataError: as `read_image`.
    """
    if is_array_file(path):
        return array_mask(Path(path))
    return _decode_image(Path(path), Path(path), _mask_pixels)


def stored_size(path: str | Path, data: bytes | None = None) -> tuple[int, int]:
    """Rows and columns of an image, read from its header without decoding.

    Args:
        path: the file, or what error messages call it if `data` is given.
        data: the bytes of the file; None reads them from `path`.

    Raises:
        DataError: the file is missing, empty, not an image, or too large.
    """
    path = Path(path)
    if data is None:
        _check_file(path)
        if is_array_file(path):
            return array_size(path)
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            # as upright as `read_image` returns it; a tag behind the pixels of a PNG would need them decoded
            readable = image.format in TAGGED and (image.format != "PNG" or "exif" in image.info)
            tag = image.getexif().get(ORIENTATION_TAG) if readable else None
            rows, columns = image.height, image.width
            return (columns, rows) if tag in SIDEWAYS else (rows, columns)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(path, str(error)) from error
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def orientation_tag(path: str | Path) -> int:
    """Orientation tag in the header of an image, 1 to 8; 1 if there is none or the file cannot be read."""
    try:
        with Image.open(path) as image:
            tag = image.getexif().get(ORIENTATION_TAG, 1)
    except (*DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return 1
    return tag if tag in range(1, 9) else 1


def resize_image(image: Bytes, size: tuple[int, int]) -> Bytes:
    """Resize H W or H W 3 to `size` (rows, columns): area average if the image gets smaller, else bilinear."""
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

    If the mask gets smaller, a pixel is foreground when at least half of the area it covers is, which keeps the size of
    a lesion without dilating it. If it gets larger, each pixel takes the nearest one (`INTER_NEAREST_EXACT`, no shift).
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


def resize_label_map(values: Bytes, size: tuple[int, int]) -> Bytes:
    """Resize a label map to `size` (rows, columns); each pixel takes the value of the nearest one, without a shift."""
    if values.shape == size:
        return values
    return np.asarray(
        cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )


def write_png(
    path: str | Path, array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.bool_]
) -> None:
    """Write H W or H W 3 (RGB) as PNG, atomically. True becomes 255; numbers are written unchanged.

    Raises:
        DataError: the shape or dtype is not supported, or the file cannot be written.
    """
    write_whole(Path(path), png_bytes(array, str(path)))


def png_bytes(
    array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.bool_],
    name: str = "image",
) -> bytes:
    """Encode H W or H W 3 (RGB) as PNG. True becomes 255; numbers are written unchanged.

    Raises:
        DataError: the shape or dtype is not supported; the message begins with `name`.
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

    # OpenCV expects BGR
    pixels = array if array.ndim == 2 else array[..., ::-1]
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise DataError(f"{name}: the PNG encoder refused an array of shape {array.shape}.")
    return bytes(data.tobytes())


def jpeg_bytes(image: Bytes, most_columns: int, quality: int = 88) -> tuple[bytes, int, int]:
    """Encode H W or H W 3 (RGB) as JPEG.

    Args:
        image: uint8 H W or H W 3.
        most_columns: wider images are scaled down to this width.
        quality: of the JPEG, 0 to 100.

    Returns:
        The bytes, and the rows and columns of the encoded image.

    Raises:
        DataError: the encoder refuses the image.
    """
    rows, columns = image.shape[:2]
    if columns > most_columns:
        image = resize_image(image, (max(1, round(rows * most_columns / columns)), most_columns))

    # full color resolution, because outlines are one pixel wide
    pixels = image if image.ndim == 2 else image[..., ::-1]
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels), options)
    if not done:
        raise DataError(f"the JPEG encoder refused an image of shape {image.shape}.")
    return data.tobytes(), image.shape[0], image.shape[1]


def few_colors(png: bytes, colors: int = 32) -> bytes:
    """Reduce a PNG drawing to a palette, which takes a quarter of the bytes; not for images that are measured."""
    buffer = io.BytesIO()
    drawing = Image.open(io.BytesIO(png)).convert("RGB").quantize(colors, dither=Image.Dither.NONE)
    drawing.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path and the case of the letters.")
    if not path.is_file():
        raise DataError(f"{path}: is a directory or a device, expected an image file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes). Copy or download it again.")


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.")
    if path.suffix.lower() in (".dcm", ".nii", ".gz", ".npy", ".npz"):
        return DataError(f"{path}: is not an image; expected PNG, JPEG, TIFF or BMP.")
    return DataError(
        f"{path}: cannot be decoded ({error}). Expected a complete PNG, JPEG, TIFF or BMP: copy or download it again, "
        "or remove its row."
    )


def _too_many_pixels(path: Path, got: str) -> DataError:
    return DataError(f"{path}: {got}; the limit is {MAX_PIXELS:,} pixels. Scale or crop it first.")


def _decode_image(
    source: Path | io.BytesIO, path: Path, convert: Callable[[Image.Image], Pixels] | None = None
) -> Pixels:
    """Pixels H W or H W 3 in their stored depth; `path` is what error messages call the file."""
    if isinstance(source, Path):
        _check_file(source)
    try:
        with Image.open(source) as image:
            # the header is enough to refuse what is too large or ambiguous
            if image.width * image.height > MAX_PIXELS:
                raise _too_many_pixels(path, f"{image.height} x {image.width} pixels")
            stacks = ("TIFF", "GIF", "WEBP", "PNG")
            pages = getattr(image, "n_frames", 1) if image.format in stacks else 1
            if pages > 1:
                raise DataError(
                    f"{path}: contains {pages} pages, expected one image. Export the page you want to use."
                )

            if _is_deep_color(image, source):
                return _decode_deep(source, path)
            return (convert or _pillow_pixels)(_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(path, str(error)) from error
    except UnidentifiedImageError as error:
        # for bytes in memory Pillow's message gives an address
        raise _unreadable(
            path, error if isinstance(source, Path) else OSError("unknown format")
        ) from error
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def _read_without_map(image: Image.Image) -> None:
    """Keep Pillow from mapping an uncompressed TIFF into memory: it maps one that lies on its side in a wrong shape."""
    if image.format == "TIFF" and hasattr(image, "filename"):
        image.filename = ""


def _upright(image: Image.Image) -> Image.Image:
    _read_without_map(image)
    image.load()
    return ImageOps.exif_transpose(image) if image.format in TAGGED else image


def _pillow_pixels(upright: Image.Image) -> Pixels:
    if upright.mode in GRAY_MODES:
        return np.asarray(upright)
    if upright.mode in ("1", "LA", "La"):
        return np.asarray(upright.convert("L"))
    return np.asarray(upright.convert("RGB"))


def _is_deep_color(image: Image.Image, source: Path | io.BytesIO) -> bool:
    """Whether the file has 16-bit color, which Pillow would silently cut to its high bytes."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    if image.format == "PNG":
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as file
        ):
            return file.read(25)[24:25] == b"\x10"  # bit depth in the IHDR chunk
    tags = getattr(image, "tag_v2", None)
    return tags is not None and max(tags.get(258, (8,))) > 8  # BitsPerSample


def _decode_deep(source: Path | io.BytesIO, path: Path) -> Pixels:
    with Image.open(source) as image:
        _read_without_map(image)
        image.load()  # refuses truncated data; OpenCV does not
        # OpenCV turns a TIFF by itself
        tag = image.getexif().get(ORIENTATION_TAG, 1) if image.format in TAGGED else 1
    data = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError(
            f"{path}: the 16-bit color image cannot be decoded. Save it with 8 bits per channel."
        )
    upright = _turned(pixels[..., 2::-1], tag)  # BGR or BGRA -> RGB
    return np.ascontiguousarray(upright)


def _turned(pixels: Pixels, tag: int) -> Pixels:
    """Apply an orientation tag, which OpenCV ignores, as `ImageOps.exif_transpose` does."""
    if tag in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if tag in (2, 3, 6, 7) else pixels


def _as_uint8(pixels: Pixels, where: str) -> Bytes:
    """Convert to uint8, H W if gray; deep pixels are stretched by their own range."""
    pixels = without_equal_channels(pixels)
    if pixels.dtype != np.uint8:
        return stretch(pixels, *value_range(pixels, where))
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _mask_pixels(image: Image.Image) -> Pixels:
    """Pixels H W or H W 3 of a mask: unlike those of a photograph, transparency and palettes count."""
    if image.mode == "1":
        return np.asarray(image)
    if image.mode == "P" and "transparency" not in image.info:
        return _palette_pixels(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa", "P"):
        return _transparent_pixels(image.convert("RGBA"))
    if image.mode in ("RGB", "CMYK", "YCbCr", "LAB", "HSV"):
        return np.asarray(image.convert("RGB"))
    return np.asarray(image)


def _palette_pixels(image: Image.Image) -> Pixels:
    looked_up, numbers = np.asarray(image.convert("RGB")), np.asarray(image)
    used = np.unique(looked_up.reshape(-1, 3), axis=0)
    gray = bool((used == used[:, :1]).all())
    return looked_up if gray else numbers


def _transparent_pixels(image: Image.Image) -> Pixels:
    pixels = np.asarray(image)
    color, alpha = pixels[..., :3], pixels[..., 3]
    if (alpha == 255).all():
        return color
    if (color == color[:1, :1]).all():
        return alpha
    shown = color.astype(np.uint16) * alpha[..., None] // 255
    return np.asarray(shown, np.uint8)
