"""What is written into DICOM results beside the pixels: who asked what of which model, names, numbers, and whose image.

Only attributes that match a result with its study are taken from the source; everything else of it stays behind.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from textmask.errors import ConfigError, DataError

SOFTWARE = "textmask"
RESEARCH = "Research use only"
LO_MOST, ST_MOST = 64, 1024  # characters that DICOM allows in a long string and in a short text
SIDES = ("left", "right", "both")
UID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+")
# what a result is matched by, and nothing else of the patient: no other ids, age, weight, comments, physicians, places
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
WHITELIST = (*PATIENT, *STUDY, *IMAGE, *GEOMETRY, "PatientOrientation")
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": "[MFO]",
}
_EMPTY = (*PATIENT[:1], *PATIENT[2:], *STUDY[1:])  # must be there, may be empty


@dataclass(frozen=True)
class ModelFacts:
    """The model that answered: its name, the version of the software, its weights file, its threshold."""

    name: str
    version: str
    weights_sha256: str
    threshold: float


@dataclass(frozen=True)
class RequestFacts:
    """What was asked.

    Attributes:
        sentence: as it was given.
        side: the patient's side it names: `left`, `right` or `both`; None where that is not known.
        site: anatomic region where it is known: `lung`.
        notes: in words, e.g. whose left was meant, what was converted or assumed, and what is odd about the sentence.

    Raises:
        ConfigError: another side.
    """

    sentence: str
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
        """Of the sentence, as it is told apart from others."""
        return hashlib.sha256(self.sentence.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ResultUids:
    """UIDs of the three results of one request; the same key gives the same."""

    seg: str
    seg_series: str
    sr: str
    sr_series: str
    capture: str
    capture_series: str
    tracking: str

    @classmethod
    def of(cls, *key: str) -> ResultUids:
        """Of what makes the results these: the source, the request, the model."""
        return cls(**{name: derived_uid(name, *key) for name in cls.__dataclass_fields__})


def derived_uid(*parts: str) -> str:
    """A UID from a hash: the same parts, the same UID (2.25. and a UUID of version 8)."""
    digest = bytearray(
        hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()[:16]
    )
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"


def is_uid(text: object) -> bool:
    """Whether it is a well-formed UID of at most 64 characters, and so safe in an address."""
    return isinstance(text, str) and len(text) <= LO_MOST and UID.fullmatch(text) is not None


def one_line(text: str) -> str:
    """Without control and format characters (line ends, direction marks, nulls, lone surrogates), single spaces.

    No line end of a sentence or name can then end a part of a multipart message, nor turn the reading direction.
    """
    spaced = "".join(
        " " if c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Co") else c
        for c in text
    )
    return " ".join(spaced.split())


def long_string(text: str, most: int = LO_MOST) -> str:
    """As a DICOM long string: one line, no backslash (which would part it in two values), cut with "..."."""
    line = one_line(text).replace("\\", "/")
    return line if len(line) <= most else f"{line[: most - 3].rstrip()}..."


def segment_label(sentence: str) -> str:
    """First words and a short hash, which tells two long sentences apart: at most 64 characters."""
    digest = hashlib.sha256(sentence.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{long_string(sentence, LO_MOST - 10) or 'no words'} #{digest}"


def short_text(text: str, most: int = ST_MOST) -> str:
    """As a DICOM short text: where it is longer, its start and how many characters are left out."""
    line = one_line(text)
    if len(line) <= most:
        return line
    kept = most - len(f" [cut: {len(line)} more characters]")
    return f"{line[:kept]} [cut: {len(line) - kept} more characters]"


def whitelisted(source: Any) -> dict[str, Any]:
    """The attributes of a pydicom data set that go into a result, by keyword, as plain values.

    Names and ids are decoded by the source's own character set. Dates, times and sex that are not well formed are left
    empty, as DICOM allows.

    Raises:
        DataError: a UID or the size is missing or malformed.
    """
    found: dict[str, Any] = {}
    for keyword in WHITELIST:
        value = source.get(keyword)
        if value in (None, "") or (keyword in GEOMETRY and not value):
            continue
        found[keyword] = _plain_value(keyword, value)
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
    return dict.fromkeys(_EMPTY, "") | found


def _plain_value(keyword: str, value: Any) -> Any:
    if keyword in ("Rows", "Columns"):
        return int(value)
    if keyword in GEOMETRY:
        return (
            float(value) if keyword.startswith(("Slice", "SpacingB")) else [float(x) for x in value]
        )
    if keyword == "PatientOrientation":
        letters = [str(x) for x in value]
        return (
            letters
            if len(letters) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", x) for x in letters)
            else []
        )
    text = one_line(str(value))
    return text if re.fullmatch(_FORMS.get(keyword, ".*"), text) else ""


def spacing_mm(facts: Mapping[str, Any]) -> tuple[tuple[float, float] | None, str]:
    """(of rows, of columns) of a whitelisted source, and where it is known from; of a film, maybe at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        values = facts.get(keyword, [])
        if len(values) == 2 and all(0 < x < float("inf") for x in values):
            return (values[0], values[1]), keyword
    return None, ""


def slice_spacing_mm(facts: Sequence[Mapping[str, Any]]) -> float | None:
    """Distance between neighbouring slices; None where they are not evenly spaced or their places are not known."""
    places: list[float] = []
    for one in facts:
        position, cosines = (
            one.get("ImagePositionPatient", []),
            one.get("ImageOrientationPatient", []),
        )
        if len(position) != 3 or len(cosines) != 6:
            return None
        (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        places.append(sum(n * p for n, p in zip(normal, position, strict=True)))
    places.sort()
    steps = [after - before for before, after in pairwise(places)]
    if not steps or min(steps) <= 0 or max(steps) - min(steps) > 0.01 * max(steps) + 1e-3:
        return None
    return sum(steps) / len(steps)
