"""Sentences rewritten on purpose: kept true under a flip, with the location removed, merged, mistyped, reworded."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from textmask.errors import DataError, choose
from textmask.statement import Finding, Laterality, Side, Statement
from textmask.text.captions import mend
from textmask.text.grammar import parse
from textmask.text.lexicon import lexicon
from textmask.text.mirroring import in_case_of, mirrored_words
from textmask.text.render import places, render
from textmask.text.tokens import LETTERS, nearest_place, tokenize
from textmask.text.words import NUMBERS

INVERT = {"upper": "lower", "top": "bottom", "superior": "inferior", "above": "below"}
# names of places that need no side, such as RLL
_ABBREVIATIONS = [
    phrase for phrase, term in lexicon().items() if term.role == "place" and " " not in phrase
]
# the letter before a place: "L lower lobe", "R lung"
_LETTER = r"[lr](?=[ .]+(?:upper|middle|mid|lower|lungs?|lobes?|zones?|base|apex|apical|basal|basilar|perihilar)\b)"
_PLACE_WORD = (
    r"(?:(?:all|upper|middle|mid|lower|top|bottom|apical|basal|basilar|perihilar|left|right|center|centre|central|both|"
    r"bilateral(?:ly)?|base|bases|apex|apices|midlung|midzones?|hilum|hila|costophrenic|lt\.?|rt\.?|"
    r"lungs|(?:left|right)(?:side|wards?|most)|suprahilar|infrahilar|superior|inferior|inf\.?|hilar|hemithorax|"
    rf"{'|'.join(sorted(_ABBREVIATIONS, key=len, reverse=True))})(?:[- ]?sided)?|{_LETTER}\.?)"
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
# the key next to each: to the right, at the end of a row to the left
KEYBOARD = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuioposdfghjklkxcvbnmn", strict=True))
MISSPELLINGS = ("double", "drop", "keyboard", "swap")
# about nothing that an image of the field shows
UNRELATED = (
    "Hello World",
    "The train to the coast departs at nine.",
    "Stir the flour into two cups of milk.",
    "The committee postponed its vote until spring.",
    "She tuned the violin before the concert.",
)


@lru_cache(maxsize=65536)
def mirror(prompt: str) -> str | None:
    """The sentence that is true of the mirrored image; None when it cannot be written, so that the flip is refused.

    Organs keep the side in their name ("left ventricle"), and "left" that names no side stays ("the patient left").
    Refused are places without a counterpart (right middle lobe, lingula), organs that lie on one side and are named
    with it (aortic arch, liver), dextrocardia and situs inversus, sides that are misspelled or in another language, and
    sentences whose swapped wording would not parse to the mirrored zones.
    """
    out = mirrored_words(prompt)
    if out is None:
        return None
    return (
        out
        if _same_claims(prompt, out, Statement.mirrored) and mirrored_words(out) == prompt
        else None
    )


@lru_cache(maxsize=65536)
def invert(prompt: str) -> str | None:
    """The sentence that is true after a vertical flip, or None.

    For images without an up and down of their own (polyps, nuclei); an upside-down radiograph is not a radiograph.
    """
    out = _swap_levels(prompt)
    return (
        out
        if _same_claims(prompt, out, Statement.inverted) and _swap_levels(out) == prompt
        else None
    )


def _same_claims(prompt: str, out: str, change: Callable[[Statement], Statement]) -> bool:
    before, after = change(parse(prompt)), parse(out)
    return (after.zones, after.negated) == (before.zones, before.negated)


def _swap_levels(prompt: str) -> str:
    both = {**INVERT, **{b: a for a, b in INVERT.items()}}
    words = "|".join(sorted(both, key=len, reverse=True))
    return re.sub(
        rf"\b(?:{words})\b",
        lambda found: in_case_of(found.group(), both),
        prompt,
        flags=re.IGNORECASE,
    )


def swap_sides(prompt: str) -> str | None:
    """The sentence that names the other side; None if it names both alike or none, or cannot be rewritten."""
    return _other_place(prompt, mirror)


def swap_levels(prompt: str) -> str | None:
    """The sentence with upper and lower exchanged; None where that claims the same or cannot be written."""
    return _other_place(prompt, invert)


def _other_place(prompt: str, change: Callable[[str], str | None]) -> str | None:
    out = change(prompt) or change(legible(prompt))
    return out if out is not None and parse(out).zones != parse(prompt).zones else None


def deny(prompt: str) -> str | None:
    """A sentence that says the finding is not where `prompt` has it; None if that names no place or has no words."""
    statement = parse(prompt)
    if statement.grammar == "polyp" and statement.zones:
        return f"No polyp on {' or '.join(places(statement))}."
    if any(side is Side.CENTER for side, _ in statement.zones) or not places(statement):
        return None
    kind = spoken_kind(statement)
    return f"No {kind} in {f', no {kind} in '.join(places(statement))}."


def spoken_kind(statement: Statement) -> str:
    """The finding of a statement in the words of a report; "opacity" for those that are its near synonyms."""
    present = [finding for finding in statement.findings if finding.present and finding.zones]
    return next((finding.kind for finding in present if not _is_opacity(finding)), "opacity")


def _is_opacity(finding: Finding) -> bool:
    return finding.group == "airspace"


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
    if not parse(text).zones or parse(replacement).zones:
        return text
    # a letter can become a side once the words behind it are gone: "R left lung"
    return drop_position(text, replacement) if text != prompt else _without_place_words(text)


@lru_cache(maxsize=65536)
def blur_position(prompt: str) -> str:
    """The sentence with every place replaced by "a region of the lung" (chest) or "a region of the image"."""
    chest = parse(prompt).grammar in ("qata", "mosmed", "report")
    text = LATERAL.sub("", legible(prompt))
    text = re.sub(
        rf"(?:{PLACE.pattern})(?:\s+and\s+(?:{PLACE.pattern}))*", "\0", text, flags=re.IGNORECASE
    )
    text = text.replace("\0", "a region of the lung" if chest else "a region of the image").strip()
    if not parse(text).zones:
        return text
    return blur_position(text) if text != prompt else _without_place_words(text)


def _without_place_words(prompt: str) -> str:
    """The sentence without any word of a place, whatever is left of it."""
    end, kept = 0, []
    for token in tokenize(prompt):
        if token.role in ("side", "level", "place", "segment", "lung") or token.word in LETTERS:
            kept.append(prompt[end : token.start])
            end = token.end
    out = " ".join("".join([*kept, prompt[end:]]).split())
    return _without_place_words(out) if out != prompt and parse(out).zones else out


def legible(prompt: str) -> str:
    """The sentence with misspelled words of place put right, so that they are found."""
    statement = parse(prompt)
    if "repaired_typo" not in statement.warnings:
        return prompt
    chest = statement.grammar in ("qata", "mosmed")

    def put_right(match: re.Match[str]) -> str:
        word = match.group()
        mended = " ".join(mend([word.lower()], chest))
        if not chest and mended == word.lower():
            mended = nearest_place(mended) or mended
        return word if mended == word.lower() else mended

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
        else:  # of two equal letters, one is swapped with a third
            i = next((j for j in range(1, len(word) - 1) if word[j] != word[j + 1]), 0)
    letter = KEYBOARD.get(word[i].lower(), "x")
    return {
        "double": word[:i] + word[i] + word[i:],
        "drop": word[:i] + word[i + 1 :],
        "keyboard": word[:i] + letter + word[i + 1 :],
        "swap": word[:i] + word[i + 1] + word[i] + word[i + 2 :],
    }[drawn]


def paraphrase(prompt: str, rng: np.random.Generator) -> str:
    """Another wording of the same claims, drawn from the styles that can say them; unchanged if none can.

    Zones, those said to be free, the kind of the finding, and the number of findings where the sentence and the style
    name one, stay.
    """
    statement = parse(prompt)
    if not statement.has_location or statement.negated:
        return prompt
    chest = ["qata", "qata_original", "report"]
    styles = [statement.grammar] if statement.grammar in ("polyp", "nuclei", "lesion") else chest
    if "report" in styles and any(side is Side.CENTER for side, _ in statement.zones):
        return prompt
    texts = [text for text in (render(statement, style) for style in styles) if text != prompt]
    texts = [text for text in texts if same_meaning(prompt, text)]
    return str(rng.choice(texts)) if texts else prompt


def same_meaning(prompt: str, other: str) -> bool:
    """Whether two sentences claim the same zones of the same kinds of findings."""
    a, b = parse(prompt), parse(other)
    return (a.zones, a.negated, a.absent) == (b.zones, b.negated, b.absent) and _kinds(a) == _kinds(
        b
    )


def _kinds(statement: Statement) -> frozenset[tuple[str, bool]]:
    """Groups of the findings and whether they are there; a bare place is taken for an opacity."""
    kinds = {(finding.group, finding.present) for finding in statement.findings}
    return frozenset(kinds or ({("airspace", True)} if statement.zones else ()))


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
