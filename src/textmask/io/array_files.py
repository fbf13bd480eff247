"""Images and masks in files of arrays: .npz (`imgs` and `gts` in one file), .npy, and NIfTI files of one slice."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from textmask.errors import DataError
from textmask.io.intensity import MAX_PIXELS, Pixels
from textmask.io.nifti import read_nifti, slice_values

IMAGE_KEYS = ("imgs", "img", "image", "images")
MASK_KEYS = ("gts", "gt", "mask", "masks", "label", "labels")
ARRAYS = (".npz", ".npy", ".nii", ".nii.gz")


def is_array_file(path: str | Path) -> bool:
    """Whether a file holds arrays, by its name."""
    return str(path).lower().endswith(ARRAYS)


def holds_both(path: str | None) -> bool:
    """Whether a file may hold an image and its mask, so that both have one name."""
    return path is not None and path.lower().endswith(".npz")


def has_mask_array(path: Path) -> bool:
    """Whether an .npz has a mask besides its image; False for a file that cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return not names.isdisjoint(IMAGE_KEYS) and not names.isdisjoint(MASK_KEYS)


def array_image(path: Path) -> Pixels:
    """The image H W or H W 3 of a file.

    Raises:
        DataError: the file is missing, damaged, or holds another kind of array, such as a volume.
        ConfigError: the file is NIfTI and nibabel is not installed.
    """
    if is_nifti_name(path):
        slice_values(path)  # refuses volumes
        return read_nifti(path)[0].pixels
    return _plane(_stored_array(path, IMAGE_KEYS), path, channels=True)


def array_mask(path: Path) -> Pixels:
    """The stored values H W of the mask in a file.

    Raises:
        DataError: as `array_image`.
        ConfigError: as `array_image`.
    """
    if is_nifti_name(path):
        return slice_values(path)
    return _plane(_stored_array(path, MASK_KEYS), path, channels=False)


def array_size(path: Path) -> tuple[int, int]:
    """Rows and columns of the image in a file.

    Raises:
        DataError: as `array_image`.
        ConfigError: as `array_image`.
    """
    pixels = slice_values(path) if is_nifti_name(path) else array_image(path)
    return pixels.shape[0], pixels.shape[1]


def is_nifti_name(path: Path) -> bool:
    """Whether a file has the ending of NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _stored_array(path: Path, keys: Sequence[str]) -> np.ndarray:
    """The array of a .npy, or the one of a .npz that has one of the usual names."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Check the path and the case of the letters.")
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return _read_array(file, path.name, path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            key = next((key for key in keys if key in names), None)
            if key is None:
                raise DataError(
                    f"{path}: has no array {' or '.join(keys[:3])}; it has {', '.join(names[:8]) or 'none'}."
                )
            size = archive.getinfo(f"{key}.npy").file_size
            with archive.open(f"{key}.npy") as file:
                return _read_array(file, f"{path.name}, array {key}", size)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read as {path.suffix.lower()} ({error}). Copy or download it again."
        ) from error


def _read_array(file: IO[bytes], name: str, size: int) -> np.ndarray:
    """An array whose header is checked before memory of its size is allocated; no objects are unpickled."""
    head = io.BytesIO(file.read(min(size, 1 << 16)))
    version = np.lib.format.read_magic(head)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(head)
    if dtype.kind not in "biuf":
        raise DataError(f"{name}: contains {dtype} values, expected numbers.")
    if math.prod(shape) > 3 * MAX_PIXELS:
        raise DataError(
            f"{name}: has the shape {shape}; the limit is {MAX_PIXELS:,} pixels. Crop it or save single slices."
        )
    data = head.read() + file.read(math.prod(shape) * dtype.itemsize)
    values: np.ndarray = np.frombuffer(data, dtype, math.prod(shape))
    return values.reshape(shape, order="F" if fortran else "C")


def _plane(array: np.ndarray, path: Path, *, channels: bool) -> Pixels:
    """H W, or H W 3 if it may have channels."""
    shape = array.shape
    if array.ndim > 2 and shape[0] == 1:
        array = array[0]
    elif array.ndim == 3 and shape[-1] == 1:
        array = array[..., 0]
    color = channels and array.ndim == 3 and array.shape[-1] == 3
    if (array.ndim != 2 and not color) or 0 in array.shape:
        expected = "rows x columns, or rows x columns x 3" if channels else "rows x columns"
        raise DataError(
            f"{path}: holds an array of the shape {shape}, expected {expected}. Save each slice of a volume as a file "
            "of its own."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path}: contains NaN or infinite values. Replace them.")
    if array.dtype in (np.int64, np.uint64, np.uint32, np.int8, np.float16, np.float64):
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    return np.ascontiguousarray(array)
