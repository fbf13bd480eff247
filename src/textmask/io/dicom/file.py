"""A parsed DICOM file: what its header says about its pixels, and the checks of these claims."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from textmask.errors import DataError
from textmask.io.dicom import values
from textmask.io.intensity import MAX_PIXELS

MAX_FRAMES = 4096
MAX_PIXEL_BYTES = 1 << 30  # of all frames, decoded
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RESULTS = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
)  # segmentation, label map
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class DicomFile:
    """A parsed file: its header, and the place of its pixels.

    Attributes:
        name: what error messages call the file.
        header: the data set without pixels.
        syntax: UID of the transfer syntax.
        data: the file, inflated.
        start: offset of the value of PixelData in `data`.
        length: length of that value according to the file, in bytes; None if it is encapsulated.
        words: it is stored as 16-bit words (OW), which big endian swaps also if a pixel has 8 bits.

    Raises:
        DataError: from a property, if the header lacks a value that is needed.
    """

    name: str
    header: Any
    syntax: str
    data: memoryview
    start: int
    length: int | None
    words: bool = False

    def _size(self, keyword: str) -> int:
        value = values.short(self.header, keyword)
        if not value:
            raise DataError(
                f"{keyword} is {value}, expected a positive number. The file is damaged or not an image."
            )
        return value

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, samples."""
        return (
            self._size("Rows"),
            self._size("Columns"),
            values.short(self.header, "SamplesPerPixel") or 1,
        )

    @cached_property
    def bits(self) -> tuple[int, int]:
        """Allocated and stored bits of one sample."""
        allocated = self._size("BitsAllocated")
        return allocated, values.short(self.header, "BitsStored") or allocated

    @cached_property
    def signed(self) -> bool:
        """Whether stored numbers have a sign."""
        return values.short(self.header, "PixelRepresentation") == 1

    @cached_property
    def photometric(self) -> str:
        """PhotometricInterpretation, such as MONOCHROME2."""
        return values.word(self.header, "PhotometricInterpretation")

    @cached_property
    def frames(self) -> int:
        """Number of frames, 1 to `MAX_FRAMES`."""
        count = values.number(self.header, "NumberOfFrames", 1.0)
        if not 1 <= count <= MAX_FRAMES or count != int(count):
            raise DataError(
                f"NumberOfFrames is {count:g}, expected 1 to {MAX_FRAMES}. Split the file."
            )
        return int(count)

    @property
    def frame_bytes(self) -> int:
        """Size of one decoded frame in bytes."""
        rows, columns, samples = self.shape
        return rows * columns * samples * (self.bits[0] // 8)


def check_file(file: DicomFile) -> None:
    """Check everything a decoder relies on, before memory of that size is allocated.

    Raises:
        DataError: the file exceeds a limit, is truncated, has unsupported pixels, or is not an image.
    """
    rows, columns, samples = file.shape
    allocated, stored = file.bits
    if values.word(file.header, "SOPClassUID") in RESULTS:
        raise DataError("is a segmentation, expected an image. Give the image it was made from.")
    if rows * columns > MAX_PIXELS:
        raise DataError(
            f"{rows} x {columns} pixels; the limit is {MAX_PIXELS:,} pixels. Scale or crop it first."
        )

    # the kind of pixels
    expected = 3 if file.photometric in COLOR else 1
    supported = (*GRAY, *COLOR, "PALETTE COLOR")
    if file.photometric not in supported:
        raise DataError(
            f"PhotometricInterpretation is unsupported, expected one of {', '.join(supported)}."
        )
    if samples != expected:
        raise DataError(
            f"SamplesPerPixel is {samples}, expected {expected} with {file.photometric}."
        )
    if (
        allocated not in (8, 16, 32)
        or not 1 <= stored <= allocated
        or (samples == 3 and allocated == 32)
    ):
        raise DataError(
            f"has {stored} of {allocated} bits per sample; expected 8, 16 or (gray only) 32 allocated bits."
        )

    # what the pixels need, and what is there
    if file.frames * file.frame_bytes > MAX_PIXEL_BYTES:
        raise DataError(
            f"{file.frames} frames of {rows} x {columns} are more than {MAX_PIXEL_BYTES:,} bytes, which is the limit. "
            "Split the file."
        )
    native = file.syntax in (DEFLATED, BIG_ENDIAN, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
    if native != (file.length is not None):
        raise DataError(
            "the pixels are not stored as the transfer syntax says. Copy or download it again."
        )
    available = len(file.data) - file.start
    needed = file.frames * (rows * columns * 2 if _subsampled(file) else file.frame_bytes)
    if native and (available < (file.length or 0) or (file.length or 0) < needed):
        raise DataError(
            f"is truncated: {file.frames} frames of {rows} x {columns} need {needed:,} bytes; the header says "
            f"{file.length:,}, and the file has {available:,}. Copy or download it again."
        )


def _subsampled(file: DicomFile) -> bool:
    """Whether colors are stored at half resolution, which takes two of three bytes of 8-bit pixels."""
    return file.photometric == "YBR_FULL_422" and file.length is not None
