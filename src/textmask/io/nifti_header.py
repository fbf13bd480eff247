"""The header and the voxels of a NIfTI file, checked before memory of their size is allocated."""

from __future__ import annotations

import math
import struct
import warnings
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from textmask.errors import ConfigError, DataError, DataWarning
from textmask.io.files import GZIP, MAX_FILE_BYTES, check_size, first_bytes, inflate
from textmask.io.intensity import MAX_PIXELS, Pixels
from textmask.io.orientation import Orientation, orientation_of_cosines

SINGLE = (b"n+1\0", b"n+2\0")  # header and voxels in one file
PAIR = (b"ni1\0", b"ni2\0")
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
SAME = 1.01  # ratio up to which two spacings count as equal
FORMS_AGREE = (
    0.5  # cosine: a registration turns axes a little, a mirrored one has -1, a swapped one 0
)
SAME_DIRECTION = 0.9  # cosine: oblique axes may be rounded, a mirrored one has -1


@lru_cache(maxsize=1)
def nibabel_modules() -> Any:
    """The modules of nibabel that read and write NIfTI.

    Raises:
        ConfigError: nibabel is not installed.
    """
    try:
        from nibabel import nifti1, nifti2
    except ImportError as error:
        raise ConfigError("NIfTI files need nibabel: pip install 'textmask[dicom]'.") from error
    return SimpleNamespace(nifti1=nifti1, nifti2=nifti2)


def is_nifti(data: bytes) -> bool:
    """Whether bytes start like a NIfTI-1 or NIfTI-2 file, compressed with gzip or not."""
    return magic_of(first_bytes(data, HEADER_BYTES)) is not None


def magic_of(head: bytes) -> bytes | None:
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


def parse_nifti(data: bytes, name: str) -> tuple[Any, Pixels]:
    """Header and stored numbers; all limits are checked before memory of their size is allocated."""
    check_size(len(data), name, MAX_FILE_BYTES)
    head = first_bytes(data, HEADER_BYTES)
    mark = magic_of(head)
    if mark is None:
        raise DataError(
            f"{name}: is not NIfTI, or its first bytes are damaged. Expected .nii or .nii.gz."
        )
    if mark in PAIR:
        raise DataError(
            f"{name}: is one of a pair of files (.hdr, .img). Save it as one .nii or .nii.gz."
        )

    header = parse_header(head, name, mark)
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


def parse_header(head: bytes, name: str, mark: bytes) -> Any:
    """Parse the header with nibabel, and make sure that its shape, type, scale and affine can be read."""
    nibabel = nibabel_modules()
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


def slice_axis(shape: tuple[int, ...], affine: np.ndarray) -> int:
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


def slice_spacing(affine: np.ndarray, axis: int) -> tuple[float, float] | None:
    """Millimeters between rows and between columns of a slice."""
    columns, rows = (float(size) for i, size in enumerate(_lengths(affine)) if i != axis)
    return (rows, columns) if min(columns, rows) > 0 else None


def slice_orientation(header: Any, affine: np.ndarray, axis: int) -> Orientation | None:
    """Directions of the patient in a slice; None if the affine has no meaning, or if the file has two that differ.

    Warns:
        DataWarning: the two affines of the file (sform and qform) give an axis another direction, such as left and
            right exchanged.
    """
    if int(header["qform_code"]) <= 0 and int(header["sform_code"]) <= 0:
        return None
    if _forms_disagree(header):
        warnings.warn(
            "sform and qform of the NIfTI header give the axes other directions in the patient; the orientation is "
            "treated as unknown. Correct one of them, or name the view.",
            DataWarning,
            stacklevel=2,
        )
        return None
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    along_columns, along_rows = (lps[:, i] for i in range(3) if i != axis)
    return orientation_of_cosines([*map(float, along_columns), *map(float, along_rows)], "affine")


def _forms_disagree(header: Any) -> bool:
    """Whether both affines of a header are meant, and an axis of one runs otherwise than that of the other."""
    if int(header["qform_code"]) <= 0 or int(header["sform_code"]) <= 0:
        return False
    try:
        pair = [
            np.asarray(form, np.float64)[:3, :3]
            for form in (header.get_sform(), header.get_qform())
        ]
    except Exception:  # nibabel raises any kind of exception on a damaged quaternion
        return False
    lengths = [np.linalg.norm(axes, axis=0) for axes in pair]
    products = np.sum(pair[0] * pair[1], axis=0)
    return bool((products < FORMS_AGREE * lengths[0] * lengths[1]).any())


def runs_otherwise(header: Any, other: Any) -> bool:
    """Whether the axes of two volumes have other directions in the patient, so that their voxels are no pairs.

    Headers that say that their affine has no meaning (both codes 0) are not compared, nor are axes without a length.
    """
    if any(int(h["qform_code"]) <= 0 and int(h["sform_code"]) <= 0 for h in (header, other)):
        return False
    ours, theirs = (np.asarray(h.get_best_affine(), np.float64)[:3, :3] for h in (header, other))
    lengths = np.linalg.norm(ours, axis=0) * np.linalg.norm(theirs, axis=0)
    return bool((np.sum(ours * theirs, axis=0) < SAME_DIRECTION * lengths).any())
