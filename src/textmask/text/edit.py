"""Sentences rewritten on purpose: kept true under a flip, robbed of their place, merged, mistyped, reworded."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from textmask.text.grammar import GRAMMARS, parse
from textmask.text.render import render
from textmask.text.statement import Side, Statement

MIRROR = {"left": "right", "rul": "lul", "rll": "lll", "leftward": "rightward", "leftwards": "rightwards"}
INVERT = {"upper": "lower", "top": "bottom", "superior": "inferior", "above": "below"}
# the right middle lobe and the lingula have no counterpart in the other lung
NO_MIRROR = re.compile(r"\b(rml|lingula\w*|middle\s+lobe)\b", re.IGNORECASE)
_PLACE_WORD = (
    r"(?:all|upper|middle|mid|lower|top|bottom|apical|basal|basilar|perihilar|left|right|center|centre|central|both|"
    r"bilateral)(?:-sided)?"
)
PLACE = re.compile(
    rf"\b(?:the\s+)?{_PLACE_WORD}(?:(?:\s+and\s+|\s+){_PLACE_WORD})*(?:\s+(?:lungs?|lobes?|zones?|fields?|base|apex|"
    r"of\s+the\s+image))*\b",
    re.IGNORECASE,
)
LATERAL = re.compile(r"\b(?:bilateral|unilateral)\b\s*", re.IGNORECASE)
KEYBOARD = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopqsdfghjklaxcvbnmz", strict=True))


@lru_cache(maxsize=65536)
def mirror(prompt: str) -> str | None:
    """The sentence that is true after a horizontal flip; None when it cannot be rewritten and the flip is refused.

    Refused are places without a counterpart (right middle lobe, lingula) and sentences whose swapped wording would
    not parse to the mirrored zones, such as a misspelt side.
    """
    if NO_MIRROR.search(prompt):
        return None
    return _swapped(prompt, MIRROR, Statement.mirrored)


@lru_cache(maxsize=65536)
def invert(prompt: str) -> str | None:
    """The sentence that is true after a vertical flip, or None.

    For pictures without an up and down of their own (polyps, nuclei); a chest film upside down is no chest film.
    """
    return _swapped(prompt, INVERT, Statement.inverted)


def _swapped(prompt: str, pairs: dict[str, str], change: Callable[[Statement], Statement]) -> str | None:
    both = {**pairs, **{b: a for a, b in pairs.items()}}

    def swap(match: re.Match[str]) -> str:
        word, new = match.group(), both[match.group().lower()]
        return new.upper() if word.isupper() and len(word) > 1 else new.capitalize() if word[0].isupper() else new

    pattern = r"\b(" + "|".join(sorted(both, key=len, reverse=True)) + r")\b"
    out = re.sub(pattern, swap, prompt, flags=re.IGNORECASE)
    before, after = change(parse(prompt)), parse(out)
    return out if (after.zones, after.negated) == (before.zones, before.negated) else None


def drop_position(prompt: str, replacement: str = "") -> str:
    """The sentence without its places and without uni- or bilateral; each place becomes `replacement`."""
    text = LATERAL.sub("", PLACE.sub(replacement, LATERAL.sub("", prompt)))
    text = re.sub(r"\s+([,.;])", r"\1", re.sub(r"\s+", " ", text))
    return re.sub(r"(?:,\s*|\s+and\s*|\s+(?:on|in)(?:\s+the)?\s*)+([.;]|$)", r"\1", text).strip()


def blur_position(prompt: str) -> str:
    """The sentence with every place replaced by "a region of the lung" (chest) or "a region of the image"."""
    chest = parse(prompt).grammar in ("qata", "mosmed", "report")
    text = LATERAL.sub("", prompt)
    text = re.sub(rf"(?:{PLACE.pattern})(?:\s+and\s+(?:{PLACE.pattern}))*", "\0", text, flags=re.IGNORECASE)
    return text.replace("\0", "a region of the lung" if chest else "a region of the image").strip()


def merge(a: Statement, b: Statement, style: str = "qata") -> str:
    """One sentence of `style` for the union of two statements' zones."""
    zones = a.zones | b.zones
    return render(Statement(zones=zones, laterality=a.laterality, absent=not zones), style)


def typo(prompt: str, rng: np.random.Generator, n: int = 1) -> str:
    """The sentence with n words of four letters or more misspelt: a letter doubled, dropped, swapped, or its neighbour.

    n is limited by the number of such words.
    """
    words = list(re.finditer(r"[A-Za-z]{4,}", prompt))
    chosen = sorted(rng.choice(len(words), min(n, len(words)), replace=False)) if words else []
    out = prompt
    for i in reversed(chosen):
        match = words[i]
        out = out[: match.start()] + _misspell(match.group(), rng) + out[match.end() :]
    return out


def _misspell(word: str, rng: np.random.Generator) -> str:
    i = int(rng.integers(1, len(word) - 1))
    kind = int(rng.integers(4))
    if kind == 3 and word[i] == word[i + 1]:
        kind = 0
    letter = KEYBOARD.get(word[i].lower(), "x")
    return (
        word[:i] + word[i] + word[i:],
        word[:i] + word[i + 1 :],
        word[:i] + letter + word[i + 1 :],
        word[:i] + word[i + 1] + word[i] + word[i + 2 :],
    )[kind]


def paraphrase(prompt: str, rng: np.random.Generator) -> str:
    """Another wording of the same zones, drawn from the styles that can say them; unchanged where none can."""
    statement = parse(prompt)
    if not statement.has_location:
        return prompt
    chest = not any(side is Side.CENTER for side, _ in statement.zones) and statement.grammar not in GRAMMARS[2:4]
    options = []
    for style in ("qata", "qata_original", "report") if chest else ("polyp",):
        text = render(statement, style)
        if parse(text).zones == statement.zones and text != prompt:
            options.append(text)
    return str(rng.choice(options)) if options else prompt


def reorder_clauses(prompt: str, rng: np.random.Generator) -> str:
    """The comma-separated clauses in another order; unchanged where the zones would not survive."""
    end = "." if prompt.rstrip().endswith(".") else ""
    clauses = [c.strip() for c in prompt.rstrip().rstrip(".").split(",")]
    out = ", ".join(clauses[i] for i in rng.permutation(len(clauses))) + end
    return out if parse(out).zones == parse(prompt).zones else prompt
