"""Cells of a manifest that have a form of their own: laterality, grammar, labelled and label.

A label says which values of a label map are the foreground of a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textmask.statement import Laterality
from textmask.text.grammar import GRAMMARS

if TYPE_CHECKING:
    from textmask.data.manifest_checks import Problems

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

CONVENTIONS = {member.value: member for member in Laterality}

LABEL = re.compile(r"\d{1,9}(\s*\+\s*\d{1,9})*")


def label_text(label: Sequence[int]) -> str:
    """A label as the table has it: its values, joined with `+`."""
    return "+".join(map(str, label))


def label_problem(text: str, mask: str | None) -> str | None:
    """Why a cell cannot be a label; None if it can."""
    if not text.strip():
        return None
    if not LABEL.fullmatch(text.strip()):
        return f"{text!r}; expected values of the mask joined with +, e.g. 2 or 1+3"
    if 0 in parse_label(text):
        return f"{text!r}; 0 is the background of a mask, expected values above 0"
    return None if mask else f"is {text!r} but there is no mask; name the mask or leave it empty"


def parse_label(text: str) -> tuple[int, ...]:
    """The values in a label that has no problem."""
    return tuple(sorted({int(value) for value in text.split("+")})) if text.strip() else ()


def laterality_cell(number: int, text: str, problems: Problems) -> Laterality:
    """The convention in a cell; unknown if it is empty or wrong, which is noted."""
    name = text.strip().lower() or "unknown"
    if name not in CONVENTIONS:
        problems.add(number, "laterality", f"{text!r}; expected image, patient or unknown")
        return Laterality.UNKNOWN
    return CONVENTIONS[name]


def grammar_cell(number: int, text: str, problems: Problems) -> str:
    """The grammar in a cell; auto if it is empty or wrong, which is noted."""
    name = text.strip().lower() or "auto"
    if name != "auto" and name not in GRAMMARS:
        problems.add(number, "grammar", f"{text!r}; expected auto, {', '.join(GRAMMARS)}")
        return "auto"
    return name


def labelled_cell(number: int, text: str, mask: str | None, problems: Problems) -> bool:
    """Whether a row is labelled: as its cell says, or if it has a mask."""
    name = text.strip().lower()
    if name and name not in TRUTH:
        problems.add(number, "labelled", f"{text!r}; expected true or false")
        return False
    if name and TRUTH[name] and mask is None:
        problems.add(
            number, "labelled", "is true but there is no mask; name the mask or write false"
        )
    return TRUTH[name] if name else mask is not None


def label_cell(number: int, text: str, mask: str | None, problems: Problems) -> tuple[int, ...]:
    """The values in a label cell; () if it is empty or wrong, which is noted."""
    if problem := label_problem(text, mask):
        problems.add(number, "label", problem)
        return ()
    return parse_label(text)


def own_mask_problem(image: str, mask: str) -> str:
    """What to say of a row whose mask is an image of the data set."""
    whose = "its own image" if mask == image else "an image of the data set"
    return f"the mask of {image!r} is {mask!r}, {whose}; name the file of the mask, or leave the cell empty"
