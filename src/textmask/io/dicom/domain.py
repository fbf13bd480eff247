"""Whether a DICOM image is of the kind that a model knows, by its header: modality, body part, view, raw data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from textmask.errors import DataError
from textmask.io.dicom import values
from textmask.io.orientation import Orientation

VIEWS_OF_BODY = ("", "frontal", "axial")
PROCESSING = (  # SOP classes of radiographs before the processing for viewing
    "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.1.3.1",
)
# words in BodyPartExamined, or in the meaning of a code, that name a body part
NAMES_OF_PART = {"CHEST": ("CHEST", "THORA", "LUNG")}
FRONTAL_VIEWS = ("PA", "AP", "FRONTAL", "ANTERO", "POSTERO")
# defined terms; only these are quoted, because another value could be anything, also a name
TERMS = frozenset(
    """
    CR DX CT MR US MG XA RF NM PT OT SC XC ES GM SM IO PX OP ECG SEG SR
    SKULL CSPINE TSPINE LSPINE SSPINE COCCYX CHEST CLAVICLE BREAST ABDOMEN PELVIS HIP SHOULDER ELBOW KNEE ANKLE HAND
    FOOT EXTREMITY HEAD HEART NECK LEG ARM JAW WRIST BRAIN SPINE THYROID
    PA AP LL RL LLD RLD LLO RLO RAO LAO LATERAL LAT OBLIQUE
    """.split()
)


@dataclass(frozen=True)
class Domain:
    """The images that a model knows. What is empty is not compared.

    Localizers and radiographs "for processing" are outside of every domain: no model learns from them.

    Attributes:
        modality: values of Modality, such as CR and DX.
        body_part: a key of `NAMES_OF_PART`, or a value of BodyPartExamined.
        view: `frontal` (AP or PA, not lateral or oblique) or `axial`.

    Raises:
        DataError: the view is not one of these.
    """

    modality: tuple[str, ...] = ()
    body_part: str = ""
    view: str = ""

    def __post_init__(self) -> None:
        if self.view not in VIEWS_OF_BODY:
            raise DataError(
                f"the view of the domain is {self.view!r}, expected frontal or axial, or nothing."
            )

    @classmethod
    def from_json(cls, value: Any) -> Domain:
        """Read a stored domain back.

        Raises:
            DataError: it has another form.
        """
        known = value if isinstance(value, Mapping) else {}
        modality = known.get("modality", ())
        words = [known.get("body_part", ""), known.get("view", "")]
        if (
            not isinstance(value, Mapping)
            or not set(known) <= {"modality", "body_part", "view"}
            or not isinstance(modality, list | tuple)
            or not all(isinstance(word, str) for word in (*modality, *words))
        ):
            raise DataError(
                'the domain in data.json is malformed; expected such as {"modality": ["CR", "DX"], '
                '"body_part": "CHEST", "view": "frontal"}.'
            )
        return cls(tuple(modality), *words)

    def as_json(self) -> dict[str, Any]:
        """The domain as it is stored in data.json."""
        return asdict(self) | {"modality": list(self.modality)}

    def mismatch(
        self, header: Any, orientation: Orientation | None = None, named: bool = False
    ) -> str:
        """What an image is that the model does not know; "" if nothing in its header says so.

        Args:
            header: `LoadedImage.header` of a DICOM image.
            orientation: of the image.
            named: the user named it, which replaces what the header says about the view.
        """
        if "LOCALIZER" in _terms(header, "ImageType"):
            return "ImageType says that it is a localizer, from which slices are planned"
        if (
            "FOR PROCESSING" in _terms(header, "PresentationIntentType")
            or values.word(header, "SOPClassUID") in PROCESSING
        ):
            return "PresentationIntentType is FOR PROCESSING: raw data of the detector, not an image to look at"

        modality = next(iter(_terms(header, "Modality")), "")
        if self.modality and modality and modality not in self.modality:
            return f"Modality is {_quoted(modality)}, expected {' or '.join(self.modality)}"
        part = _body_part(header)
        accepted = NAMES_OF_PART.get(self.body_part, (self.body_part,))
        if self.body_part and part and not any(name in part for name in accepted):
            return f"BodyPartExamined is {_quoted(part)}, expected {self.body_part}"
        return self._other_view(header, orientation, named)

    def unknown(self, header: Any) -> list[str]:
        """What the header does not say, so that it was not compared: modality, body part, view."""
        found = []
        if self.modality and not _terms(header, "Modality"):
            found.append("modality")
        if self.body_part and not _body_part(header):
            found.append("body part")
        if self.view == "frontal" and not (_terms(header, "ViewPosition") or _view_codes(header)):
            found.append("view")
        return found

    def _other_view(self, header: Any, orientation: Orientation | None, named: bool) -> str:
        usual = None if orientation is None else orientation.usual
        plane = None if usual is None else (usual.columns, usual.rows)
        if self.view == "axial" and plane not in (None, ("L", "P")):
            return "its plane is not axial"
        if self.view != "frontal":
            return ""

        # the plane, then the view by name, then by code
        if plane is not None and plane != ("L", "F"):
            return "its orientation in the patient is not that of a frontal view"
        if named:
            return ""
        position = next(iter(_terms(header, "ViewPosition")), "")
        if position and not position.startswith(FRONTAL_VIEWS):
            return f"ViewPosition is {_quoted(position)}, expected AP or PA"
        meaning = _view_codes(header)
        if not position and (
            "OBLIQUE" in meaning or ("LATERAL" in meaning and "DECUBITUS" not in meaning)
        ):
            return "ViewCodeSequence names a lateral or oblique view, expected AP or PA"
        return ""


CHEST_RADIOGRAPH = Domain(("CR", "DX"), "CHEST", "frontal")
CHEST_CT = Domain(("CT",), "CHEST", "axial")


def _terms(header: Any, keyword: str) -> list[str]:
    """The values of a code string in capitals; [] if it is missing or not text."""
    try:
        return [word.strip().upper() for word in values.words(header, keyword) if word.strip()]
    except DataError:
        return []


def _body_part(header: Any) -> str:
    """BodyPartExamined, else the meaning of the code of the region, in capitals; "" if neither is known."""
    terms = _terms(header, "BodyPartExamined")
    return terms[0] if terms else _meanings(header, "AnatomicRegionSequence")


def _view_codes(header: Any) -> str:
    return _meanings(header, "ViewCodeSequence")


def _meanings(header: Any, sequence: str) -> str:
    try:
        found = [
            term for item in values.items(header, sequence) for term in _terms(item, "CodeMeaning")
        ]
    except DataError:
        return ""
    return " ".join(found)


def _quoted(value: str) -> str:
    return value if value in TERMS else "another value"
