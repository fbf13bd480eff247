"""Files and a sentence in, masks and what is written beside them out: a predictor as the watcher calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError
from textmask.io.orientation import Orientation
from textmask.io.pictures import Picture
from textmask.io.result_facts import Model, Request, is_uid
from textmask.run.predict import Predictor, Segmentation
from textmask.text.finding_lines import finding_lines
from textmask.text.statement import Side, Statement
from textmask.types import Laterality

LUNG = ("qata", "mosmed", "report")  # grammars whose places are in the lungs
Read = Callable[[bytes, str], Sequence[Picture]]


@dataclass(frozen=True)
class Answer:
    """Masks of the slices of one request.

    Attributes:
        sources: N pydicom data sets, pixels not needed, in the order of the mask.
        pixels: uint8 N H W or N H W 3, grey levels as they are shown.
        mask: uint8 N H W, as the images are stored.
        probability: float32 N H W.
        request: the sentence with its side, site and notes.
        orientation: of the images; None where it is not known.
    """

    sources: tuple[Any, ...]
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    request: Request
    orientation: Orientation | None = None


class Answerer(Protocol):
    """Answers a sentence about the files of one film or series.

    Attributes:
        model: what answers.
        settings: what else changes the answer, e.g. whose left is meant; results of other settings are other results.
    """

    model: Model
    settings: str

    def __call__(self, files: Sequence[bytes], sentence: str) -> Answer:
        """The masks.

        Raises:
            DataError: the files or the sentence cannot be used.
        """
        ...


def answer(
    predictor: Predictor,
    files: Sequence[bytes],
    sentence: str,
    read: Read,
    laterality: str | None = None,
    assume: str | None = None,
    view: str | None = None,
) -> Answer:
    """Ask a predictor about every file, one slice each.

    Args:
        predictor: `textmask.run.predict.Predictor`.
        files: whole DICOM files of one series.
        sentence: what to segment.
        read: bytes and what messages call them to pictures (`textmask.io.read.read_bytes`).
        laterality: whose left the sentence means; None is the patient's.
        assume: whose left is assumed where that is not known.
        view: what the images show, e.g. pa; it overrules the files.

    Raises:
        DataError: a file is no DICOM image of one frame, or the slices differ in size.
        LateralityError: a side is named, and it cannot be known which side of the picture that is.
    """
    pictures = [_only_picture(read(data, "the instance")) for data in files]
    if len({(picture.pixels.shape, _letters(picture.orientation)) for picture in pictures}) != 1:
        raise DataError(f"the {len(pictures)} images differ in size or orientation; expected slices of one series.")
    found = [predictor.open(picture, view).segment(sentence, laterality, assume) for picture in pictures]
    orientation = pictures[0].orientation if view is None else Orientation.of_view(view)
    return Answer(
        tuple(picture.header for picture in pictures),
        np.stack([picture.pixels for picture in pictures]),
        np.stack([one.mask for one in found]).astype(np.uint8),
        np.stack([one.probability for one in found]).astype(np.float32),
        request_of(sentence, found, orientation, view),
        orientation,
    )


def request_of(
    sentence: str, found: Sequence[Segmentation], orientation: Orientation | None, view: str | None = None
) -> Request:
    """What results say of a request: its side and site, what was done with the sentence, and what is odd about it.

    Args:
        sentence: as it was given.
        found: the answers of all slices.
        orientation: of the slices.
        view: as somebody named it.
    """
    statement, asked = found[0].statement, found[0].asked
    return Request(
        sentence,
        side=patient_side(statement, str(asked.said), orientation),
        site="lung" if statement.grammar in LUNG and statement.zones else None,
        notes=(*_notes(found), *([] if view is None else [f"The operator named the view: {view}."])),
    )


class PredictorAnswerer:
    """`answer` with a predictor and settings that stay."""

    def __init__(
        self,
        predictor: Predictor,
        read: Read,
        version: str,
        laterality: str | None = None,
        assume: str | None = None,
        view: str | None = None,
    ) -> None:
        recipe = predictor.run.recipe
        self.predictor, self.read, self.how = predictor, read, (laterality, assume, view)
        self.model = Model(recipe.method, version, predictor.weights_sha256, recipe.threshold)
        self.settings = f"laterality={laterality or 'patient'} assume={assume or 'no'} view={view or 'file'}"

    def __call__(self, files: Sequence[bytes], sentence: str) -> Answer:
        """The masks of the files of one film or series."""
        return answer(self.predictor, files, sentence, self.read, *self.how)


def patient_side(statement: Statement, said: str, orientation: Orientation | None) -> str | None:
    """The patient's side that a statement names: `left`, `right`, `both`, or None where it names none or nobody knows.

    Args:
        statement: of the sentence as it was given.
        said: whose left it means: image or patient; anything else is not known.
        orientation: of the picture.
    """
    sides = statement.sides - {Side.CENTER}
    if not sides or statement.absent:
        return None
    if len(sides) == 2:
        return "both" if said == "patient" or (orientation and orientation.patient_left in ("left", "right")) else None
    side = next(iter(sides))
    if said == "patient":
        return str(side)
    if said != "image" or orientation is None or orientation.patient_left not in ("left", "right"):
        return None
    return str(side if orientation.patient_left == "left" else side.mirrored)


def _notes(found: Sequence[Segmentation]) -> tuple[str, ...]:
    asked = found[0].asked
    known = asked.said is not Laterality.UNKNOWN
    notes = [f"Left means the {asked.said}'s left." if known else "Whose left is meant is not known."]
    notes.append(f"Conversion: {asked.conversion}.")
    if asked.assumed:
        notes.append("Whose left is meant was assumed by the operator.")
    notes += finding_lines(found[0].statement)
    codes = dict.fromkeys(code for one in found for code in one.warnings)
    if codes:
        notes.append(f"About the sentence: {', '.join(codes)}.")
    if any(one.abstained for one in found):
        notes.append("The model abstained: it does not take the sentence to be about this image.")
    return tuple(notes)


def _only_picture(pictures: Sequence[Picture]) -> Picture:
    if len(pictures) != 1:
        raise DataError(f"the instance holds {len(pictures)} frames; results are written for single-frame images only.")
    if pictures[0].format != "dicom" or not is_uid(str(pictures[0].header.get("SOPInstanceUID", ""))):
        raise DataError("the instance is no DICOM image.")
    return pictures[0]


def _letters(orientation: Orientation | None) -> tuple[str, str] | None:
    return None if orientation is None else (orientation.columns, orientation.rows)
