"""Read values about an image from a DICOM data set: numbers, directions, spacing, window; per frame or for all frames.

Values are read from the bytes of the elements, which is several times as fast as pydicom's conversion. Errors name the
attribute and never its value, because a value may be a patient's name.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import MutableSequence
from typing import Any

import numpy as np

from textmask.errors import DataError, DataWarning
from textmask.io.intensity import FUNCTIONS, Pixels, Window
from textmask.io.orientation import OPPOSITE, Orientation, orientation_of_cosines

TAGS = {
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "Modality": 0x00080060,
    "PresentationIntentType": 0x00080068,
    "CodeMeaning": 0x00080104,
    "AnatomicRegionSequence": 0x00082218,
    "BodyPartExamined": 0x00180015,
    "ViewPosition": 0x00185101,
    "ImageLaterality": 0x00200062,
    "ViewCodeSequence": 0x00540220,
    "ImagerPixelSpacing": 0x00181164,
    "NominalScannedPixelSpacing": 0x00182010,
    "SeriesInstanceUID": 0x0020000E,
    "PatientOrientation": 0x00200020,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "PlanarConfiguration": 0x00280006,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "VOILUTFunction": 0x00281056,
    "ModalityLUTSequence": 0x00283000,
    "VOILUTSequence": 0x00283010,
    "SharedFunctionalGroupsSequence": 0x52009229,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
    "PlaneOrientationSequence": 0x00209116,
    "PlanePositionSequence": 0x00209113,
    "PixelMeasuresSequence": 0x00289110,
    "FrameVOILUTSequence": 0x00289132,
    "PixelValueTransformationSequence": 0x00289145,
}
FRONTAL = ("AP", "PA")
LATERAL = {"LL": "L", "RL": "R", "LATERAL": "", "LAT": ""}  # views, and the side that they name
MOST_LETTERS = 1 << 16  # of a value read as text; the rest is ignored


def words(dataset: Any, keyword: str) -> list[str]:
    """The values of a text element, without padding; [] if it is missing or empty.

    Raises:
        DataError: the element is not ASCII text.
    """
    element = _element(dataset, keyword)
    value = None if element is None else element.value
    if value is None or value == "":
        return []
    if not isinstance(value, bytes):  # pydicom has converted what it needed itself
        return [str(one) for one in (value if isinstance(value, MutableSequence) else [value])]

    try:
        text = value[:MOST_LETTERS].decode("ascii").strip(" \0")
    except UnicodeDecodeError as error:
        raise DataError(f"{keyword} contains characters outside ASCII.") from error
    return [word.strip(" \0") for word in text.split("\\")] if text else []


def word(dataset: Any, keyword: str) -> str:
    """The first value of a text element; "" if it is missing."""
    return next(iter(words(dataset, keyword)), "")


def numbers(dataset: Any, keyword: str) -> list[float]:
    """The values of a DS or IS element; [] if it is missing or empty.

    Raises:
        DataError: a value is not a finite number.
    """
    try:
        values = [float(word) for word in words(dataset, keyword) if word]
    except ValueError as error:
        raise DataError(f"{keyword} contains a value that is not a number.") from error
    if not all(math.isfinite(value) and abs(value) < 1e30 for value in values):
        raise DataError(f"{keyword} contains a number that is not finite.")
    return values


def number(dataset: Any, keyword: str, default: float) -> float:
    """The first value of a DS or IS element; `default` if it is missing."""
    return next(iter(numbers(dataset, keyword)), default)


def short(dataset: Any, keyword: str, signed: bool = False) -> int | None:
    """The value of a US (or SS, if `signed`) element; None if it is missing or empty.

    Raises:
        DataError: the value has fewer than two bytes.
    """
    element = _element(dataset, keyword)
    value = None if element is None else element.value
    if element is None or value is None or value == b"":
        return None
    if isinstance(value, int):  # pydicom has converted what it needed itself
        return value
    if not isinstance(value, bytes) or len(value) < 2:
        raise DataError(f"{keyword} is shorter than the 2 bytes of a number.")

    order = "<" if element.is_little_endian else ">"
    return int(struct.unpack(order + "Hh"[signed], value[:2])[0])


def items(dataset: Any, keyword: str) -> list[Any]:
    """The items of a sequence; [] if it is missing.

    Raises:
        DataError: the element is not a sequence.
    """
    if _element(dataset, keyword) is None:
        return []
    element = dataset[TAGS[keyword]]
    if element.VR != "SQ":
        raise DataError(f"{keyword} is not a sequence.")
    return list(element.value or [])


def groups(dataset: Any, keyword: str, frame: int) -> list[Any]:
    """Data sets that may describe a frame, most specific first: its own group, the shared group, the file."""
    found: list[Any] = []
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    for group in [*own[frame : frame + 1], *items(dataset, "SharedFunctionalGroupsSequence")[:1]]:
        found += items(group, keyword)[:1]
    return [*found, dataset]


def first_numbers(dataset: Any, sequence: str, keyword: str, frame: int) -> list[float]:
    """`numbers` of the most specific data set that has the element."""
    return next(
        filter(None, (numbers(group, keyword) for group in groups(dataset, sequence, frame))), []
    )


def orientation(dataset: Any, frame: int) -> Orientation | None:
    """Orientation of the patient in a frame: PatientOrientation, else ImageOrientationPatient; None if unknown.

    Warns:
        DataWarning: PatientOrientation does not name two directions, or contradicts ImageOrientationPatient; in the
            second case the orientation is unknown. So it is if ViewPosition names a view in another plane (a lateral
            one, and the columns run to the left), or the other side than ImageLaterality.
    """
    stated = _stated(dataset)
    cosines = first_numbers(dataset, "PlaneOrientationSequence", "ImageOrientationPatient", frame)
    measured = orientation_of_cosines(cosines, "ImageOrientationPatient") if cosines else None

    if stated and measured and (stated.columns, stated.rows) != (measured.columns, measured.rows):
        warnings.warn(
            f"PatientOrientation is {stated.columns}\\{stated.rows}, but ImageOrientationPatient says "
            f"{measured.columns}\\{measured.rows}; the orientation is treated as unknown.",
            DataWarning,
            stacklevel=2,
        )
        return None

    found = stated or measured
    if found is not None and (contradiction := _view_contradiction(dataset, found)):
        warnings.warn(
            f"{contradiction}; the orientation is treated as unknown.", DataWarning, stacklevel=2
        )
        return None
    return found


def _view_contradiction(dataset: Any, found: Orientation) -> str:
    """What ViewPosition says against the orientation or against ImageLaterality; "" if nothing."""
    try:
        view = word(dataset, "ViewPosition").upper()
        side = word(dataset, "ImageLaterality").upper()
    except DataError:
        return ""
    plane = (found.usual.columns, found.usual.rows)
    if view in FRONTAL and plane == ("P", "F"):
        return f"ViewPosition is {view}, but {found.source} is that of a lateral view"
    if view in LATERAL and plane == ("L", "F"):
        return f"ViewPosition is {view}, but {found.source} is that of a frontal view"
    if side in ("L", "R") and LATERAL.get(view, side) not in (side, ""):
        return f"ViewPosition is {view}, but ImageLaterality is {side}"
    return ""


def _stated(dataset: Any) -> Orientation | None:
    """Read PatientOrientation; the first letter of each value is the main direction ("L\\FP" is left, feet)."""
    try:
        found = words(dataset, "PatientOrientation")
        if not any(found):
            return None
        if len(found) != 2 or not all(value and set(value) <= OPPOSITE.keys() for value in found):
            raise DataError("not two directions")
        return Orientation(found[0][0], found[1][0], "PatientOrientation")
    except DataError:
        warnings.warn(
            "PatientOrientation does not name two directions; it is ignored.",
            DataWarning,
            stacklevel=2,
        )
        return None


def spacing(dataset: Any, frame: int) -> tuple[float, float] | None:
    """Millimeters between rows and between columns; None if missing or not positive.

    Measured at the patient if known, else at the detector (ImagerPixelSpacing), where the image is magnified.
    """
    found = first_numbers(dataset, "PixelMeasuresSequence", "PixelSpacing", frame)
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = found or numbers(dataset, keyword)
    if len(found) < 2 or min(found[:2]) <= 0:
        return None
    return found[0], found[1]


def rescale(dataset: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept that convert stored numbers to the unit of the window."""
    for group in groups(dataset, "PixelValueTransformationSequence", frame):
        slope = numbers(group, "RescaleSlope")
        if slope:
            return slope[0], number(group, "RescaleIntercept", 0.0)
    return 1.0, number(dataset, "RescaleIntercept", 0.0)


def window(dataset: Any, frame: int) -> Window | None:
    """The first window of a frame; None if there is none or its width is not positive.

    Raises:
        DataError: the window function is not in the standard.
    """
    for group in groups(dataset, "FrameVOILUTSequence", frame):
        centers, widths = numbers(group, "WindowCenter"), numbers(group, "WindowWidth")
        if centers and widths and widths[0] > 0:
            function = word(group, "VOILUTFunction") or "LINEAR"
            if function not in FUNCTIONS:
                raise DataError(
                    f"VOILUTFunction is unsupported, expected one of {', '.join(FUNCTIONS)}."
                )
            return Window(centers[0], widths[0], function)
    return None


def look_up(numbers: Pixels, sequence: list[Any]) -> tuple[Pixels, int]:
    """Map integers through the first lookup table of a sequence (PS3.3 C.11.1.1).

    Args:
        numbers: integers of any shape.
        sequence: items of ModalityLUTSequence or VOILUTSequence.

    Returns:
        The mapped numbers, and their number of bits.

    Raises:
        DataError: the table contains no numbers, or its length differs from its descriptor.
    """
    try:
        size, first, bits = (int(value) for value in sequence[0].LUTDescriptor)
        data = sequence[0].LUTData
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            "a lookup table contains no numbers. The file is damaged: copy or download it again."
        ) from error

    size = size % 65536 or 65536  # 0 means 65536
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if len(data) >= 2 * size else np.uint8)
    table = np.asarray(data).astype(np.int64) % 65536
    if len(table) < size or not 1 <= bits <= 16:
        raise DataError(
            f"a lookup table has {len(table)} entries of {bits} bits; its descriptor says {size}."
        )

    # a negative first number was read as a positive one
    if first > 32767 and numbers.size and numbers.min() < 0:
        first -= 65536
    return table[np.clip(numbers.astype(np.int64) - first, 0, size - 1)], bits


def along_normal(dataset: Any) -> tuple[float, tuple[float, ...]] | None:
    """Position of a slice along the normal of its plane, in mm, and its six direction cosines; None if missing."""
    cosines = numbers(dataset, "ImageOrientationPatient")
    position = numbers(dataset, "ImagePositionPatient")
    if len(cosines) != 6 or len(position) != 3:
        return None
    normal = np.cross(cosines[:3], cosines[3:])
    return float(normal @ np.asarray(position)), tuple(cosines)


def _element(dataset: Any, keyword: str) -> Any:
    """The raw element; None if it is missing."""
    try:
        return dataset.get_item(TAGS[keyword])
    except KeyError:
        return None
