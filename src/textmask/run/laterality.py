"""The laterality contract: whose left a sentence means, whose left a model has learnt, and how one becomes the other.

A model, a picture and a request each carry `image`, `patient` or `unknown`. The network is shown a picture in its usual
view where its orientation is known (the patient's left on the right of the picture), and as it is stored where not; the
sentence is rewritten so that it is true of what the network is shown, in the words the model has learnt. What cannot be
known is refused, never guessed. docs/laterality.md has the table of cases.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from textmask.errors import LateralityError, choose
from textmask.io.orientation import OPPOSITE, Orientation
from textmask.text.edit import legible, mirror
from textmask.text.grammar import parse
from textmask.text.statement import Level, Statement
from textmask.text.words import MAX_LENGTH, clean, split_words
from textmask.types import Laterality

CONVENTIONS = [str(side) for side in Laterality]
# what a sentence means where nobody says: a plain picture has no patient in its file, the other formats speak of one
DEFAULTS = {"picture": Laterality.IMAGE, "nifti": Laterality.PATIENT, "dicom": Laterality.PATIENT}
OF_THE_PICTURE = ("polyp", "nuclei", "lesion")  # grammars whose places are parts of the picture, not of a lung
# names of a place in one lung, as the zone that they lie in: the other lung has no such name
_PLAIN = (
    (re.compile(r"\brml\b", re.IGNORECASE), "right middle zone"),
    (re.compile(r"\b(?:lml|lingular?)\b", re.IGNORECASE), "left middle zone"),
    (re.compile(r"\blobe(s?)\b", re.IGNORECASE), r"zone\1"),
)


@dataclass(frozen=True)
class Asked:
    """What became of a request.

    Attributes:
        said: whose left its sentence means.
        model: whose left the model has learnt.
        view: what is known of the orientation, e.g. "L\\F (PatientOrientation)"; "" where nothing is.
        sentence: as the network reads it.
        conversion: what was done, in words.
        assumed: `said` or `model` is an assumption of whoever asked.
    """

    said: Laterality
    model: Laterality
    view: str
    sentence: str
    conversion: str
    assumed: bool = False

    def as_json(self) -> dict[str, str | bool]:
        """For results and logs; the sentence is in it."""
        return {
            "said": str(self.said),
            "model": str(self.model),
            "view": self.view,
            "sentence": self.sentence,
            "conversion": self.conversion,
            "assumed": self.assumed,
        }


NOTHING_ASKED = Asked(Laterality.UNKNOWN, Laterality.UNKNOWN, "", "", "none: nothing was asked")


def convention(name: str | None, default: Laterality) -> Laterality:
    """The convention of that name; None is the default.

    Raises:
        ConfigError: another word than image, patient or unknown.
    """
    return default if name is None else Laterality(choose("laterality", name, CONVENTIONS))


def translate(
    sentence: str,
    said: Laterality,
    model: Laterality,
    orientation: Orientation | None,
    assume: str | None = None,
    grammar: str = "auto",
) -> Asked:
    """The sentence for a network that is shown the picture in its usual view, or as stored where `orientation` is None.

    Args:
        sentence: any text; what is longer than 2000 characters is cut, hidden characters are dropped.
        said: whose left the sentence means; `image` is the left of the picture as it is stored.
        model: whose left the model has learnt.
        orientation: of the picture as stored.
        assume: `image` or `patient`, in the place of an unknown `said` or `model`; it never stands in for a view.
        grammar: by which the sentence is read, see `textmask.text.grammar.parse`.

    Raises:
        LateralityError: a side is named, and which side of the picture that is cannot be known, or not be written.
        ConfigError: `assume` is another word.
    """
    if assume is not None:
        choose("assumed laterality", assume, [str(Laterality.IMAGE), str(Laterality.PATIENT)])
    text = _read(sentence)
    refuse_unread_side(text, grammar)
    view = "" if orientation is None else _in_words(orientation)
    _refuse_turned_levels(text, orientation)
    if not names_side(text):
        return Asked(said, model, view, text, "none: no side is named")
    assumed = assume is not None and Laterality.UNKNOWN in (said, model)
    if assume is not None:
        said, model = (Laterality(assume) if side is Laterality.UNKNOWN else side for side in (said, model))
    _refuse_unknown(text, said, model)
    if not _swapped(text, said, model, orientation):
        return Asked(said, model, view, text, _unchanged(said, model, orientation), assumed)
    out = mirrored(text)
    if out is None:
        raise LateralityError(
            f"{text[:80]!r} means the {said} side, and the model must be told the other one, but the sentence cannot "
            "be rewritten safely. Name the place by left or right and upper, middle or lower, in English."
        )
    return Asked(said, model, view, out, _changed(said, model, orientation), assumed)


def refuse_unread_side(text: str, grammar: str = "auto") -> None:
    """Raise if a sentence may name a side that was not understood, so that both lungs would be marked in its place.

    Raises:
        LateralityError: a lung without a side, a single letter, or a misspelled side.
    """
    statement = parse(text, grammar)
    if statement.grammar == "report" and {"missing_side", "unread_side"} & set(statement.warnings):
        raise LateralityError(
            f"{text[:80]!r} names a place in one lung, but its side could not be read. Write left, right or both lungs."
        )


def names_side(sentence: str) -> bool:
    """Whether the sentence would say something else with left and right exchanged ("both lungs" would not)."""
    plain, out = _rewritten(sentence)
    if out is None:
        return True
    before, after = parse(plain), parse(out)
    claims = (before.zones, before.negated) == (after.zones, after.negated)
    return not claims or Counter(split_words(plain)) != Counter(split_words(out))


def mirrored(sentence: str) -> str | None:
    """The sentence with left and right exchanged; None where that cannot be written.

    As `text.edit.mirror`, after misspelt places were put right and names that one lung alone has ("right middle lobe",
    "lingula") were written as the zone they lie in: here no picture is turned, so that the name need not be one.
    """
    return _rewritten(sentence)[1]


def _rewritten(sentence: str) -> tuple[str, str | None]:
    """The plainest change of wording that can be mirrored, and its mirror; the sentence itself and None without one."""
    claims = _claims(parse(sentence))
    for plain in (sentence, legible(sentence), _without_lobes(legible(sentence))):
        for text in (plain, plain.lower()):
            out = mirror(text) if _claims(parse(text)) == claims else None
            if out is not None:
                return text, out
    return sentence, None


def _claims(statement: Statement) -> tuple[object, ...]:
    return statement.zones, statement.negated, statement.absent


def _without_lobes(sentence: str) -> str:
    for pattern, plain in _PLAIN:
        sentence = pattern.sub(plain, sentence)
    return sentence


def _read(sentence: str) -> str:
    """What of a sentence is read at all: its first 2000 characters, without hidden ones."""
    text, hidden = clean(sentence)
    return text if hidden else sentence[:MAX_LENGTH]


def _refuse_unknown(text: str, said: Laterality, model: Laterality) -> None:
    """Raise where nobody knows whose left is meant or learnt."""
    unknown = [
        words
        for side, words in ((said, "whose left this sentence means"), (model, "whose left the model has learnt"))
        if side is Laterality.UNKNOWN
    ]
    if unknown:
        raise LateralityError(
            f"{text[:80]!r} names a side, and it is unknown {' and '.join(unknown)}. Say --laterality image or patient "
            "for the sentence, or take one of the two for all that is unknown with --assume image or patient; both are "
            "recorded."
        )


def _refuse_turned_levels(text: str, orientation: Orientation | None) -> None:
    """Raise where "the top of the image" would not be what it is in the picture as stored."""
    if orientation is None or orientation.rows == orientation.usual.rows:
        return
    statement = parse(text)
    if statement.grammar in OF_THE_PICTURE and statement.levels - {Level.MIDDLE}:
        raise LateralityError(
            f"{text[:80]!r} names the top or the bottom of the picture, but the picture is shown to the model turned "
            f"({_in_words(orientation)}). Name the place in the patient, or turn the picture and say its view."
        )


def _swapped(text: str, said: Laterality, model: Laterality, orientation: Orientation | None) -> bool:
    """Whether the network must be told the other side.

    In the usual view the patient's left is the right of the picture, so that the side of the patient and that of the
    picture shown are always each other's opposite.
    """
    if orientation is None:
        if said is not model:
            raise LateralityError(
                f"{text[:80]!r} means the {said} side, the model has learnt the {model} side, and nothing says where "
                "the patient's left lies in this picture. Say what it shows (--view pa, ap, mirrored or axial), or ask "
                f"in the model's own terms (--laterality {model})."
            )
        return False
    _refuse_lateral(text, said, model, orientation)
    opposite_of_shown = _turned(text, orientation) if said is Laterality.IMAGE else True
    return opposite_of_shown != (model is Laterality.PATIENT)


def _refuse_lateral(text: str, said: Laterality, model: Laterality, orientation: Orientation) -> None:
    """Raise where the patient's sides lie over each other; the left of the picture itself can still be meant."""
    of_the_picture = said is model is Laterality.IMAGE and parse(text).grammar in OF_THE_PICTURE
    if orientation.patient_left is None and not of_the_picture:
        raise LateralityError(
            f"{text[:80]!r} names a side, but a lateral (sagittal) view shows both sides over each other "
            f"({_in_words(orientation)}). Ask without a side, or take another view."
        )


def _turned(text: str, orientation: Orientation) -> bool:
    """Whether the left of the stored picture is the right of what the network is shown."""
    usual = orientation.usual.columns
    if orientation.columns not in (usual, OPPOSITE[usual]):
        raise LateralityError(
            f"{text[:80]!r} names a side of the picture, but the picture lies on its side ({_in_words(orientation)}), "
            "so that its left is neither side of the patient. Name the patient's side (--laterality patient)."
        )
    return orientation.columns != usual


def _unchanged(said: Laterality, model: Laterality, orientation: Orientation | None) -> str:
    if said is model:
        return f"none: the sentence and the model both mean the {said} side"
    view = "" if orientation is None else _in_words(orientation)
    return f"none: in this picture the {said} side is the {model} side, {view}"


def _changed(said: Laterality, model: Laterality, orientation: Orientation | None) -> str:
    if said is model:
        return "left and right exchanged: the picture is stored mirrored and shown to the model in its usual view"
    return f"left and right exchanged: from the {said} side to the {model} side"


def _in_words(orientation: Orientation) -> str:
    pair = f"{orientation.columns}\\{orientation.rows}"
    return f"{pair} ({orientation.source})" if orientation.source else pair
