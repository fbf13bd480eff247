"""Read images of every supported format (PNG, JPEG, TIFF, BMP, DICOM, NIfTI) from files or from bytes."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

from textmask.errors import DataError, DataWarning
from textmask.io.dicom import values as dicom_values
from textmask.io.dicom.file import MAX_FRAMES, MAX_PIXEL_BYTES
from textmask.io.dicom.reader import MAGIC, read_dicom
from textmask.io.files import MAX_FILE_BYTES, check_size
from textmask.io.images import image_of_bytes, read_image
from textmask.io.loaded import LoadedImage
from textmask.io.nifti import read_nifti
from textmask.io.nifti_header import is_nifti

# kind of a file, position of its magic bytes, and these bytes
MARKS = (
    ("png", 0, b"\x89PNG\r\n\x1a\n"),
    ("jpeg", 0, b"\xff\xd8\xff"),
    ("tiff", 0, b"II*\0"),
    ("tiff", 0, b"MM\0*"),
    ("bmp", 0, b"BM"),
    ("dicom", 128, b"DICM"),
    ("gzip", 0, b"\x1f\x8b"),
    ("nifti", 344, b"n+1\0"),
)

SUFFIXES = (".dcm", ".dicom", ".nii", ".nii.gz")  # medical, whatever the content
HEAD_BYTES = 4096  # enough to recognize a format, also inside gzip


def is_medical_file(path: str | Path) -> bool:
    """Whether a file is DICOM or NIfTI, by its first bytes, or by its name if these are not conclusive."""
    path = Path(path)
    return _format(_head(path), path.name) != "picture"


def load_images(path: str | Path, index: int | None = None) -> list[LoadedImage]:
    """Read all images of a file: one from PNG, JPEG, TIFF or BMP, each frame of DICOM, each slice of NIfTI.

    Args:
        path: the file.
        index: read only this frame or slice, counted from 0.

    Raises:
        DataError: the file is missing, damaged, of another format, beyond a limit, or has no such frame.
        ConfigError: the package for the format is not installed.
    """
    path = Path(path)
    form = _format(_head(path), path.name)
    if form == "dicom":
        return read_dicom(path, index)
    if form == "nifti":
        return read_nifti(path, index)
    _only_first(index, path.name)
    return [LoadedImage(read_image(path), source=path)]


def load_image(path: str | Path, index: int | None = None) -> LoadedImage:
    """Read the only image of a file, or frame or slice `index` of it.

    Raises:
        DataError: as `load_images`, or the file contains several images and no index is given.
    """
    found = load_images(path, index)
    if len(found) > 1:
        raise DataError(
            f"{Path(path).name}: contains {len(found)} images, expected one. Give the index of the one to read, 0 to "
            f"{len(found) - 1}."
        )
    return found[0]


def read_bytes(
    data: bytes, name: str, index: int | None = None, limit: int = MAX_FILE_BYTES
) -> list[LoadedImage]:
    """As `load_images`, from bytes such as an upload; nothing is written to disk.

    Args:
        data: a whole file.
        name: what error messages call it; its ending counts only if the bytes are not conclusive.
        index: read only this frame or slice, counted from 0.
        limit: largest accepted size in bytes.

    Raises:
        DataError: as `load_images`, or more bytes than `limit`.
    """
    name = Path(name.replace("\\", "/").replace("\0", "")).name or "the upload"
    check_size(len(data), name, limit)
    form = _format(data, name)
    if form == "dicom":
        return read_dicom(data, index, name)
    if form == "nifti":
        return read_nifti(data, index, name)
    _only_first(index, name)
    return [LoadedImage(image_of_bytes(data, name))]


def read_series(folder: str | Path) -> list[LoadedImage]:
    """Read the slices of one DICOM series, sorted along the normal of their planes (axial: from feet to head).

    Other files, hidden files and DICOMDIR are ignored, and so are subfolders.

    Raises:
        DataError: the folder contains no DICOM file or several series; a file has several frames; slices differ in
            size or direction; two slices have the same position; a slice has no position; or a limit is exceeded.

    Warns:
        DataWarning: the widest gap between slices is more than 1.5 times the smallest: a slice may be missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder.name}: is not a directory; expected one with the files of a DICOM series."
        )

    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    files = [path for path in files if path.name != "DICOMDIR" and _head(path)[128:132] == MAGIC]
    if not files:
        raise DataError(f"{folder.name}: contains no DICOM file.")
    if len(files) > MAX_FRAMES:
        raise DataError(
            f"{folder.name}: contains {len(files)} DICOM files; the limit is {MAX_FRAMES} per series."
        )

    slices: list[tuple[float, LoadedImage]] = []
    kinds: set[tuple[object, ...]] = set()
    pixels = 0
    for path in files:
        image = load_image(path)
        found = dicom_values.along_normal(image.header)
        if found is None:
            raise DataError(
                f"{path.name}: has no ImagePositionPatient or ImageOrientationPatient, so its position is unknown."
            )
        position, cosines = found

        # all slices must be alike; scanners round cosines differently
        series = dicom_values.word(image.header, "SeriesInstanceUID")
        direction = tuple(round(cosine, 3) + 0.0 for cosine in cosines)
        kinds.add((series, image.pixels.shape, direction))
        if len(kinds) > 1:
            raise DataError(
                f"{folder.name}: {path.name} differs from {files[0].name} in series, size or direction. Put each "
                "series into a separate folder."
            )

        pixels += image.pixels.size
        if pixels > MAX_PIXEL_BYTES:
            raise DataError(
                f"{folder.name}: contains more than {MAX_PIXEL_BYTES:,} pixels, which is the limit."
            )
        slices.append((position, image))

    slices.sort(key=lambda pair: pair[0])
    _check_gaps([position for position, _ in slices], folder.name)
    return [image for _, image in slices]


def _check_gaps(positions: list[float], name: str) -> None:
    gaps = [after - before for before, after in itertools.pairwise(positions)]
    if gaps and min(gaps) < 1e-3:
        raise DataError(
            f"{name}: two slices have the same position. Remove one of them, or split the phases of the scan."
        )

    if gaps and max(gaps) > 1.5 * min(gaps):
        warnings.warn(
            f"{name}: gaps between slices are {min(gaps):.3g} to {max(gaps):.3g} mm; a slice may be missing.",
            DataWarning,
            stacklevel=3,
        )


def _head(path: Path) -> bytes:
    """The first bytes of a file; b"" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _format(head: bytes, name: str) -> str:
    """The format as in `LoadedImage.format`."""
    if head[128:132] == MAGIC:
        return "dicom"
    if is_nifti(head[:HEAD_BYTES]):
        return "nifti"
    lower = name.lower()
    if lower.endswith(SUFFIXES):
        return "nifti" if lower.endswith((".nii", ".nii.gz")) else "dicom"
    return "picture"


def _only_first(index: int | None, name: str) -> None:
    if index not in (None, 0):
        raise DataError(f"{name}: is a single image and has no index {index}.")


def kind_of(head: bytes) -> str | None:
    """png, jpeg, tiff, bmp, dicom, nifti or gzip, by the first 512 bytes of a file; None if it is none of these."""
    return next((kind for kind, at, mark in MARKS if head[at : at + len(mark)] == mark), None)
