"""The words of programs: sides, levels, ordinals, relations, selectors and negations, and prompts as their tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from textmask.statement import Laterality, Level, Side
from textmask.text.lexicon import phrases_of, plain_words
from textmask.text.program import (
    ORDINALS,
    Above,
    Below,
    Inside,
    LeftOf,
    Nearest,
    Opposite,
    Relation,
    RightOf,
)
from textmask.text.structures import Start, StructureList
from textmask.text.tokens import plain_text
from textmask.text.words import one_edit_apart

RELATIONS: dict[str, type[Relation]] = {
    "above": Above,
    "below": Below,
    "left_of": LeftOf,
    "right_of": RightOf,
    "inside": Inside,
    "opposite": Opposite,
    "nearest": Nearest,
}
# kind of token -> its words and phrases
_WORDS = {
    "and": "and, plus, as well as, together with, along with, with, including, or",
    "except": """except, except for, excluding, apart from, other than, without, minus, but not, rather than, \
instead of, leaving out, with the exception of, not including, save for""",
    "but": "but",
    "not": "not, no, do not, don't, never, none of, neither, nor",
    "only": "only, solely, exclusively",
    "nothing": "nothing",
    "normal": "unremarkable, normal, intact, healthy, not affected, inconspicuous, regular",
    "all": "all, every, each, both, any, whole, entire",
    "thing": "everything, structure, structures, what, whatever, organ, organs, thing, things, labeled structures",
    "to": "to, through, thru, until, down to, up to",
    "image": """image, of the image, on the image, in the image, picture, of the picture, in the picture, \
on the screen, displayed""",
    "patient": "patient, patient's, of the patient, on the patient's, anatomical, anatomically",
    "above": "above, over, superior to, cranial to, on top of, higher than, just above, directly above",
    "below": "below, under, beneath, underneath, inferior to, caudal to, lower than, just below, directly below",
    "inside": "inside, inside of, within, enclosed by, surrounded by, encircled by",
    "opposite": """opposite, opposite to, opposite of, across from, contralateral to, on the other side from, \
on the opposite side from""",
    "nearest": "nearest to, closest to, next to, nearest, closest, adjacent to",
}  # fmt: skip
_LEVELS = {
    Level.UPPER: "upper, top, superior",
    Level.MIDDLE: "middle, mid",
    Level.LOWER: "lower, bottom, inferior",
}
_FIRST: dict[Start, str] = {
    "top": "topmost, uppermost, highest",
    "bottom": "bottommost, lowermost, lowest",
    "left": "leftmost",
    "right": "rightmost",
}
_FROM: dict[Start, str] = {
    "top": "from the top, from top, from above, counted from the top",
    "bottom": "from the bottom, from bottom, from below, counted from the bottom",
    "left": "from the left, from left, counted from the left",
    "right": "from the right, from right, counted from the right",
}
_LARGE, _SMALL = "largest, larger, biggest, bigger", "smallest, smaller, tiniest"
_AREAS = ("cross section", "area", "cross sectional area", "extent")
# words of prompts that say nothing of the target, beside those of `english.toml`
_COMMANDS = """segment, segments, segmentation, segmented, outline, outlined, show, shown, mark, marked, delineate, \
find, highlight, draw, label, labeled, labelled, mask, please, me, give, select, locate, contour, trace, \
want, see, need, like, one, ones, two, three, four, five, side, sides, sided, half, hand, directly, \
immediately, lies, lie, lying, located, region, area, areas, part, parts, named, remaining, rest, \
counting, counted, count, complete, visible, here, there, that, which, is, are, to be, of, its, it, \
whose, slice, scan, number, leave, empty, target, targets, piece, exactly, whichever, case, them, must, \
i, you, we"""
_PREPOSITIONS = frozenset("of in on at within near from along behind inside for around".split())
# a side or selector between a preposition and a name does not separate them: "in the left lung"
_LINKING = frozenset({"side", "level", "patient", "image", "all", "ordinal"})
_SCAN = re.compile(
    r"[a-z0-9]+(?:'[a-z]+)?|[.;!?\n](?=\s|$)|\n|[,()/&+]|(?<=\d)\s*[-–—]\s*(?=[a-z]?\d)"
)
_MARKS = {",": "comma", "(": "open", ")": "close", "/": "and", "&": "and", "+": "and"}
_ORDINAL = re.compile(r"(\d{1,3})(?:st|nd|rd|th)")


@dataclass(frozen=True, slots=True)
class ProgramToken:
    """A word, phrase or mark of a prompt that says something about the target.

    Attributes:
        kind: what the grammar uses it for.
        span: its characters in the prompt.
        words: its words.
        name: of the structure, for kind "name".
        side, level, start, number, largest: what the word says.
        laterality: the convention that is declared with a side.
        linked: a preposition stands before it.
        adjacent: no other word stands between it and the token before it.
        mended: it was misspelled.
    """

    kind: str
    span: tuple[int, int] = (0, 0)
    words: tuple[str, ...] = ()
    name: str = ""
    side: Side | None = None
    level: Level | None = None
    start: Start | None = None
    number: int = 0
    largest: bool = False
    laterality: Laterality | None = None
    linked: bool = False
    adjacent: bool = False
    mended: bool = False


Phrases = dict[str, list[tuple[tuple[str, ...], ProgramToken]]]


def _operators() -> Iterator[tuple[str, ProgramToken]]:
    """Every phrase of this module with what it means."""
    for kind, text in _WORDS.items():
        for phrase in phrases_of(text):
            yield phrase, ProgramToken(kind)
    for level, text in _LEVELS.items():
        for phrase in phrases_of(text):
            yield phrase, ProgramToken("level", level=level)
    for start, text in _FIRST.items():
        for phrase in phrases_of(text):
            yield phrase, ProgramToken("first", start=start)
    for start, text in _FROM.items():
        for phrase in phrases_of(text):
            yield phrase, ProgramToken("start", start=start)
    for number, word in ORDINALS.items():
        yield word, ProgramToken("ordinal", number=number)
    yield "last", ProgramToken("ordinal", number=-1)
    for text, largest in ((_LARGE, True), (_SMALL, False)):
        for word in phrases_of(text):
            yield word, ProgramToken("select", largest=largest)
            yield f"{word} of", ProgramToken("select_of", largest=largest)
            for area in _AREAS:
                yield f"with the {word} {area}", ProgramToken("select", largest=largest)
                yield f"{word} in {area}", ProgramToken("select", largest=largest)
    yield from _side_phrases()


def _side_phrases() -> Iterator[tuple[str, ProgramToken]]:
    """Sides, and directions from a structure."""
    whose = {"image": Laterality.IMAGE, "picture": Laterality.IMAGE, "patient": Laterality.PATIENT}
    for word in ("center", "centre", "central"):
        yield word, ProgramToken("side", side=Side.CENTER)
    for side in (Side.LEFT, Side.RIGHT):
        kind = f"{side.value}_of"
        yield side.value, ProgramToken("side", side=side)
        for lead in ("", "to the "):
            yield f"{lead}{side.value} of", ProgramToken(kind)
            yield f"{lead}image {side.value} of", ProgramToken(kind, laterality=Laterality.IMAGE)
        yield f"to the patient's {side.value} of", ProgramToken(kind, laterality=Laterality.PATIENT)
        for noun, laterality in whose.items():
            # "the lung on the left of the image" is no lung to the left of something
            yield (
                f"{side.value} of the {noun}",
                ProgramToken("side", side=side, laterality=laterality),
            )


@lru_cache(maxsize=8)
def _phrase_table(structures: StructureList) -> Phrases:
    """First word -> phrases that begin with it, the longest first; names before other words."""
    found: dict[tuple[str, ...], ProgramToken] = {}
    for words, name in structures.phrase_table.items():
        found[words] = ProgramToken("name", words=words, name=name)
    for phrase, token in _operators():
        found.setdefault(tuple(phrase.split()), token)
    table: Phrases = {}
    for words in sorted(found, key=len, reverse=True):
        table.setdefault(words[0], []).append((words, found[words]))
    return table


@cache
def _fillers() -> frozenset[str]:
    """Words that say nothing of the target."""
    words = {word for phrase in phrases_of(_COMMANDS) for word in phrase.split()}
    return frozenset(words) | plain_words("function") | plain_words("descriptor")


@lru_cache(maxsize=4096)
def _repaired(word: str, structures: StructureList) -> str:
    """A misspelled word of a name or operator as it was meant, "" if it is something else."""
    if len(word) < 5 or not word.isalpha():
        return ""
    known: set[str] = set()
    for phrases in _phrase_table(structures).values():
        for words, _ in phrases:
            known.update(one for one in words if len(one) >= 5)
    near = [one for one in sorted(known) if one_edit_apart(word, one)]
    return near[0] if len(near) == 1 else ""


def program_tokens(prompt: str, structures: StructureList) -> list[ProgramToken]:
    """A prompt as the tokens that the grammar of programs reads; words that say nothing are left out."""
    text, places = plain_text(prompt.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    matches = list(_SCAN.finditer(text.lower()))
    words = [match.group() for match in matches]
    table, fillers = _phrase_table(structures), _fillers()
    found: list[ProgramToken] = []
    linked, adjacent = False, False
    i = 0
    while i < len(words):
        word, length = words[i], 1
        token, mended = None, False
        for phrase, meaning in table.get(word, ()):
            if words[i : i + len(phrase)] == list(phrase):
                token, length = meaning, len(phrase)
                break
        if token is None:
            token = _single(word)
        if token is None and word not in fillers and (fixed := _repaired(word, structures)):
            token = next(
                (meaning for phrase, meaning in table.get(fixed, ()) if len(phrase) == 1), None
            )
            mended = token is not None
        if token is None and word not in fillers:
            token = ProgramToken("unknown")

        if token is None:
            linked, adjacent = linked or word in _PREPOSITIONS, False
        else:
            span = (places[matches[i].start()], places[matches[i + length - 1].end() - 1] + 1)
            said = tuple(words[i : i + length])
            found.append(
                replace(
                    token, span=span, words=said, linked=linked, adjacent=adjacent, mended=mended
                )
            )
            linked, adjacent = token.kind in _LINKING and linked, True
        i += length
    return _declared(_without_commas(found))


def _single(word: str) -> ProgramToken | None:
    """A mark or an ordinal in digits."""
    if word in _MARKS:
        return ProgramToken(_MARKS[word])
    if word[0] in ".;!?\n":
        return ProgramToken("stop")
    if word.strip()[:1] in "-–—":
        return ProgramToken("to")
    if ordinal := _ORDINAL.fullmatch(word):
        return ProgramToken("ordinal", number=int(ordinal[1])) if int(ordinal[1]) else None
    return None


def _without_commas(tokens: list[ProgramToken]) -> list[ProgramToken]:
    """Leave out commas next to "counted from the top", which join nothing."""
    kept = []
    for i, token in enumerate(tokens):
        beside = {one.kind for one in (*tokens[max(i - 1, 0) : i], *tokens[i + 1 : i + 2])}
        if token.kind != "comma" or "start" not in beside:
            kept.append(token)
    return kept


def _declared(tokens: list[ProgramToken]) -> list[ProgramToken]:
    """Give every side the convention that stands next to it: "on the left side of the image", "the patient's left"."""
    whose = {"image": Laterality.IMAGE, "patient": Laterality.PATIENT}
    for i, token in enumerate(tokens):
        if token.kind != "side" or token.laterality is not None:
            continue
        before = tokens[i - 1].kind if i else ""
        after = tokens[i + 1].kind if i + 1 < len(tokens) else ""
        declared = whose.get(before) or whose.get(after)
        if declared is not None:
            tokens[i] = replace(token, laterality=declared)
    return tokens
