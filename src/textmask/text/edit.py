"""Sentences rewritten on purpose: kept true under a flip, robbed of their place, merged, mistyped, reworded."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from textmask.errors import DataError, choose
from textmask.statement import Laterality, Side, Statement
from textmask.text.grammar import mend, parse
from textmask.text.render import places, render
from textmask.text.report_grammar import ABBREVIATIONS
from textmask.text.words import NUMBERS

MIRROR = {
    "left": "right",
    "lt": "rt",
    **{f"left{end}": f"right{end}" for end in ("sided", "side", "ward", "wards", "most")},
    **{short: f"r{short[1:]}" for short in ("lul", "lll", "luz", "lmz", "llz")},
}
INVERT = {"upper": "lower", "top": "bottom", "superior": "inferior", "above": "below"}
# places without a counterpart in the other lung, clock positions, and sides in other languages, which the grammar
# does not read: turning the picture and keeping such a sentence would make it false
NO_MIRROR = re.compile(
    r"\b(?:rml|lml|lingula\w*|middle(?:\s*[,/]\s*(?:(?:and|or)\s+)?\w+|\s+(?:and|or)\s+\w+)*\s+lobes?|"
    r"retrocardiac|(?:minor|horizontal)\s+fissure|o.?clock|gauche|droite?|links|linke[rsn]?|rechts|rechte[rsn]?|"
    r"izquierd[ao]s?|derech[ao]s?|sinistr[aoe]|destr[aoe]|esquerd[ao]s?|direit[ao]s?)\b|[左右]",
    re.IGNORECASE,
)
# the letter before a place: "L lower lobe", "R lung"
_LETTER = r"[lr](?=[ .]+(?:upper|middle|mid|lower|lungs?|lobes?|zones?|base|apex|apical|basal|basilar|perihilar)\b)"
_PLACE_WORD = (
    r"(?:(?:all|upper|middle|mid|lower|top|bottom|apical|basal|basilar|perihilar|left|right|center|centre|central|both|"
    r"bilateral(?:ly)?|base|bases|apex|apices|midlung|midzones?|hilum|hila|costophrenic|lt\.?|rt\.?|"
    r"lungs|(?:left|right)(?:side|wards?|most)|suprahilar|infrahilar|superior|inferior|inf\.?|hilar|hemithorax|"
    rf"{'|'.join(sorted(ABBREVIATIONS, key=len, reverse=True))})(?:[- ]?sided)?|{_LETTER}\.?)"
)
PLACE = re.compile(
    rf"\b(?:the\s+)?{_PLACE_WORD}(?:(?:\s+and\s+|\s*/\s*|\s+|-){_PLACE_WORD})*"
    r"(?:\s+(?:lungs?|lobes?|zones?|fields?|of\s+the\s+image))*\b",
    re.IGNORECASE,
)
LONG_WORD = re.compile(r"[A-Za-z]{4,}")
LATERAL = re.compile(
    r"\b(?:(?:bilateral|unilateral)(?:ly)?\b|(?:bilat|unilat)\b\.?)\s*", re.IGNORECASE
)
# the key beside each: to the right, at the end of a row to the left
KEYBOARD = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuioposdfghjklkxcvbnmn", strict=True))
MISSPELLINGS = ("double", "drop", "keyboard", "swap")
# about nothing that a picture of the field shows
UNRELATED = (
    "Hello World",
    "The train to the coast departs at nine.",
    "Stir the flour into two cups of milk.",
    "The committee postponed its vote until spring.",
    "She tuned the violin before the concert.",
)


@lru_cache(maxsize=65536)
def mirror(prompt: str) -> str | None:
    """The sentence that is true after a horizontal flip; None when it cannot be rewritten and the flip is refused.

    Refused are places without a counterpart (right middle lobe, lingula), sides in other languages, and sentences
    whose swapped wording would not parse to the mirrored zones, such as a misspelt side.
    """
    return None if NO_MIRROR.search(prompt) else _swapped(prompt, MIRROR, Statement.mirrored)


@lru_cache(maxsize=65536)
def invert(prompt: str) -> str | None:
    """The sentence that is true after a vertical flip, or None.

    For pictures without an up and down of their own (polyps, nuclei); a chest film upside down is no chest film.
    """
    return _swapped(prompt, INVERT, Statement.inverted)


def _swapped(
    prompt: str, pairs: dict[str, str], change: Callable[[Statement], Statement]
) -> str | None:
    out = _swap_words(prompt, pairs)
    before, after = change(parse(prompt)), parse(out)
    same = (after.zones, after.negated) == (before.zones, before.negated)
    # odd capitals ("LEft") would not come back
    return out if same and _swap_words(out, pairs) == prompt else None


def _swap_words(prompt: str, pairs: dict[str, str]) -> str:
    both = {
        **pairs,
        **{b: a for a, b in pairs.items()},
        **({"l": "r", "r": "l"} if pairs is MIRROR else {}),
    }

    def swap(match: re.Match[str]) -> str:
        word, new = match.group(), both[match.group().lower()]
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    words = "|".join(sorted((word for word in both if len(word) > 1), key=len, reverse=True))
    letter = rf"|{_LETTER}" if pairs is MIRROR else ""
    return re.sub(rf"\b(?:(?:{words})\b{letter})", swap, prompt, flags=re.IGNORECASE)


def swap_sides(prompt: str) -> str | None:
    """The sentence that names the other side; None where it names both alike or none, or cannot be rewritten."""
    return _other_place(prompt, mirror)


def swap_levels(prompt: str) -> str | None:
    """The sentence with upper and lower exchanged; None where that claims the same or cannot be written."""
    return _other_place(prompt, invert)


def _other_place(prompt: str, change: Callable[[str], str | None]) -> str | None:
    out = change(prompt) or change(legible(prompt))
    return out if out is not None and parse(out).zones != parse(prompt).zones else None


def deny(prompt: str) -> str | None:
    """A sentence that says the finding is not where `prompt` has it; None where that names no place or has no words."""
    statement = parse(prompt)
    if statement.grammar == "polyp" and statement.zones:
        return f"No polyp on {' or '.join(places(statement))}."
    if any(side is Side.CENTER for side, _ in statement.zones) or not places(statement):
        return None
    return f"No opacity in {', no opacity in '.join(places(statement))}."


def contradict(prompt: str) -> str | None:
    """The sentence, and after it that the same finding is not there; None as in `deny`."""
    denial = deny(prompt)
    return None if denial is None else f"{prompt.rstrip().rstrip('.')}. {denial}"


def absent(prompt: str) -> str | None:
    """A sentence of the same style that says there is no finding; None where it says so already or no style can."""
    statement = parse(prompt)
    if statement.absent or statement.grammar in ("", "nuclei"):
        return None
    style = statement.grammar
    if style == "qata" and prompt.lstrip()[:1].isupper():
        style = "qata_original"
    return render(Statement(absent=True), style)


@lru_cache(maxsize=65536)
def drop_position(prompt: str, replacement: str = "") -> str:
    """The sentence without its places and without uni- or bilateral; each place becomes `replacement`."""
    text = PLACE.sub(lambda _: replacement, LATERAL.sub("", legible(prompt)))
    text = re.sub(
        r"\s+(?:located\s+)?(?:on|in|at)(?:\s+the)?(?=\s*[,.;]|\s*$|\s+is\b)",
        "",
        re.sub(r"\s+", " ", text),
    )
    text = re.sub(r"\s+([,.;])", r"\1", text)
    text = re.sub(r"(?:,\s*|\s+and\s*)+(?=[,.;]|$)", "", re.sub(r"^\s*and\b", "", text)).strip()
    # a letter can become a side where the words behind it are gone: "R left lung"
    again = text != prompt and parse(text).zones and not parse(replacement).zones
    return drop_position(text, replacement) if again else text


@lru_cache(maxsize=65536)
def blur_position(prompt: str) -> str:
    """The sentence with every place replaced by "a region of the lung" (chest) or "a region of the image"."""
    chest = parse(prompt).grammar in ("qata", "mosmed", "report")
    text = LATERAL.sub("", legible(prompt))
    text = re.sub(
        rf"(?:{PLACE.pattern})(?:\s+and\s+(?:{PLACE.pattern}))*", "\0", text, flags=re.IGNORECASE
    )
    text = text.replace("\0", "a region of the lung" if chest else "a region of the image").strip()
    return blur_position(text) if text != prompt and parse(text).zones else text


def legible(prompt: str) -> str:
    """The sentence with misspelt words of place put right, so that they are found."""
    statement = parse(prompt)
    if "repaired_typo" not in statement.warnings:
        return prompt

    def put_right(match: re.Match[str]) -> str:
        word = match.group()
        mended = mend([word.lower()], chest=statement.grammar in ("qata", "mosmed"))
        return word if mended == [word.lower()] else " ".join(mended)

    return re.sub(r"[^\W\d_]+", put_right, prompt)


def merge(a: Statement, b: Statement, style: str = "qata") -> str:
    """One sentence of `style` for the union of two statements' zones.

    Raises:
        DataError: the two mean different things by "left".
    """
    if {a.laterality, b.laterality} == {Laterality.IMAGE, Laterality.PATIENT}:
        raise DataError(
            f"cannot merge sentences with laterality {a.laterality.value!r} and {b.laterality.value!r}: their "
            '"left" is not the same side. Mirror one of them first.'
        )
    zones = a.zones | b.zones
    return render(Statement(zones=zones, laterality=a.laterality, absent=not zones), style)


def typo(prompt: str, rng: np.random.Generator, n: int = 1, kind: str | None = None) -> str:
    """The sentence with n words of four letters or more misspelt: a letter doubled, dropped, swapped, or its neighbour.

    n is limited by the number of such words.

    Args:
        prompt: any text.
        rng: chooses words and letters.
        n: misspelt words.
        kind: one of `MISSPELLINGS`; None draws one for each word.

    Raises:
        ConfigError: unknown kind.
    """
    if kind is not None:
        choose("misspelling", kind, MISSPELLINGS)
    words = list(LONG_WORD.finditer(prompt))
    chosen = sorted(rng.choice(len(words), min(n, len(words)), replace=False)) if words else []
    out = prompt
    for i in reversed(chosen):
        match = words[i]
        out = out[: match.start()] + _misspell(match.group(), rng, kind) + out[match.end() :]
    return out


def _misspell(word: str, rng: np.random.Generator, kind: str | None) -> str:
    i = int(rng.integers(1, len(word) - 1))
    drawn = MISSPELLINGS[int(rng.integers(4))] if kind is None else kind
    if drawn == "swap" and word[i] == word[i + 1]:
        if kind is None:
            drawn = "double"
        else:  # two equal letters beside each other can only be swapped with a third
            i = next((j for j in range(1, len(word) - 1) if word[j] != word[j + 1]), 0)
    letter = KEYBOARD.get(word[i].lower(), "x")
    return {
        "double": word[:i] + word[i] + word[i:],
        "drop": word[:i] + word[i + 1 :],
        "keyboard": word[:i] + letter + word[i + 1 :],
        "swap": word[:i] + word[i + 1] + word[i] + word[i + 2 :],
    }[drawn]


def paraphrase(prompt: str, rng: np.random.Generator) -> str:
    """Another wording of the same claims, drawn from the styles that can say them; unchanged where none can.

    Zones, those said to be free, and the number of findings where the sentence and the style name one, stay.
    """
    statement = parse(prompt)
    if not statement.has_location or statement.negated:
        return prompt
    chest = ["qata", "qata_original", "report"]
    styles = [statement.grammar] if statement.grammar in ("polyp", "nuclei", "lesion") else chest
    if "report" in styles and any(side is Side.CENTER for side, _ in statement.zones):
        return prompt
    texts = [text for text in (render(statement, style) for style in styles) if text != prompt]
    texts = [text for text in texts if parse(text).zones == statement.zones]
    return str(rng.choice(texts)) if texts else prompt


def reorder_clauses(prompt: str, rng: np.random.Generator) -> str:
    """The comma-separated clauses in another order; unchanged where the claims would not survive."""
    end = "." if prompt.rstrip().endswith(".") else ""
    clauses = [c.strip() for c in prompt.rstrip().rstrip(".").split(",")]
    out = ", ".join(clauses[i] for i in rng.permutation(len(clauses))) + end
    return out if parse(out) == parse(prompt) else prompt


def drop_count(prompt: str) -> str:
    """The sentence without "two infected areas" and the like; unchanged where the place would not survive."""
    numbers = "|".join(sorted(NUMBERS, key=len, reverse=True))
    out = re.sub(rf"\b(?:{numbers}|\d+)\s*infected areas?\s*,?\s*", "", prompt, flags=re.IGNORECASE)
    return out if parse(out).zones == parse(prompt).zones else prompt


def meaning_kept(prompt: str, rng: np.random.Generator) -> str:
    """A second view of a sentence: clauses reordered, other words, or no number; sides and levels always stay."""
    return (reorder_clauses, paraphrase, lambda text, _: drop_count(text))[int(rng.integers(3))](
        prompt, rng
    )
