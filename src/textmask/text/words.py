"""The words of the field's sentences: cleaning, splitting, and repairing the typing errors of the released files."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from textmask.statement import Level, Side

MAX_LENGTH = 2000
NUMBERS = {
    word: i
    for i, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
    )
}
SIDES = {
    "left": Side.LEFT,
    "right": Side.RIGHT,
    "center": Side.CENTER,
    "centre": Side.CENTER,
    "central": Side.CENTER,
}
LEVELS = {
    **dict.fromkeys(("upper", "top", "apex", "apical", "apices", "superior"), Level.UPPER),
    **dict.fromkeys(("middle", "mid", "perihilar", "hilar"), Level.MIDDLE),
    **dict.fromkeys(
        ("lower", "bottom", "base", "bases", "basal", "basilar", "inferior"), Level.LOWER
    ),
}
# misspellings seen in the released QaTa table
TYPOS = {
    "midlle": "middle",
    "mmiddle": "middle",
    "mddle": "middle",
    "midddle": "middle",
    "lowerl": "lower",
    "lowr": "lower",
    "uper": "upper",
    "leff": "left",
    "rigth": "right",
    "oneinfected": "one infected",
    "twoinfected": "two infected",
    "inf": "infection",
    "bilat": "bilateral",
    "unilat": "unilateral",
}
# the other way round: how the table misspells a word; the short forms, which begin it, are no misspellings
MISSPELT = {
    right: tuple(wrong for wrong, meant in TYPOS.items() if meant == right)
    for right, wrong in ((right, wrong) for wrong, right in TYPOS.items())
    if not right.startswith(wrong)
}
CHEST = frozenset(
    "left right upper middle lower lung lungs bilateral unilateral pulmonary infection infected areas area all and "
    "no".split()
) | frozenset(NUMBERS)
# real words that are one letter away from a word above
NOT_TYPOS = frozenset(
    "light night might tight sight fight bright eight slight lift loft felt leaf flower slower power tower lover super "
    "paper supper fiddle riddle long lunge lunges area arena tone done bone none gone zone ill tall wall call ball "
    "fall well also ally land hand sand band end any not now nor on ones".split()
)


def clean(sentence: str) -> tuple[str, bool]:
    """The sentence on one line without control, zero-width and direction characters; and whether it had any.

    Only the first 2000 characters are read.
    """
    if sentence.isascii() and sentence[:MAX_LENGTH].isprintable():
        return " ".join(sentence[:MAX_LENGTH].split()), False
    text = unicodedata.normalize("NFKC", sentence[:MAX_LENGTH])
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    hidden = any(not c.isspace() and unicodedata.category(c)[0] == "C" for c in text)
    return " ".join(kept.split()), hidden


@lru_cache(maxsize=4096)
def repair(word: str) -> str:
    """A misspelt word of the chest captions as it was meant; other words unchanged.

    Known misspellings first; then a word one letter away (added, dropped, changed, or two swapped) from exactly one
    word of the captions, unless it is a word of its own.
    """
    if word in TYPOS:
        return TYPOS[word]
    if len(word) < 4 or word in CHEST or word in NOT_TYPOS or word in LEVELS or word in SIDES:
        return word
    near = {known for known in CHEST if len(known) >= 4 and one_edit_apart(word, known)}
    return near.pop() if len(near) == 1 else word


def one_edit_apart(a: str, b: str) -> bool:
    """Whether b is a with one letter added, dropped, changed, or two neighbours swapped."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    rest_a, rest_b = a[start:], b[start:]
    if len(a) != len(b):
        return rest_a[1:] == rest_b if len(a) > len(b) else rest_a == rest_b[1:]
    return rest_a[1:] == rest_b[1:] or (rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:])


def split_words(text: str) -> list[str]:
    """Lower-case words, numbers and the marks , ; . as a list."""
    return re.findall(r"[^\W\d_]+|\d+|[,;.]", text.lower())
