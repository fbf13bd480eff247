"""Uploads in memory: the images, what a model computed of them, and how many bytes all of it has."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from textmask.errors import DataError
from textmask.inference.predictor import Opened
from textmask.io.loaded import LoadedImage
from textmask.io.read import read_bytes
from textmask.serve.problems import Problem

RECENT = 4  # slices of an upload that are kept with what the model computed of them
VIEWS_KEPT = 2  # of each image: the one that is asked, and the one before it
OVERHEAD = 4096  # bytes of the objects around the pixels of an upload
ELEMENT = 512  # bytes of the objects around one element of a DICOM header
# lookup tables of up to 40 MB, which decoding needs and no result copies
TABLES = (
    "ModalityLUTSequence",
    "VOILUTSequence",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)


class Slices(Protocol):
    """A file with several images, of which any can be decoded at the cost of one."""

    @property
    def size_bytes(self) -> int:
        """Memory that it needs."""

    def image(self, index: int) -> LoadedImage:
        """The image with this index, counted from 0."""


@dataclass(frozen=True)
class DicomFrames:
    """The frames of a DICOM file; the bytes are kept as they were uploaded.

    Attributes:
        data: the file.
    """

    data: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Memory of the file."""
        return len(self.data)

    def image(self, index: int) -> LoadedImage:
        """Decode one frame."""
        return read_bytes(self.data, "the file", index)[0]


@dataclass(frozen=True)
class Upload:
    """An uploaded image, decoded.

    Attributes:
        image: pixels, and what the file says about the patient.
        count: number of images in the file; `image` is one of them.
        sha256: hash of the file.
        slices: the whole file, if it has several images.
        opened: features that the model has computed, by the requested view.
        recent: the other slices that were used last, see `slice`.
    """

    image: LoadedImage
    count: int
    sha256: str
    slices: Slices | None = field(default=None, compare=False, repr=False)
    opened: dict[str | None, Opened] = field(default_factory=dict, compare=False, repr=False)
    recent: dict[int, Upload] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """All that is kept for it: pixels, header, the file if it has other slices, and what the model computed."""
        # copies: another thread may open a view in the meantime
        computed = sum(opened_bytes(opened) for opened in list(self.opened.values()))
        others = sum(other.size_bytes for other in list(self.recent.values()))
        return self._file_bytes + computed + others

    @cached_property
    def _file_bytes(self) -> int:
        size = OVERHEAD + self.image.pixels.nbytes
        if self.image.format == "dicom":
            size += header_bytes(self.image.header)
        return size + (0 if self.slices is None else self.slices.size_bytes)

    def keep(self, view: str | None, opened: Opened) -> None:
        """Keep what the model computed for a view; that of the views before the last one is forgotten."""
        _make_room(self.opened, VIEWS_KEPT)
        self.opened[view] = opened

    def shed(self) -> None:
        """Forget what can be computed or decoded again."""
        self.opened.clear()
        self.recent.clear()

    def decoded(self, index: int | None) -> bool:
        """Whether `slice` has nothing to do."""
        return index is None or index == (self.image.index or 0) or index in self.recent

    def slice(self, index: int | None) -> Upload:
        """Another image of the same file, without a new upload; None is the one that was chosen with the upload.

        Raises:
            Problem: 422 if the file has no such image, or it is damaged.
        """
        if index is None or index == (self.image.index or 0):
            return self
        known = self.recent.get(index)
        if known is not None:
            return known
        if self.slices is None or index >= self.count:
            raise Problem(
                404, "no_such_index", f"the file contains {self.count} images, got index {index}."
            )

        try:
            found = Upload(self.slices.image(index), self.count, self.sha256)
        except DataError as error:
            raise Problem(422, "damaged", str(error)) from error
        # a reader goes through a volume and back: the last few are enough
        _make_room(self.recent, RECENT)
        self.recent[index] = found
        return found


def _make_room(kept: dict[Any, Any], most: int) -> None:
    """Remove the oldest entries until there is room for one; other threads may do the same."""
    with suppress(StopIteration, KeyError, RuntimeError):
        while len(kept) >= most:
            del kept[next(iter(kept))]


def opened_bytes(opened: Opened) -> int:
    """Memory of an image as the model sees it, and of its features."""
    tensors = [] if opened.image is None else [opened.image]
    tensors += opened.features or ()
    size = opened.planes.nbytes + sum(tensor.nbytes for tensor in tensors)
    return size + (0 if opened.mirrored is None else opened_bytes(opened.mirrored))


def without_tables(header: Any) -> None:
    """Remove the lookup tables from a pydicom data set; the pixels have been decoded with them."""
    for keyword in TABLES:
        if keyword in header:
            delattr(header, keyword)


def header_bytes(header: Any) -> int:
    """Memory of a pydicom data set, roughly: the values, and the objects around them."""
    return sum(_value_bytes(element.value) for element in header.values())


def _value_bytes(value: Any) -> int:
    if isinstance(value, bytes | str):
        return ELEMENT + len(value)
    if hasattr(value, "values"):
        return ELEMENT + header_bytes(value)
    # sequences of data sets, and lists of numbers
    if isinstance(value, Iterable):
        return ELEMENT + sum(_value_bytes(one) for one in value)
    return ELEMENT
