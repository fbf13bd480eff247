"""Read slices of NIfTI volumes as images, and write masks as a volume of the same geometry."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import DataError
from textmask.io.files import first_bytes, read_file, write_whole
from textmask.io.intensity import Bytes, Pixels, stretch, value_range
from textmask.io.loaded import LoadedImage
from textmask.io.nifti_header import (
    HEADER_BYTES,
    magic_of,
    nibabel_modules,
    parse_header,
    parse_nifti,
    runs_otherwise,
    slice_axis,
    slice_orientation,
    slice_spacing,
)

MAX_SLICES = 4096
MAX_RANKED = 1 << 21  # voxels whose values are sorted for the gray scale
MAX_KEPT_BYTES = 1 << 28  # of a volume that is kept for its next slice


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


class NiftiVolume:
    """A volume that is read once and whose slices are images, each at the cost of a slice.

    Slices lie along `axis`. If it is None, they lie along the axis of length 1 if there is one, else along the axis
    with the largest spacing; if spacings are equal within 1 %, along the one nearest to head-feet. Of the other two
    axes the first runs along the columns of the image and the second along its rows; nothing is rotated. The 0.1th and
    99.9th percentile of the whole volume become black and white; unsigned 8-bit voxels are not changed. Above
    `MAX_RANKED` voxels the percentiles are those of every n-th voxel.

    The orientation comes from the affine. It is unknown if the file says that its affine has no meaning (both codes 0).

    Args:
        source: a file, or the bytes of one.
        name: what error messages call the bytes.
        axis: axis along which the slices lie, 0 to 2.

    Raises:
        DataError: the data are not NIfTI, damaged, beyond a limit, or of more than three dimensions.
        ConfigError: nibabel is not installed.
    """

    def __init__(self, source: Path | bytes, name: str = "", axis: int | None = None) -> None:
        self._path = source if isinstance(source, Path) else None
        self.name = source.name if isinstance(source, Path) else name or "the NIfTI file"
        data = read_file(source) if isinstance(source, Path) else source
        header, voxels = parse_nifti(data, self.name)
        shape = (*voxels.shape, 1, 1)[:3]

        # the axis, and what it says about every slice
        affine = np.asarray(header.get_best_affine(), np.float64)
        axis = slice_axis(shape, affine) if axis is None else axis
        if axis not in (0, 1, 2):
            raise DataError(f"{self.name}: has no axis {axis}, expected 0, 1 or 2.")
        self._geometry = NiftiGeometry(header, axis)
        self._orientation = slice_orientation(header, affine, axis)
        self._spacing = slice_spacing(affine, axis)

        # a view: voxels are stored column by column, which `np.take` would copy as a whole
        self._slices = np.moveaxis(voxels.reshape(shape, order="F"), axis, 0)
        slope = header.get_slope_inter()[0]
        self._inverted = slope is not None and slope < 0

    def __len__(self) -> int:
        """Number of slices."""
        return int(self._slices.shape[0])

    @property
    def size_bytes(self) -> int:
        """Memory of the voxels, uncompressed."""
        return int(self._slices.nbytes)

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        columns, rows = self._slices.shape[1:]
        return int(rows), int(columns)

    @cached_property
    def _black_and_white(self) -> tuple[float, float]:
        """One gray scale for the whole volume, so that neighboring slices can be compared."""
        # the order in which the voxels are stored, without a copy
        voxels = self._slices.ravel(order="K")
        return value_range(voxels, self.name, most=MAX_RANKED)

    def image(self, index: int) -> LoadedImage:
        """One slice as an image.

        Args:
            index: counted from 0 in the order of the file.

        Raises:
            DataError: there is no such slice, or the volume contains NaN, infinite or huge numbers.
        """
        if not 0 <= index < len(self):
            raise DataError(
                f"{self.name}: has no slice {index}; it has {len(self)}, counted from 0."
            )
        stored = self._slices[index].T
        if stored.dtype == np.uint8:
            pixels = 255 - stored if self._inverted else stored
        else:
            pixels = stretch(stored, *self._black_and_white, self._inverted)
        return LoadedImage(
            np.ascontiguousarray(pixels),
            "nifti",
            self._orientation,
            self._spacing,
            self._path,
            index,
            self._geometry,
        )


def read_nifti(
    source: Path | bytes, index: int | None = None, name: str = "", axis: int | None = None
) -> list[LoadedImage]:
    """Read all slices of a volume as images, or one of them, see `NiftiVolume`.

    The last volume of which a single slice was read from a file is kept, so that the next slice does not inflate the
    file again; it is read again if the file has changed.

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
    if index is not None:
        volume = _kept_volume(source, axis) if isinstance(source, Path) else None
        return [(volume or NiftiVolume(source, name, axis)).image(index)]

    volume = NiftiVolume(source, name, axis)
    if len(volume) > MAX_SLICES:
        raise DataError(
            f"{volume.name}: has {len(volume)} slices; the limit is {MAX_SLICES}. Give an index or an axis."
        )
    return [volume.image(i) for i in range(len(volume))]


def _kept_volume(path: Path, axis: int | None) -> NiftiVolume | None:
    """The volume of a file, kept until another one is read; None if the file cannot be found."""
    try:
        state = path.stat()
    except OSError:
        return None
    if state.st_size > MAX_KEPT_BYTES:
        return None
    volume = _volume_in_state(path, axis, state.st_size, state.st_mtime_ns, state.st_ino)
    if volume.size_bytes > MAX_KEPT_BYTES:
        _volume_in_state.cache_clear()
    return volume


@lru_cache(maxsize=1)
def _volume_in_state(path: Path, axis: int | None, *state: int) -> NiftiVolume:
    """Cached: `state` is what changes if the file is written again."""
    return NiftiVolume(path, axis=axis)


def is_one_slice(path: Path) -> bool:
    """Whether a file has one slice, read from its header.

    Raises:
        DataError: the file is not NIfTI, or its header is damaged.
        ConfigError: nibabel is not installed.
    """
    shape = tuple(int(n) for n in nifti_header_of(path).get_data_shape())
    return sum(size > 1 for size in shape) <= 2


def nifti_header_of(path: Path) -> Any:
    """Nibabel's header of a file, of which only the first bytes are read.

    Raises:
        DataError: the file is not NIfTI, or its header is damaged.
        ConfigError: nibabel is not installed.
    """
    with path.open("rb") as file:
        head = first_bytes(file.read(1 << 16), HEADER_BYTES)
    mark = magic_of(head)
    if mark is None:
        raise DataError(f"{path}: is not NIfTI, or its first bytes are damaged.")
    return parse_header(head, path.name, mark)


def refuse_other_axes(mask: Path, image: Path) -> None:
    """Check that the voxels of a mask and of its image are pairs, as far as the affines of the files say.

    Raises:
        DataError: an axis of the mask has another direction in the patient than that of the image.
        ConfigError: nibabel is not installed.
    """
    if runs_otherwise(nifti_header_of(mask), nifti_header_of(image)):
        raise DataError(
            f"{mask}: its affine gives its axes other directions than those of its image {image}, so that it may lie "
            "mirrored on it. Resample it to its image."
        )


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
    header, voxels = parse_nifti(read_file(path), path.name)
    shape = (*voxels.shape, 1, 1)[:3]
    if axis is None:
        axis = slice_axis(shape, np.asarray(header.get_best_affine(), np.float64))
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
    nibabel = nibabel_modules()
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
