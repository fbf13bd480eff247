"""Data of DICOM results other than pixels: the request, the model, names, numbers, and the patient and study.

Only attributes that match a result with its study are copied from the source image.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from textmask.errors import ConfigError, DataError

SOFTWARE = "textmask"
RESEARCH = "Research use only"
# characters that DICOM allows in a long string, in a short text and in a code string
LO_MOST, ST_MOST, CS_MOST = 64, 1024, 16
SIDES = ("left", "right", "both")
CHARACTERS = "ISO_IR 192"  # UTF-8
SERIES = {"SEG": 9001, "SR": 9002, "OT": 9003}
UID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+")
# what matches a result with its study; nothing else of the patient: no other ids, age, weight, comments, physicians
PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber")
IMAGE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "Columns",
)
GEOMETRY = (
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
)
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
WHITELIST = (*PATIENT, *STUDY, *IMAGE, *GEOMETRY, *LOSSY, "PatientOrientation")
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": "[MFO]",
    "LossyImageCompression": "00|01",
}
_EMPTY = (*PATIENT[:1], *PATIENT[2:], *STUDY[1:])  # required, but may be empty


@dataclass(frozen=True)
class ModelFacts:
    """The model: its name, the version of the software, the hash of its weights file, its threshold."""

    name: str
    version: str
    weights_sha256: str
    threshold: float


@dataclass(frozen=True)
class RequestFacts:
    """The request as results record it.

    Attributes:
        prompt: as it was given.
        side: the patient's side that the prompt names: `left`, `right` or `both`; None if it is unknown.
        site: anatomic region if it is known: `lung`.
        notes: in words, e.g. the laterality convention, what was converted or assumed, and prompt warnings.

    Raises:
        ConfigError: the side is not one of these.
    """

    prompt: str
    side: str | None = None
    site: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.side is not None and self.side not in SIDES:
            raise ConfigError(
                f"side is {self.side!r}, expected one of {', '.join(SIDES)}, or None."
            )

    @property
    def sha256(self) -> str:
        """Hex sha256 of the prompt."""
        return hashlib.sha256(self.prompt.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ResultUids:
    """UIDs of the three results of one request; the same key gives the same UIDs."""

    seg: str
    seg_series: str
    sr: str
    sr_series: str
    capture: str
    capture_series: str
    tracking: str

    @classmethod
    def of(cls, *key: str) -> ResultUids:
        """Derive the UIDs from what identifies the results: the source, the request and the model."""
        return cls(**{name: derived_uid(name, *key) for name in cls.__dataclass_fields__})


def derived_uid(*parts: str) -> str:
    """Derive a UID from a hash: the same parts give the same UID (2.25. and a UUID of version 8)."""
    digest = bytearray(
        hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()[:16]
    )
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"


def is_uid(text: object) -> bool:
    """Whether a value is a well-formed UID of at most 64 characters, and therefore safe in a URL."""
    return isinstance(text, str) and len(text) <= LO_MOST and UID.fullmatch(text) is not None


def one_line(text: str) -> str:
    """Replace control and format characters (line ends, direction marks, nulls, lone surrogates) by single spaces.

    A prompt or a name can then neither end a part of a multipart message nor change the reading direction.
    """
    spaced = "".join(
        " " if c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Co") else c
        for c in text
    )
    return " ".join(spaced.split())


def long_string(text: str, most: int = LO_MOST) -> str:
    """Format text as a DICOM long string: one line, no backslash (it separates values), cut with "..."."""
    line = one_line(text).replace("\\", "/")
    return line if len(line) <= most else f"{line[: most - 3].rstrip()}..."


def segment_label(prompt: str) -> str:
    """The first words of a prompt and a short hash, which separates long prompts: at most 64 characters."""
    digest = hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{long_string(prompt, LO_MOST - 10) or 'no words'} #{digest}"


def short_text(text: str, most: int = ST_MOST) -> str:
    """Format text as a DICOM short text; if it is too long, its start and the number of characters left out."""
    line = one_line(text)
    if len(line) <= most:
        return line
    kept = most - len(f" [cut: {len(line)} more characters]")
    return f"{line[:kept]} [cut: {len(line) - kept} more characters]"


def whitelisted(source: Any) -> dict[str, Any]:
    """The attributes of a pydicom data set that are copied into results, by keyword, as plain values.

    Names and ids are decoded with the character set of the source. Dates, times and sex are left empty if they are not
    well formed, as DICOM allows.

    Raises:
        DataError: a UID or the size is missing or malformed.
    """
    found: dict[str, Any] = dict.fromkeys(_EMPTY, "")
    for keyword in WHITELIST:
        # pydicom converts a value when it is asked for, and may raise anything
        try:
            value = source.get(keyword)
            if value in (None, "") or (keyword in (*GEOMETRY, *LOSSY) and not value):
                continue
            found[keyword] = _plain_value(keyword, value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{keyword} of the source image is malformed ({type(error).__name__}). Export it again."
            ) from error

    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not is_uid(found.get(keyword)):
            raise DataError(
                f"the source image has no well-formed {keyword}; expected a DICOM image. Export it again."
            )
    if not is_uid(found.get("FrameOfReferenceUID", "1.2")):
        del found["FrameOfReferenceUID"]
    if found.get("Rows", 0) < 1 or found.get("Columns", 0) < 1:
        raise DataError(
            "the source image has no Rows and Columns; expected a DICOM image. Export it again."
        )
    return found


def _plain_value(keyword: str, value: Any) -> Any:
    if keyword in ("Rows", "Columns"):
        return int(value)
    if keyword in LOSSY[1:]:
        several = value if isinstance(value, MutableSequence) else [value]
        return [
            float(one) if keyword == LOSSY[1] else long_string(str(one), CS_MOST) for one in several
        ]
    if keyword in GEOMETRY:
        single = keyword.startswith(("Slice", "SpacingB"))
        return float(value) if single else [float(x) for x in value]

    if keyword == "PatientOrientation":
        letters = [str(x) for x in value]
        usable = len(letters) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", x) for x in letters)
        return letters if usable else []

    text = one_line(str(value))
    return text if re.fullmatch(_FORMS.get(keyword, ".*"), text) else ""


def spacing_mm(facts: Mapping[str, Any]) -> tuple[tuple[float, float] | None, str]:
    """Spacing of rows and of columns, and the attribute that gives it; for a radiograph it may be at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        values = facts.get(keyword, [])
        if len(values) == 2 and all(0 < x < float("inf") for x in values):
            return (values[0], values[1]), keyword
    return None, ""


def slice_spacing_mm(facts: Sequence[Mapping[str, Any]]) -> float | None:
    """Distance between neighboring slices; None if they are not evenly spaced or a position is unknown."""
    positions: list[float] = []
    for one in facts:
        position = one.get("ImagePositionPatient", [])
        cosines = one.get("ImageOrientationPatient", [])
        if len(position) != 3 or len(cosines) != 6:
            return None

        # the position along the normal of the plane
        (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        positions.append(sum(n * p for n, p in zip(normal, position, strict=True)))

    positions.sort()
    steps = [after - before for before, after in pairwise(positions)]
    if not steps or min(steps) <= 0 or max(steps) - min(steps) > 0.01 * max(steps) + 1e-3:
        return None
    return sum(steps) / len(steps)


def tracking_id(request: RequestFacts) -> str:
    """The name under which viewers track the region, next to its UID."""
    return long_string(f"{SOFTWARE} {segment_label(request.prompt)}", LO_MOST)


def common_attributes(modality: str, request: RequestFacts, model: ModelFacts) -> dict[str, Any]:
    """Arguments that all highdicom results take: series, equipment and character set; `modality` is SEG, SR or OT."""
    return {
        "series_number": SERIES[modality],
        "instance_number": 1,
        "manufacturer": SOFTWARE,
        "manufacturer_model_name": long_string(model.name),
        "software_versions": long_string(model.version),
        "device_serial_number": model.weights_sha256[:32],
        "series_description": long_string(f"{SOFTWARE}: {request.prompt}"),
        "specific_character_set": CHARACTERS,
    }


def algorithm_parameters(model: ModelFacts, request: RequestFacts) -> list[str]:
    """What results record about the algorithm, as lines of name=value."""
    side = "the patient's, converted if needed" if request.side else "unknown for the patient"
    return [
        f"weights_sha256={model.weights_sha256}",
        f"threshold={model.threshold:g}",
        f"side={side}",
    ]
