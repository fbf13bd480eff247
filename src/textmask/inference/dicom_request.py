"""A request for a mask of a DICOM image."""

from __future__ import annotations

from collections.abc import Sequence

from textmask.inference.predictor import Segmentation
from textmask.io.dicom.facts import RequestFacts
from textmask.io.orientation import Orientation
from textmask.statement import Laterality, Side, Statement

LUNG = ("qata", "mosmed", "report")  # grammars whose places are in the lungs


def request_of(
    sentence: str,
    found: Sequence[Segmentation],
    orientation: Orientation | None,
    view: str | None = None,
) -> RequestFacts:
    """What results say of a request: its side and site, what was done with the sentence, and what is odd about it.

    Args:
        sentence: as it was given.
        found: the answers of all slices.
        orientation: of the slices.
        view: as somebody named it.
    """
    statement, asked = found[0].statement, found[0].asked
    return RequestFacts(
        sentence,
        side=patient_side(statement, str(asked.said), orientation),
        site="lung" if statement.grammar in LUNG and statement.zones else None,
        notes=(
            *_request_notes(found),
            *([] if view is None else [f"The operator named the view: {view}."]),
        ),
    )


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
        return (
            "both"
            if said == "patient" or (orientation and orientation.patient_left in ("left", "right"))
            else None
        )
    side = next(iter(sides))
    if said == "patient":
        return str(side)
    if said != "image" or orientation is None or orientation.patient_left not in ("left", "right"):
        return None
    return str(side if orientation.patient_left == "left" else side.mirrored)


def _request_notes(found: Sequence[Segmentation]) -> tuple[str, ...]:
    asked = found[0].asked
    known = asked.said is not Laterality.UNKNOWN
    notes = [
        f"Left means the {asked.said}'s left." if known else "Whose left is meant is not known."
    ]
    notes.append(f"Conversion: {asked.conversion}.")
    if asked.assumed:
        notes.append("Whose left is meant was assumed by the operator.")
    codes = dict.fromkeys(code for one in found for code in one.warnings)
    if codes:
        notes.append(f"About the sentence: {', '.join(codes)}.")
    if any(one.abstained for one in found):
        notes.append("The model abstained: it does not take the sentence to be about this image.")
    return tuple(notes)
