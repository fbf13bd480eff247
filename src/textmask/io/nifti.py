"""Read slices of NIfTI volumes as images, and write masks as a volume of the same geometry."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from textmask.errors import ConfigError, DataError
from textmask.io.files import (
    GZIP,
    MAX_FILE_BYTES,
    check_size,
    first_bytes,
    inflate,
    read_file,
    write_whole,
)
from textmask.io.intensity import MAX_PIXELS, Bytes, Pixels, stretch, value_range
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation, orientation_of_cosines

MAX_SLICES = 4096
SINGLE = (b"n+1\0", b"n+2\0")  # header and voxels in one file
PAIR = (b"ni1\0", b"ni2\0")
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
SAME = 1.01  # ratio up to which two spacings count as equal


@dataclass(frozen=True)
class NiftiGeometry:
    """`LoadedImage.header` of a NIfTI slice: what `write_nifti_mask` needs to write a mask of the same geometry.

    Attributes:
        header: nibabel's header of the file; its free texts are not copied.
        axis: axis of the volume along which the slices lie, 0 to 2.
    """

    header: Any
    axis: int

    @property
    def affine(self) -> np.ndarray:
        """Transform from voxel numbers to mm in RAS+, 4 x 4."""
        return np.asarray(self.header.get_best_affine())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the volume, as in the file."""
        return tuple(int(size) for size in self.header.get_data_shape())


@lru_cache(maxsize=1)
def _nibabel() -> Any:
    try:
        from nibabel import nifti1, nifti2
    except ImportError as error:
        raise ConfigError("NIfTI files need nibabel: pip install 'textmask[dicom]'.") from error
    return SimpleNamespace(nifti1=nifti1, nifti2=nifti2)


def is_nifti(data: bytes) -> bool:
    """Whether bytes start like a NIfTI-1 or NIfTI-2 file, compressed with gzip or not."""
    return _magic(first_bytes(data, HEADER_BYTES)) is not None


def read_nifti(
    source: Path | bytes, index: int | None = None, name: str = "", axis: int | None = None
) -> list[LoadedImage]:
    """Read all slices of a volume as images, or one of them.

    Slices lie along `axis`. If it is None, they lie along the axis of length 1 if there is one, else along the axis
    with the largest spacing; if spacings are equal within 1 %, along the one nearest to head-feet. Of the other two
    axes the first runs along the columns of the image and the second along its rows; nothing is rotated. The 0.1th and
    99.9th percentile of the whole volume become black and white; unsigned 8-bit voxels are not changed.

    The orientation comes from the affine. It is unknown if the file says that its affine has no meaning (both codes 0).

    Args:
        source: a file, or the bytes of one.
        index: read only this slice, counted from 0 in the order of the file.
        name: what error messages call the bytes.
        axis: axis along which the slices lie, 0 to 2.

    Raises:
        DataError: the data are not NIfTI, damaged, beyond a limit, of more than three dimensions, in color, contain
            NaN, or have no such slice.
        ConfigError: nibabel is not installed.
    """
    path = source if isinstance(source, Path) else None
    name = source.name if isinstance(source, Path) else name or "the NIfTI file"
    data = read_file(source) if isinstance(source, Path) else source

    header, voxels = _parse_nifti(data, name)
    shape = (*voxels.shape, 1, 1)[:3]
    voxels = voxels.reshape(shape, order="F")

    # the axis, and the slices along it
    affine = np.asarray(header.get_best_affine(), np.float64)
    axis = _slice_axis(shape, affine) if axis is None else axis
    if axis not in (0, 1, 2):
        raise DataError(f"{name}: has no axis {axis}, expected 0, 1 or 2.")
    if index is not None and not 0 <= index < shape[axis]:
        raise DataError(f"{name}: has no slice {index}; it has {shape[axis]}, counted from 0.")
    if shape[axis] > MAX_SLICES and index is None:
        raise DataError(
            f"{name}: has {shape[axis]} slices; the limit is {MAX_SLICES}. Give an index or an axis."
        )

    # one gray scale for the whole volume, so that neighboring slices can be compared
    low, high = (0.0, 255.0) if voxels.dtype == np.uint8 else value_range(voxels, name)
    slope = header.get_slope_inter()[0]
    inverted = slope is not None and slope < 0

    geometry = NiftiGeometry(header, axis)
    orientation, spacing = _orientation(header, affine, axis), _spacing(affine, axis)
    images = []
    for i in range(shape[axis]) if index is None else [index]:
        pixels = stretch(np.take(voxels, i, axis).T, low, high, inverted)
        images.append(LoadedImage(pixels, "nifti", orientation, spacing, path, i, geometry))
    return images


def is_one_slice(path: Path) -> bool:
    """Whether a file has one slice, read from its header.

    Raises:
        DataError: the file is not NIfTI, or its header is damaged.
        ConfigError: nibabel is not installed.
    """
    with path.open("rb") as file:
        head = first_bytes(file.read(1 << 16), HEADER_BYTES)
    mark = _magic(head)
    if mark is None:
        raise DataError(f"{path}: is not NIfTI, or its first bytes are damaged.")
    shape = tuple(int(n) for n in _header(head, path.name, mark).get_data_shape())
    return sum(size > 1 for size in shape) <= 2


def slice_values(path: Path) -> Pixels:
    """The stored values H W of a file with one slice, such as a label map, laid out as the image of `read_nifti`.

    Raises:
        DataError: as `read_nifti`, or the file has several slices.
        ConfigError: nibabel is not installed.
    """
    found = volume_values(path)
    if len(found) != 1:
        raise DataError(
            f"{path}: is a volume of {len(found)} slices of {found.shape[1]} x {found.shape[2]} pixels, expected one "
            "slice. Save each slice of the image and of its mask as a file of its own."
        )
    values: Pixels = found[0]
    return values


def volume_values(path: Path, axis: int | None = None) -> Pixels:
    """The stored values N H W of a volume, such as a label map, laid out as the images of `read_nifti`.

    Args:
        path: the file.
        axis: axis along which the slices lie, 0 to 2; None as in `read_nifti`.

    Raises:
        DataError: as `read_nifti`.
        ConfigError: nibabel is not installed.
    """
    header, voxels = _parse_nifti(read_file(path), path.name)
    shape = (*voxels.shape, 1, 1)[:3]
    if axis is None:
        axis = _slice_axis(shape, np.asarray(header.get_best_affine(), np.float64))
    # rows of a slice run along the second of the other two axes
    values = np.moveaxis(voxels.reshape(shape, order="F"), axis, 0).swapaxes(1, 2)
    slope, offset = header.get_slope_inter()
    if slope is not None and (slope, offset or 0) != (1, 0):
        values = values * np.float32(slope) + np.float32(offset or 0)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))


def write_nifti_mask(
    path: Path, masks: Sequence[Bytes] | Mapping[int, Bytes], header: NiftiGeometry
) -> None:
    """Write masks of slices as a uint8 volume with exactly the shape, affine, spacing and units of the source volume.

    Args:
        path: file to write; its name ends in .nii or .nii.gz.
        masks: H W of 0 and 1, one per slice in order, or by slice index; slices without a mask are empty.
        header: `LoadedImage.header` of any slice.

    Raises:
        DataError: the name has another ending, the number or size of the masks does not fit, or the file cannot be
            written.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise DataError(f"{path.name}: expected a name that ends in .nii or .nii.gz.")

    shape = (*header.shape, 1, 1)[:3]
    expected = tuple(size for i, size in enumerate(shape) if i != header.axis)[::-1]
    count = shape[header.axis]
    by_index = dict(masks) if isinstance(masks, Mapping) else dict(enumerate(masks))
    if not isinstance(masks, Mapping) and len(masks) != count:
        raise DataError(
            f"{path.name}: got {len(masks)} masks for {count} slices. Give one per slice, or a dictionary by index."
        )

    volume = np.zeros(shape, np.uint8, order="F")
    along = np.moveaxis(volume, header.axis, 0)
    for i, mask in by_index.items():
        if not 0 <= i < count or mask.shape != expected:
            raise DataError(
                f"{path.name}: got a mask of {mask.shape} for slice {i}, expected {expected} and a slice from 0 to "
                f"{count - 1}."
            )
        along[i] = mask.T

    compressed = path.name.lower().endswith(".gz")
    write_whole(path, _file_bytes(volume.reshape(header.shape, order="F"), header, compressed))


def _file_bytes(volume: np.ndarray, geometry: NiftiGeometry, compressed: bool) -> bytes:
    nibabel = _nibabel()
    header = geometry.header.copy()

    # free texts may name the patient, and ranges and intents describe the source volume
    for free_text in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if free_text in header.keys():  # noqa: SIM118 - a header is not a dict
            header[free_text] = b""
    for number in ("cal_min", "cal_max", "intent_code"):
        header[number] = 0
    header.extensions.clear()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)

    # no affine is passed, so the codes and numbers of the header stay
    nifti2 = isinstance(header, nibabel.nifti2.Nifti2Header)
    kind = nibabel.nifti2.Nifti2Image if nifti2 else nibabel.nifti1.Nifti1Image
    data = kind(volume, None, header).to_bytes()
    return gzip.compress(data, 6, mtime=0) if compressed else bytes(data)


def _magic(head: bytes) -> bytes | None:
    """The magic bytes of a NIfTI header; None if there are none."""
    for at, size in ((344, 348), (4, 540)):
        mark = head[at : at + 4]
        if (
            len(head) >= size - 192 * (size == 540)
            and mark in (*SINGLE, *PAIR)
            and (mark[2:3] == b"2") == (at == 4)
        ):
            return mark
    return None


def _parse_nifti(data: bytes, name: str) -> tuple[Any, Pixels]:
    """Header and stored numbers; all limits are checked before memory of their size is allocated."""
    check_size(len(data), name, MAX_FILE_BYTES)
    head = first_bytes(data, HEADER_BYTES)
    mark = _magic(head)
    if mark is None:
        raise DataError(
            f"{name}: is not NIfTI, or its first bytes are damaged. Expected .nii or .nii.gz."
        )
    if mark in PAIR:
        raise DataError(
            f"{name}: is one of a pair of files (.hdr, .img). Save it as one .nii or .nii.gz."
        )

    header = _header(head, name, mark)
    shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
    _check_shape(shape, dtype, name)

    # Python's own integers: those of NIfTI-2 overflow, and the offset of NIfTI-1 is a float
    start = int(header["vox_offset"])
    end = start + math.prod(shape) * dtype.itemsize
    if end > MAX_FILE_BYTES:
        raise DataError(
            f"{name}: {shape} voxels of {dtype} are more than the limit of {MAX_FILE_BYTES:,} bytes. Crop it first."
        )

    # the only other bytes are extensions before the voxels and padding behind them
    content = (
        inflate(data, name, min(MAX_FILE_BYTES, end + (1 << 20)), gzip=True)
        if data[:2] == GZIP
        else data
    )
    if len(content) < end:
        raise DataError(
            f"{name}: is truncated: {shape} voxels of {dtype} end at byte {end:,}, the file has {len(content):,} "
            "bytes. Copy or download it again."
        )
    voxels = np.frombuffer(content, dtype, (end - start) // dtype.itemsize, start).reshape(
        shape, order="F"
    )
    return header, voxels


def _header(head: bytes, name: str, mark: bytes) -> Any:
    """Parse the header with nibabel, and make sure that its shape, type, scale and affine can be read."""
    nibabel = _nibabel()
    kind = nibabel.nifti2.Nifti2Header if mark[2:3] == b"2" else nibabel.nifti1.Nifti1Header
    size = 540 if mark[2:3] == b"2" else 348
    try:
        header = kind(head[:size], check=False)
        header.get_data_shape(), header.get_data_dtype(), header.get_slope_inter()
        with np.errstate(all="ignore"):
            header.get_best_affine()
        if int(header["sizeof_hdr"]) != size or int(header["vox_offset"]) < 0:
            raise ValueError("size of the header or offset of the voxels")
    # nibabel raises any kind of exception on damaged numbers
    except (Exception, struct.error) as error:
        raise DataError(
            f"{name}: its header is damaged ({type(error).__name__}). Copy or download it again."
        ) from None
    return header


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise DataError(
            f"{name}: has {len(shape)} dimensions {shape}, expected a volume. Save the one you want, such as "
            "volume[..., index], as a separate file."
        )
    if len(shape) < 2 or min(shape) < 1:
        raise DataError(
            f"{name}: has shape {shape}, expected two or three dimensions of at least 1."
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"{name}: contains {dtype} voxels, expected integers or floating point numbers of up to 64 bits."
        )
    if max(math.prod(shape) // size for size in shape) > MAX_PIXELS:
        raise DataError(
            f"{name}: has shape {shape}; the limit is {MAX_PIXELS:,} pixels per slice. Crop it first."
        )


def _slice_axis(shape: tuple[int, ...], affine: np.ndarray) -> int:
    """The axis along which slices lie; see `read_nifti`."""
    single = [axis for axis in range(3) if shape[axis] == 1]
    if single:
        return single[-1]
    spacing = _lengths(affine)
    widest = [axis for axis in range(3) if spacing[axis] * SAME >= spacing.max()]
    upright = np.abs(affine[2, :3]) / np.maximum(spacing, 1e-30)
    return max(widest, key=lambda axis: (round(float(upright[axis]), 6), axis))


def _lengths(affine: np.ndarray) -> np.ndarray:
    """Millimeters from voxel to voxel along each axis; 0 if the affine contains no usable numbers."""
    columns = affine[:3, :3]
    usable = np.isfinite(columns).all() and np.abs(columns).max() < 1e30
    return np.linalg.norm(columns, axis=0) if usable else np.zeros(3)


def _spacing(affine: np.ndarray, axis: int) -> tuple[float, float] | None:
    """Millimeters between rows and between columns of a slice."""
    columns, rows = (float(size) for i, size in enumerate(_lengths(affine)) if i != axis)
    return (rows, columns) if min(columns, rows) > 0 else None


def _orientation(header: Any, affine: np.ndarray, axis: int) -> Orientation | None:
    """Directions of the patient in a slice; None if the affine has no meaning."""
    if int(header["qform_code"]) <= 0 and int(header["sform_code"]) <= 0:
        return None
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    along_columns, along_rows = (lps[:, i] for i in range(3) if i != axis)
    return orientation_of_cosines([*map(float, along_columns), *map(float, along_rows)], "affine")
