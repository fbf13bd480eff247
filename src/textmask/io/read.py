"""Pictures of every format through one door: PNG, JPEG, TIFF, BMP, DICOM and NIfTI, from files or from bytes."""

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
from textmask.io.nifti import is_nifti, read_nifti

# kind of a file: where its mark stands, and the mark
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

SUFFIXES = (".dcm", ".dicom", ".nii", ".nii.gz")  # taken for medical whatever they hold
HEAD_BYTES = 4096  # enough to tell formats apart, also of gzip


def is_medical_file(path: str | Path) -> bool:
    """Whether a file is DICOM or NIfTI, by its first bytes, or by its name where these say nothing."""
    path = Path(path)
    return _format(_head(path), path.name) != "picture"


def load_images(path: str | Path, index: int | None = None) -> list[LoadedImage]:
    """All pictures of a file: one of a flat picture, each frame of DICOM, each slice of NIfTI.

    Args:
        path: the file.
        index: only this frame or slice, counted from 0.

    Raises:
        DataError: the file is missing, damaged, of another format, beyond a cap, or has no such frame.
        ConfigError: the package for its format is not installed.
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
    """The one picture of a file, or the frame or slice `index` of it.

    Raises:
        DataError: as `load_images`, or the file holds several and no index is given.
    """
    found = load_images(path, index)
    if len(found) > 1:
        raise DataError(
            f"{Path(path).name}: holds {len(found)} pictures, expected one. Give the index of the one you mean, "
            f"0 to {len(found) - 1}."
        )
    return found[0]


def read_bytes(
    data: bytes, name: str, index: int | None = None, limit: int = MAX_FILE_BYTES
) -> list[LoadedImage]:
    """`load_images` of bytes, such as an upload; nothing is written to disk.

    Args:
        data: a whole file.
        name: what messages call it; its ending counts only where the bytes say nothing.
        index: only this frame or slice.
        limit: more bytes are refused.

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
    """The slices of one DICOM series in a folder, sorted along the normal of their planes: of an axial series from
    feet to head.

    Other files, hidden ones and DICOMDIR are left out; folders within are not looked into.

    Raises:
        DataError: no DICOM file, several series, several frames in a file, slices of different size or direction, two
            at one place, a slice without position, or more than the caps of one file.

    Warns:
        DataWarning: a gap between slices is half as wide again as the smallest: one may be missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder.name}: is no folder, expected one with the files of a DICOM series."
        )
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    files = [path for path in files if path.name != "DICOMDIR" and _head(path)[128:132] == MAGIC]
    if not files:
        raise DataError(f"{folder.name}: holds no DICOM file.")
    if len(files) > MAX_FRAMES:
        raise DataError(
            f"{folder.name}: holds {len(files)} DICOM files, at most {MAX_FRAMES} are read as a series."
        )
    slices: list[tuple[float, LoadedImage]] = []
    kinds: set[tuple[object, ...]] = set()
    pixels = 0
    for path in files:
        picture = load_image(path)
        place = dicom_values.along_normal(picture.header)
        if place is None:
            raise DataError(
                f"{path.name}: has no ImagePositionPatient or ImageOrientationPatient, so it has no place."
            )
        direction = tuple(round(cosine, 3) + 0.0 for cosine in place[1])
        kinds.add(
            (
                dicom_values.word(picture.header, "SeriesInstanceUID"),
                picture.pixels.shape,
                direction,
            )
        )
        if len(kinds) > 1:
            raise DataError(
                f"{folder.name}: {path.name} is of another series, size or direction than {files[0].name}. Put each "
                "series into a folder of its own."
            )
        pixels += picture.pixels.size
        if pixels > MAX_PIXEL_BYTES:
            raise DataError(
                f"{folder.name}: holds more than {MAX_PIXEL_BYTES:,} pixels, at most these are read."
            )
        slices.append((place[0], picture))
    slices.sort(key=lambda found: found[0])
    _check_gaps([place for place, _ in slices], folder.name)
    return [picture for _, picture in slices]


def _check_gaps(places: list[float], name: str) -> None:
    gaps = [after - before for before, after in itertools.pairwise(places)]
    if gaps and min(gaps) < 1e-3:
        raise DataError(
            f"{name}: two slices lie at one place. Leave one of them out, or split the phases of the scan."
        )
    if gaps and max(gaps) > 1.5 * min(gaps):
        warnings.warn(
            f"{name}: slices lie {min(gaps):.3g} to {max(gaps):.3g} mm apart; one may be missing.",
            DataWarning,
            stacklevel=3,
        )


def _head(path: Path) -> bytes:
    """The first bytes of a file, b"" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _format(head: bytes, name: str) -> str:
    """`dicom`, `nifti` or `picture`."""
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
        raise DataError(f"{name}: is a single picture, so it has no number {index}.")


def kind_of(head: bytes) -> str | None:
    """png, jpeg, tiff, bmp, dicom, nifti or gzip by the first 512 bytes of a file; None when it is none of them."""
    return next((kind for kind, at, mark in MARKS if head[at : at + len(mark)] == mark), None)
