"""The column label of a manifest: which values of a label map are the foreground of a row."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
