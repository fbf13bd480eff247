"""Read images from DICOM files: parse within limits, decode, rescale, window, and find the patient's directions.

A DICOM file is untrusted. Its numbers are checked before memory of their size is allocated, every kind of damage is
reported as `DataError`, and no message contains a value of the file that may identify a patient.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, MutableSequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.io.dicom import values
from textmask.io.dicom.file import BIG_ENDIAN, DEFLATED, GRAY, DicomFile, check_file
from textmask.io.dicom.frames import RLE, coded_size, rle_length
from textmask.io.files import MAX_FILE_BYTES, check_size, inflate, read_file
from textmask.io.images import without_equal_channels
from textmask.io.intensity import Bytes, Pixels, apply_window, stretch, value_range
from textmask.io.loaded import LoadedImage

MAX_DEPTH = 16  # of sequences within sequences
MAGIC = b"DICM"
PIXEL_DATA = 0x7FE00010
# what results copy and what pixels need; everything else, including private elements, is skipped unread
KEPT = """
SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate ContentDate StudyTime
SeriesTime AcquisitionTime ContentTime AccessionNumber Modality Manufacturer InstitutionName ReferringPhysicianName
TimezoneOffsetFromUTC StudyDescription SeriesDescription ManufacturerModelName PatientName PatientID IssuerOfPatientID
PatientBirthDate PatientSex PatientAge PatientSize PatientWeight PatientIdentityRemoved DeidentificationMethod
BodyPartExamined SliceThickness SpacingBetweenSlices DeviceSerialNumber SoftwareVersions ProtocolName ImagerPixelSpacing
NominalScannedPixelSpacing PatientPosition ViewPosition StudyInstanceUID SeriesInstanceUID StudyID SeriesNumber
AcquisitionNumber InstanceNumber PatientOrientation ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID
Laterality ImageLaterality PositionReferenceIndicator SliceLocation DimensionOrganizationSequence
DimensionIndexSequence DimensionOrganizationType SamplesPerPixel PhotometricInterpretation PlanarConfiguration
NumberOfFrames FrameIncrementPointer Rows Columns PixelSpacing PixelAspectRatio BitsAllocated BitsStored HighBit
PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit BurnedInAnnotation LossyImageCompression
LossyImageCompressionRatio LossyImageCompressionMethod WindowCenter WindowWidth RescaleIntercept RescaleSlope
RescaleType VOILUTFunction PresentationLUTShape ModalityLUTSequence VOILUTSequence
RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
SegmentedBluePaletteColorLookupTableData SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
PresentationIntentType AnatomicRegionSequence ViewCodeSequence
""".split()


@lru_cache(maxsize=1)
def _pydicom() -> Any:
    """The parts of pydicom that are needed, imported on first use."""
    try:
        from pydicom import filereader, pixels, uid
        from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
        from pydicom.encaps import generate_frames
    except ImportError as error:
        raise ConfigError("DICOM files need pydicom: pip install 'textmask[dicom]'.") from error
    kept = [tag_for_keyword(keyword) for keyword in KEPT]
    return SimpleNamespace(
        read_dataset=filereader.read_dataset,
        dcmread=filereader.dcmread,
        pixels=pixels,
        UID=uid.UID,
        generate_frames=generate_frames,
        kept=kept,
        is_sequence=lambda tag: dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ",
    )


def read_dicom(source: Path | bytes, index: int | None = None, name: str = "") -> list[LoadedImage]:
    """Read all frames of a DICOM file as images, or one of them.

    Gray frames are rescaled and windowed with the first window, or a VOI lookup table if there is no window. Without
    both, the range of the frame's pixels is used, except that 8-bit pixels are not changed. MONOCHROME1 is inverted, so
    that bone is bright. Padding is black. Colors become RGB. `LoadedImage.header` is the data set without pixels, with
    the elements of `KEPT` only.

    Args:
        source: a file, or the bytes of one.
        index: read only this frame, counted from 0.
        name: what error messages call the bytes.

    Raises:
        DataError: the data are not DICOM, damaged, beyond a limit, without pixels, compressed in a way that no
            installed decoder reads, or have no such frame.
        ConfigError: pydicom is not installed.
    """
    name = source.name if isinstance(source, Path) else name or "the DICOM file"
    data = read_file(source) if isinstance(source, Path) else source
    path = source if isinstance(source, Path) else None
    try:
        file = _parse_dicom(data, name)
        frames = range(file.frames) if index is None else [_checked_index(index, file.frames)]
        multi = file.frames > 1
        images = []
        for frame, pixels in _frames(file, frames):
            shown = (
                _in_gray(file, frame, pixels)
                if file.photometric in GRAY
                else _in_color(file, pixels)
            )
            orientation = values.orientation(file.header, frame)
            spacing = values.spacing(file.header, frame)
            number = frame if multi else None
            images.append(
                LoadedImage(shown, "dicom", orientation, spacing, path, number, file.header)
            )
        return images
    except TextMaskError as error:
        message = str(error)
        raise type(error)(message if message.startswith(name) else f"{name}: {message}") from error
    # pydicom and the decoders raise any exception on damaged bytes; only its type is named, as messages quote values
    except (Exception, RecursionError) as error:
        raise DataError(
            f"{name}: cannot be decoded ({type(error).__name__}). Expected a complete DICOM image: copy or download "
            "it again."
        ) from None


def read_result(data: bytes) -> Any:
    """Read back a file that `textmask.io.dicom.results.encode` made, as a pydicom data set."""
    return _pydicom().dcmread(io.BytesIO(data))


def _parse_dicom(data: bytes, name: str) -> DicomFile:
    """Parse the header and find the pixels; all limits are checked."""
    check_size(len(data), name, MAX_FILE_BYTES)
    if data[128:132] != MAGIC:
        raise DataError(
            "is not DICOM: the letters DICM are missing at byte 128. Expected a DICOM Part 10 file."
        )

    # the file meta information, which names the transfer syntax
    pydicom = _pydicom()
    stream = io.BytesIO(data)
    stream.seek(132)
    meta = pydicom.read_dataset(
        stream, False, True, stop_when=lambda tag, vr, length: int(tag) >> 16 != 2
    )
    _check_elements(meta)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not syntax:
        raise DataError("has no transfer syntax. The file is damaged: copy or download it again.")

    # the data set, up to the pixels
    if syntax == DEFLATED:
        data = inflate(memoryview(data)[stream.tell() :], name, MAX_FILE_BYTES)
        stream = io.BytesIO(data)
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != BIG_ENDIAN
    header = pydicom.read_dataset(
        stream, implicit, little, stop_when=_at_pixels, specific_tags=pydicom.kept
    )
    _check_elements(header)
    header.file_meta = meta

    at = stream.tell()
    start, length = _pixel_element(data, at, header)
    words = data[at + 4 : at + 6] == b"OW"
    file = DicomFile(name, header, syntax, memoryview(data), start, length, words)
    check_file(file)
    return file


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return int(tag) >= PIXEL_DATA - 8  # as an int: pydicom's comparison of tags is slow


def _check_elements(dataset: Any, depth: int = 1) -> None:
    """Refuse elements that are shorter than their stated length, and sequences nested beyond `MAX_DEPTH`."""
    if depth > MAX_DEPTH:
        raise DataError(f"nests sequences more than {MAX_DEPTH} deep, which is the limit.")
    sequences = []
    for element in dataset.values():  # raw elements: access by tag would convert each
        value = element.value
        if isinstance(value, bytes) and len(value) < element.length < 0xFFFFFFFF:
            raise DataError(
                f"is truncated: element {element.tag} has {len(value):,} of {element.length:,} bytes. Copy or download "
                "it again."
            )
        if element.VR == "SQ" or (
            element.VR in (None, "UN") and _pydicom().is_sequence(element.tag)
        ):
            sequences.append(element.tag)

    for tag in sequences:
        found = dataset[tag].value
        for item in found if isinstance(found, MutableSequence) else ():
            _check_elements(item, depth + 1)


def _pixel_element(data: bytes, at: int, header: Any) -> tuple[int, int | None]:
    """Offset of the value of PixelData, and its stated length in bytes; None if it is encapsulated."""
    implicit, little = header.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    group, number = (int.from_bytes(data[at + i : at + i + 2], order) for i in (0, 2))
    tag = group << 16 | number

    if PIXEL_DATA - 8 <= tag < PIXEL_DATA:
        raise DataError(
            "contains floating point pixels, expected integers. Export it as CT or MR image."
        )
    if tag != PIXEL_DATA:
        raise DataError(
            "contains no pixels: it is not an image (a report, a plan ...), or it is truncated."
        )
    short = not implicit and data[at + 4 : at + 6] not in (b"OB", b"OW", b"UN")
    if short:
        raise DataError(
            "the pixels are not stored as OB or OW. The file is damaged: copy or download it again."
        )

    where = at + (4 if implicit else 8)
    length = int.from_bytes(data[where : where + 4], order)
    return where + 4, None if length == 0xFFFFFFFF else length


def _checked_index(index: int, frames: int) -> int:
    if not 0 <= index < frames:
        raise DataError(f"has no frame {index}; it has {frames}, counted from 0.")
    return index


def _frames(file: DicomFile, frames: range | list[int]) -> Iterator[tuple[int, Pixels]]:
    """Decode the stored numbers of each frame: H W, or H W 3 in RGB."""
    if file.length is not None and file.shape[2] == 1 and file.syntax != BIG_ENDIAN:
        for frame in frames:
            yield frame, _gray_frame(file, frame)
        return

    decoder = _decoder(file)
    rows, columns, samples = file.shape
    source = bytes(file.data[file.start :])
    if file.length is None:
        _check_coded(file, source)
    else:
        source = source[: file.length]
        # each word has two pixels, the first in its lower byte
        if file.syntax == BIG_ENDIAN and file.words and file.bits[0] == 8:
            source = np.frombuffer(source[: len(source) // 2 * 2], ">u2").astype("<u2").tobytes()

    options = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": file.frames,
        "samples_per_pixel": samples,
        "bits_allocated": file.bits[0],
        "bits_stored": file.bits[1],
        "pixel_representation": int(file.signed),
        "photometric_interpretation": file.photometric,
        "planar_configuration": values.short(file.header, "PlanarConfiguration") or 0,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if file.bits[0] == 8 else "OW",
    }

    # RLE stores colors at full resolution, whatever the header says
    if file.photometric == "YBR_FULL_422" and file.length is None and file.syntax == RLE:
        options["photometric_interpretation"] = "YBR_FULL"
    for frame, (pixels, _) in zip(
        frames, decoder.iter_array(source, indices=frames, **options), strict=True
    ):
        yield frame, pixels


def _gray_frame(file: DicomFile, frame: int) -> Pixels:
    """One uncompressed gray frame, a read-only view of the bytes of the file."""
    rows, columns, _ = file.shape
    allocated, _ = file.bits
    kind = np.dtype(f"<{'i' if file.signed else 'u'}{allocated // 8}")
    start = file.start + frame * file.frame_bytes
    return np.frombuffer(file.data, kind, rows * columns, start).reshape(rows, columns)


def _decoder(file: DicomFile) -> Any:
    """The decoder for the transfer syntax of a file."""
    pydicom = _pydicom()
    uid = pydicom.UID(file.syntax)
    called = uid.name if uid.is_transfer_syntax else "an unknown transfer syntax"
    try:
        decoder = pydicom.pixels.get_decoder(uid)
    except NotImplementedError:
        decoder = None

    if decoder is None or not decoder.is_available:
        raise DataError(
            f"is compressed as {called}, for which no decoder is installed. Install one that pydicom knows, or store "
            "the file as Explicit VR Little Endian first (dcmdjpeg of DCMTK, gdcmconv --raw)."
        )
    return decoder


def _check_coded(file: DicomFile, source: bytes) -> None:
    """Refuse compressed frames whose size differs from the header."""
    rows, columns, _ = file.shape
    for frame in _pydicom().generate_frames(source, number_of_frames=file.frames):
        if file.syntax == RLE:
            # a segment may be padded by a byte, and its last run may end behind it
            if rle_length(frame) > file.frame_bytes + 15 * 128:
                raise DataError(
                    f"a compressed frame inflates to more than the {file.frame_bytes:,} bytes of a frame."
                )
        elif (found := coded_size(frame)) != (rows, columns):
            raise DataError(
                f"a compressed frame has size {found}, the header says {(rows, columns)}."
            )


def _in_gray(file: DicomFile, frame: int, stored: Pixels) -> Bytes:
    """Convert stored numbers to 0..255."""
    padded = _padding(file, stored)
    allocated, bits = file.bits
    if bits < allocated and stored.dtype.itemsize * 8 == allocated:
        # other bits may hold an overlay; shifting there and back also repeats the sign
        stored = (stored << (allocated - bits)) >> (allocated - bits)

    levels = _windowed(file, frame, stored, padded)
    if file.photometric == "MONOCHROME1":
        levels = np.subtract(255, levels, dtype=np.uint8)
    if padded is not None:
        levels[padded] = 0
    return levels


def _windowed(
    file: DicomFile, frame: int, stored: Pixels, padded: npt.NDArray[np.bool_] | None
) -> Bytes:
    """Rescale and window stored numbers, or stretch them by the range of the pixels that are not padding."""
    header = file.header
    slope, intercept = values.rescale(header, frame)
    if slope == 0:
        raise DataError("RescaleSlope is 0, which makes all pixels equal. The file is damaged.")
    table = values.items(header, "ModalityLUTSequence")
    if table:
        stored, slope, intercept = values.look_up(stored, table)[0], 1.0, 0.0

    # in the order of preference: a window, a lookup table, 8-bit pixels unchanged, the range of the pixels
    window = values.window(header, frame)
    if window is not None:
        return apply_window(stored, window, slope, intercept)
    if tables := values.items(header, "VOILUTSequence"):
        looked_up, bits = values.look_up(np.rint(stored * slope + intercept), tables)
        return stretch(looked_up, 0, 2**bits - 1)
    if file.bits[1] == 8 and not (file.signed or table):
        return np.array(stored, np.uint8)
    low, high = value_range(stored, file.name, None if padded is None else ~padded)
    return stretch(stored, low, high, inverted=slope < 0)


def _padding(file: DicomFile, stored: Pixels) -> npt.NDArray[np.bool_] | None:
    """True for pixels that are padding; None if there are none."""
    first = values.short(file.header, "PixelPaddingValue", file.signed)
    if first is None:
        return None
    last = values.short(file.header, "PixelPaddingRangeLimit", file.signed)
    low, high = sorted((first, first if last is None else last))
    padded = stored == low if low == high else (stored >= low) & (stored <= high)
    return padded if padded.any() else None


def _in_color(file: DicomFile, pixels: Pixels) -> Bytes:
    """Convert to RGB with 8 bits, or to H W if all pixels are gray."""
    bits = file.bits[1]
    if file.photometric == "PALETTE COLOR":
        pixels = _pydicom().pixels.apply_color_lut(pixels, file.header)
        bits = 8 * pixels.dtype.itemsize
    if file.signed:
        raise DataError("colors are stored as signed numbers, expected unsigned ones.")
    if bits != 8:
        pixels = pixels >> (bits - 8) if bits > 8 else pixels << (8 - bits)
    return np.ascontiguousarray(without_equal_channels(pixels), np.uint8)
