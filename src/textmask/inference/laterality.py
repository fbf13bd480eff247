"""The laterality contract: which side a prompt means, which side the model has learned, and how one becomes the other.

A model, an image and a request each have a convention: `image`, `patient` or `unknown`. The network sees an image in
its usual view if its orientation is known (the patient's left on the right of the image), otherwise as it is stored.
The prompt is rewritten so that it is true of what the network sees, in the convention of the model. What cannot be
determined is refused, never guessed. docs/laterality.md has the table of cases.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from textmask.errors import LateralityError, choose
from textmask.io.orientation import OPPOSITE, Orientation
from textmask.statement import Laterality, Level, Statement
from textmask.text.edit import legible, mirror
from textmask.text.grammar import parse
from textmask.text.words import MAX_LENGTH, clean, split_words

CONVENTIONS = [str(side) for side in Laterality]
# the convention of a prompt if the user names none: a plain image has no patient in its file, the other formats do
DEFAULTS = {"picture": Laterality.IMAGE, "nifti": Laterality.PATIENT, "dicom": Laterality.PATIENT}
# grammars whose places are parts of the image, not of a lung
OF_THE_IMAGE = ("polyp", "nuclei", "lesion")
# names of a place in one lung, and the zone they are in: the other lung has no such name
_PLAIN = (
    (re.compile(r"\brml\b", re.IGNORECASE), "right middle zone"),
    (re.compile(r"(?<!right )(?<!left )\bmiddle lobe\b", re.IGNORECASE), "right middle zone"),
    (re.compile(r"\b(?:lml|lingular?)\b", re.IGNORECASE), "left middle zone"),
    (re.compile(r"\blobe(s?)\b", re.IGNORECASE), r"zone\1"),
)
# names that imply the side of the patient, in the languages that have a word for it
_IMPLIES_SIDE = re.compile(r"\b(?:middle[\s-]+lobes?|mittellappens?|lingul\w*)\b", re.IGNORECASE)


@dataclass(frozen=True)
class SideConversion:
    """What was done with the sides in a prompt.

    Attributes:
        said: the convention of the prompt.
        model: the convention of the model.
        view: the orientation of the image, e.g. "L\\F (PatientOrientation)"; "" if it is unknown.
        sentence: the prompt as the network reads it.
        conversion: what was done, in words.
        assumed: `said` or `model` is an assumption of the user.
    """

    said: Laterality
    model: Laterality
    view: str
    sentence: str
    conversion: str
    assumed: bool = False

    def as_json(self) -> dict[str, str | bool]:
        """For results and logs; contains the prompt."""
        return {
            "said": str(self.said),
            "model": str(self.model),
            "view": self.view,
            "sentence": self.sentence,
            "conversion": self.conversion,
            "assumed": self.assumed,
        }


NOTHING_ASKED = SideConversion(
    Laterality.UNKNOWN, Laterality.UNKNOWN, "", "", "none: nothing was asked"
)


def convention(name: str | None, default: Laterality) -> Laterality:
    """The convention of that name; None means the default.

    Raises:
        ConfigError: the name is not image, patient or unknown.
    """
    return default if name is None else Laterality(choose("laterality", name, CONVENTIONS))


def translate(
    sentence: str,
    said: Laterality,
    model: Laterality,
    orientation: Orientation | None,
    assume: str | None = None,
    grammar: str = "auto",
) -> SideConversion:
    """The prompt for a network that sees the image in its usual view, or as stored if `orientation` is None.

    Args:
        sentence: any text; it is cut after 2000 characters, hidden characters are dropped.
        said: convention of the prompt; `image` is the left side of the stored image.
        model: convention of the model.
        orientation: of the stored image.
        assume: `image` or `patient`, used if `said` or `model` is unknown; it never replaces a view.
        grammar: grammar of the prompt, see `textmask.text.grammar.parse`.

    Raises:
        LateralityError: the prompt names a side, and which side of the image that is cannot be determined, or the
            prompt for the other side cannot be written.
        ConfigError: `assume` is another word.
    """
    # a prompt without a side needs no convention at all
    if assume is not None:
        choose("assumed laterality", assume, [str(Laterality.IMAGE), str(Laterality.PATIENT)])
    text = _readable_part(sentence)
    refuse_unread_side(text, grammar)
    view = "" if orientation is None else _view_text(orientation)
    _refuse_turned_levels(text, orientation)
    if not names_side(text):
        return SideConversion(said, model, view, text, "none: no side is named")

    # unknown conventions: what the user assumes, or an error
    assumed = assume is not None and Laterality.UNKNOWN in (said, model)
    if assume is not None:
        said = Laterality(assume) if said is Laterality.UNKNOWN else said
        model = Laterality(assume) if model is Laterality.UNKNOWN else model
    _refuse_unknown(text, said, model)
    _refuse_implied_side(text, said)

    # the sides agree in what the network sees
    if not _must_swap(text, said, model, orientation):
        if said is model:
            done = f"none: the prompt and the model both mean the {said} side"
        else:
            done = f"none: in this image the {said} side is the {model} side, {view}"
        return SideConversion(said, model, view, text, done, assumed)

    # the sides are opposite: only a prompt that can be rewritten exactly is accepted
    swapped = mirrored(text)
    if swapped is None:
        raise LateralityError(
            f"{text[:80]!r} means the {said} side, and the model expects the opposite side, but the prompt cannot be "
            "rewritten safely. Name the place by left or right and upper, middle or lower, in English."
        )
    done = f"left and right exchanged: from the {said} side to the {model} side"
    if said is model:
        done = "left and right exchanged: the image is stored mirrored and the model sees it in its usual view"
    return SideConversion(said, model, view, swapped, done, assumed)


def refuse_unread_side(text: str, grammar: str = "auto") -> None:
    """Raise if a prompt may name a side that was not understood: both lungs would be marked in its place.

    Raises:
        LateralityError: a lung without a side, a single letter, or a misspelled side.
    """
    statement = parse(text, grammar)
    unread = {"missing_side", "unread_side"} & set(statement.warnings)
    if statement.grammar == "report" and unread:
        raise LateralityError(
            f"{text[:80]!r} names a place in one lung, but its side could not be read. Write left, right or both lungs."
        )


def names_side(sentence: str) -> bool:
    """Whether the prompt would mean something else with left and right exchanged ("both lungs" would not)."""
    plain, swapped = _rewritten(sentence)
    if swapped is None:
        return True
    # other zones, or other words that the grammar does not know
    before, after = parse(plain), parse(swapped)
    if (before.zones, before.negated) != (after.zones, after.negated):
        return True
    return Counter(split_words(plain)) != Counter(split_words(swapped))


def mirrored(sentence: str) -> str | None:
    """The prompt with left and right exchanged; None if that cannot be written.

    Like `text.edit.mirror`, after misspelled places were corrected and names that only one lung has ("right middle
    lobe", "lingula") were replaced by the zone they are in: the image is not mirrored here, so the name may change.
    """
    return _rewritten(sentence)[1]


def _rewritten(sentence: str) -> tuple[str, str | None]:
    """The smallest change of wording that can be mirrored, and its mirror; the prompt itself and None without one."""
    claims = _comparable_claims(parse(sentence))
    for plain in (sentence, legible(sentence), _without_lobes(legible(sentence))):
        for text in (plain, plain.lower()):
            # a wording that claims something else is not the same prompt
            swapped = mirror(text) if _comparable_claims(parse(text)) == claims else None
            if swapped is not None:
                return text, swapped
    return sentence, None


def _comparable_claims(statement: Statement) -> tuple[object, ...]:
    return statement.zones, statement.negated, statement.absent


def _without_lobes(sentence: str) -> str:
    for pattern, plain in _PLAIN:
        sentence = pattern.sub(plain, sentence)
    return sentence


def _readable_part(sentence: str) -> str:
    """The part of a prompt that is read: its first 2000 characters, without hidden ones."""
    text, hidden = clean(sentence)
    return text if hidden else sentence[:MAX_LENGTH]


def _refuse_unknown(text: str, said: Laterality, model: Laterality) -> None:
    """Raise if the convention of the prompt or of the model is unknown."""
    unknown = []
    if said is Laterality.UNKNOWN:
        unknown.append("the prompt's laterality convention")
    if model is Laterality.UNKNOWN:
        unknown.append("the model's laterality convention")
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        raise LateralityError(
            f"{text[:80]!r} names a side, but {' and '.join(unknown)} {verb} unknown. Set the convention of the prompt "
            "with --laterality image or patient, or assume one for all that is unknown with --assume image or patient; "
            "both are recorded."
        )


def _refuse_implied_side(text: str, said: Laterality) -> None:
    """Raise if "middle lobe" or "lingula" alone tells the side, which is the patient's, in a prompt on the image."""
    if said is not Laterality.IMAGE or not _IMPLIES_SIDE.search(legible(text)):
        return
    named = {side for side, _ in parse(_IMPLIES_SIDE.sub("", legible(text))).zones}
    if {side for side, _ in parse(text).zones} <= named:
        return
    raise LateralityError(
        f"{text[:80]!r} names a place that only one lung of the patient has, and no side of the image. Write the side "
        "of the image (right middle zone), or mean the patient with --laterality patient and the view with --view pa."
    )


def _refuse_turned_levels(text: str, orientation: Orientation | None) -> None:
    """Raise if "the top of the image" is another place in the usual view than in the stored image."""
    if orientation is None or orientation.rows == orientation.usual.rows:
        return
    statement = parse(text)
    if statement.grammar in OF_THE_IMAGE and statement.levels - {Level.MIDDLE}:
        raise LateralityError(
            f"{text[:80]!r} names the top or the bottom of the image, but the model sees the image turned "
            f"({_view_text(orientation)}). Name the place in the patient, or turn the image and name its view."
        )


def _must_swap(
    text: str, said: Laterality, model: Laterality, orientation: Orientation | None
) -> bool:
    """Whether the model expects the opposite side.

    In the usual view the patient's left is on the right of the image, so the side of the patient and the side of the
    image are always opposite.
    """
    # as stored: which side is which is unknown, but the same convention needs no answer
    if orientation is None:
        if said is model:
            return False
        raise LateralityError(
            f"{text[:80]!r} means the {said} side, the model has learned the {model} side, and it is unknown where "
            "the patient's left is in this image. Specify the view with --view pa, ap, mirrored or axial, or use the "
            f"convention of the model (--laterality {model})."
        )

    # in a lateral view only the left of the image itself can be meant
    within_image = said is model is Laterality.IMAGE and parse(text).grammar in OF_THE_IMAGE
    if orientation.patient_left is None and not within_image:
        raise LateralityError(
            f"{text[:80]!r} names a side, but a lateral (sagittal) view shows both sides over each other "
            f"({_view_text(orientation)}). Use a prompt without a side, or another view."
        )
    opposite_of_shown = said is not Laterality.IMAGE or _is_turned(text, orientation)
    return opposite_of_shown != (model is Laterality.PATIENT)


def _is_turned(text: str, orientation: Orientation) -> bool:
    """Whether the left of the stored image is the right of what the network sees."""
    # the columns must run along the left-right axis
    usual = orientation.usual.columns
    if orientation.columns not in (usual, OPPOSITE[usual]):
        raise LateralityError(
            f"{text[:80]!r} names a side of the image, but the image is rotated by 90 degrees "
            f"({_view_text(orientation)}), so its left is neither side of the patient. Name the patient's side "
            "(--laterality patient)."
        )
    return orientation.columns != usual


def _view_text(orientation: Orientation) -> str:
    pair = f"{orientation.columns}\\{orientation.rows}"
    return f"{pair} ({orientation.source})" if orientation.source else pair
