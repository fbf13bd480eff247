"""The facts of a request for a mask of a DICOM image, as they are written into DICOM results."""

from __future__ import annotations

from collections.abc import Sequence

from textmask.inference.predictor import Segmentation
from textmask.io.dicom.facts import RequestFacts
from textmask.io.orientation import Orientation
from textmask.statement import Laterality, Side, Statement
from textmask.text.finding_lines import finding_lines

LUNG = ("qata", "mosmed", "report")  # grammars whose places are in the lungs


def request_of(
    sentence: str,
    found: Sequence[Segmentation],
    orientation: Orientation | None,
    view: str | None = None,
) -> RequestFacts:
    """What DICOM results record of a request: side and site, the conversion of sides, and the warnings.

    Args:
        sentence: the prompt as given.
        found: the segmentations of all slices, at least one.
        orientation: of the slices.
        view: as the user named it.
    """
    statement, asked = found[0].statement, found[0].asked
    notes = _request_notes(found)
    if view is not None:
        notes.append(f"The operator named the view: {view}.")
    return RequestFacts(
        sentence,
        side=patient_side(statement, str(asked.said), orientation),
        site="lung" if statement.grammar in LUNG and statement.zones else None,
        notes=tuple(notes),
    )


def patient_side(statement: Statement, said: str, orientation: Orientation | None) -> str | None:
    """The patient's side that a statement names.

    Args:
        statement: of the prompt as given.
        said: the laterality convention of the prompt: `image` or `patient`; anything else is unknown.
        orientation: of the image.

    Returns:
        `left`, `right`, `both`, or None if no side is named or the side is unknown.
    """
    sides = statement.sides - {Side.CENTER}
    if not sides or statement.absent:
        return None
    known = orientation is not None and orientation.patient_left in ("left", "right")
    if len(sides) == 2:
        return "both" if said == "patient" or known else None

    side = next(iter(sides))
    if said == "patient":
        return str(side)
    if said != "image" or orientation is None or not known:
        return None
    return str(side if orientation.patient_left == "left" else side.mirrored)


def _request_notes(found: Sequence[Segmentation]) -> list[str]:
    asked = found[0].asked
    if asked.said is Laterality.UNKNOWN:
        notes = ["The laterality convention of the prompt is unknown."]
    else:
        notes = [f"Left means the {asked.said}'s left."]
    notes.append(f"Conversion: {asked.conversion}.")
    if asked.assumed:
        notes.append("The laterality convention was assumed by the operator.")

    notes += finding_lines(found[0].statement)

    # each code once, in the order of the slices
    codes: dict[str, None] = {}
    for one in found:
        codes.update(dict.fromkeys(one.warnings))
    if codes:
        notes.append(f"Prompt warnings: {', '.join(codes)}.")
    if any(one.abstained for one in found):
        notes.append("The model abstained: it does not take the prompt to be about this image.")
    return notes
