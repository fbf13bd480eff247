"""A sentence of a report cut into pieces, each with what it says about them: there, not there, or not sure.

Pieces end at commas, "and", "or" and "with", and before every word that denies. What is compared with something else
("worse on the left", "compared with the right") is taken out first: it names no further place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from textmask.text.lexicon import BOTH, Term, known_words
from textmask.text.places import LUNG_ORGANS, Place, place_of
from textmask.text.tokens import Token

PRESENT, DENIED, FREE = "present", "denied", "free"
# what is denied here is a change, not a finding: "no interval change in", "without progression of"
_CHANGES = frozenset(
    "change changes increase decrease improvement progression regression worsening enlargement growth reduction "
    "alteration difference".split()
)
# a denial in front of these denies nothing that is there
_HEDGES = frozenset("only definitely longer necessarily entirely completely fully well".split())
# words that describe something abnormal without naming it
_ABNORMAL = frozenset(
    "hazy patchy streaky dense diffuse confluent faint subtle abnormal ill focal asymmetric nodular linear increased "
    "prominent elevated".split()
)
_UNITS = {
    "mm": 1.0,
    "cm": 10.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "centimeter": 10.0,
    "centimeters": 10.0,
}


@dataclass
class Piece:
    """A few words of one polarity.

    Attributes:
        joiner: what stands before it: "", ",", "and", "or", "with" or "deny".
        tokens: its words.
        place: where it is.
        polarity: `PRESENT`, `DENIED` (by a word before) or `FREE` (by a word such as "clear").
        change, certain, size_mm, attributes: as in `textmask.statement.Finding`.
        rest: it speaks of what was not named before ("otherwise clear").
        findings: its findings, whatever the organ.
        roles, words: of its tokens.
        free: a word such as "clear" is among them.
        denied_groups: findings that the next piece denies here ("the left lung | shows no opacity").
    """

    joiner: str
    tokens: list[Token] = field(default_factory=list)
    place: Place = field(default_factory=Place)
    polarity: str = PRESENT
    change: str = ""
    certain: bool = True
    size_mm: float | None = None
    attributes: tuple[str, ...] = ()
    rest: bool = False
    findings: list[Token] = field(default_factory=list)
    roles: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    free: bool = False
    denied_groups: frozenset[str] = frozenset()

    @property
    def bare(self) -> bool:
        """A place and nothing that is said about it."""
        return (
            self.polarity == PRESENT
            and not self.findings
            and not self.free
            and not self.has("remains")
        )

    def has(self, role: str) -> bool:
        """Whether one of its words has this role."""
        return role in self.roles

    def says(self, *words: str) -> bool:
        """Whether it has one of these words."""
        return not self.words.isdisjoint(words)


def without_comparisons(tokens: Sequence[Token]) -> list[Token]:
    """The words of a sentence without what is only compared: "left more than right" becomes "both"."""
    if not any(token.role == "compare" for token in tokens):
        return list(tokens)
    out: list[Token] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.role != "compare":
            out.append(token)
            i += 1
            continue
        end, place = _place_after(tokens, i + 1)
        j = _side_before(out)
        if token.name == "than" and place is not None and j is not None:
            # names no further place in "bases, left more than right", one in "left more than right basal opacities"
            end = next(k for k in range(i, end) if tokens[k] is place) + 1
            both = Token("both", out[j].start, place.end, Term("side", "both", sides=BOTH))
            out[j:] = [both] if _level_follows(tokens, end) or not _sided(out[:j]) else []
            i = end
        elif token.name == "than" and place is not None and _place_follows(tokens, end):
            out.append(Token("and", token.start, token.end, Term("join", "and")))
            i += 1
        elif token.name == "reference":
            i = end if place is not None else i + 1
        elif token.name == "than":
            i = end if place is not None and _sided(out) else i + 1
        else:
            i = _after_superlative(tokens, i, end, out)
    return out


def _after_superlative(tokens: Sequence[Token], i: int, end: int, out: list[Token]) -> int:
    """Where to read on after "worse": behind "on the left" where sides were named before, else at once."""
    following = tokens[end] if end < len(tokens) else None
    ends = (
        following is None or following.mark or following.role in ("join", "compare", "prep", "free")
    )
    if end == i + 1 or not ends:
        return i + 1
    if _sided(out):
        return end

    # "effusions, larger on the left" are on both sides
    several = any(token.role == "finding" and token.word.endswith("s") for token in out)
    if several and tokens[i].word not in (
        "mainly",
        "predominantly",
        "especially",
        "particularly",
        "predominant",
    ):
        out.append(
            Token("both", tokens[i].start, tokens[end - 1].end, Term("side", "both", sides=BOTH))
        )
        return end
    return i + 1


def _place_after(tokens: Sequence[Token], i: int) -> tuple[int, Token | None]:
    """The end of a place that follows, past small words, and its side; `i` and None without one."""
    j, side = i, None
    while j < len(tokens):
        token = tokens[j]
        if token.role in ("side", "lung", "level", "place"):
            side = side or (token if token.role in ("side", "place") else None)
        elif (
            token.mark
            or token.role not in ("", "prep", "history")
            or token.name == "verb"
            or (side is not None and token.role == "prep")
            or (
                token.role == ""
                and token.word
                not in ("the", "that", "those", "its", "sided", "one", "film", "exam")
            )
        ):
            break
        j += 1
    while j > i and tokens[j - 1].role == "prep":
        j -= 1
    return (j, side) if side is not None else (i, None)


def _side_before(out: Sequence[Token]) -> int | None:
    """The place among `out` of a side right before, past small words."""
    for j in range(len(out) - 1, max(-1, len(out) - 5), -1):
        if out[j].role == "side":
            return j
        if out[j].mark or out[j].role not in ("", "prep", "change") or out[j].name == "verb":
            return None
    return None


def _place_follows(tokens: Sequence[Token], i: int) -> bool:
    """Whether a place or finding comes next, before any mark."""
    for token in tokens[i:]:
        if token.mark or token.role in ("join", "deny", "free"):
            return False
        if token.role in ("lung", "level", "finding", "place"):
            return True
    return False


def _level_follows(tokens: Sequence[Token], i: int) -> bool:
    """Whether a level or a noun of the lung comes before the next finding or mark."""
    following = itertools.takewhile(
        lambda token: not token.mark and token.role not in ("join", "deny", "free", "finding"),
        tokens[i:],
    )
    return any(token.role in ("lung", "level", "place") for token in following)


def _sided(tokens: Sequence[Token]) -> bool:
    return any(
        token.role in ("side", "place") or (token.term is not None and token.term.plural)
        for token in tokens
    )


def pieces_of(tokens: Sequence[Token]) -> list[Piece]:
    """The pieces of a sentence with their polarity and their own place."""
    pieces = [Piece("")]
    for i, token in enumerate(tokens):
        if token.word == "," or token.role == "join":
            name = "," if token.word == "," else token.name
            if pieces[-1].tokens:
                pieces.append(Piece(name))
            elif pieces[-1].joiner in ("", ","):
                pieces[-1].joiner = name
            continue
        if token.role == "deny" and _clause_denies(tokens, i):
            if pieces[-1].tokens:
                pieces.append(Piece("deny"))
            else:
                pieces[-1].joiner = "deny"
        pieces[-1].tokens.append(token)

    pieces = [piece for piece in pieces if piece.tokens]
    for piece in pieces:
        _describe(piece)
    _give_sides_to_organs(pieces)
    _decide(pieces)
    return pieces


def _give_sides_to_organs(pieces: Sequence[Piece]) -> None:
    """Read "The right | and left ventricles": a side alone belongs to the organ it is listed with."""
    for piece, following in zip(pieces[-2::-1], pieces[:0:-1], strict=False):
        place, organ = piece.place, following.place
        alone = place.sides and not (
            place.levels or place.fixed or place.noun or place.finding or place.foreign
        )
        if alone and following.joiner in ("and", "or", ",") and organ.foreign and not organ.named:
            piece.place = Place(foreign=True)


def _clause_denies(tokens: Sequence[Token], i: int) -> bool:
    """Whether a word such as "no" denies a finding here: it does not in "no change in" and "not only"."""
    following = [token.word for token in tokens[i + 1 : i + 4] if not token.mark]
    if following and following[0] in _HEDGES:
        return False
    return not any(set(word.split()) & _CHANGES for word in following)


def _describe(piece: Piece) -> None:
    """Place, change, certainty, size and attributes of a piece."""
    tokens = piece.tokens
    piece.roles = frozenset([token.role for token in tokens])
    piece.words = frozenset([token.word for token in tokens])
    piece.findings = [token for token in tokens if token.role == "finding"]
    piece.free = "free" in piece.roles
    piece.place = place_of(tokens)
    if "neither" in piece.words and piece.place.noun and not piece.place.sides:
        piece.place.sides = BOTH

    # what is said about the finding
    piece.certain = "doubt" not in piece.roles and "?" not in piece.words
    piece.rest = "rest" in piece.roles
    if piece.roles & {"history", "recommend"}:
        names = [token.name for token in tokens if token.role in ("history", "recommend")]
        piece.attributes = tuple(dict.fromkeys(names))
    if piece.roles & {"change", "deny"}:
        changes = [
            token.name for token in tokens if token.role == "change" and token.name != "change"
        ]
        parts = {part for word in piece.words for part in word.split()}
        unchanged = "deny" in piece.roles and not parts.isdisjoint(_CHANGES)
        piece.change = "stable" if unchanged else next(iter(changes), "")
    if not piece.words.isdisjoint(_UNITS):
        piece.size_mm = _largest(tokens)


def _largest(tokens: Sequence[Token]) -> float | None:
    """The largest measurement in millimeters."""
    sizes = []
    for number, unit in itertools.pairwise(tokens):
        if unit.word in _UNITS and number.word.replace(".", "", 1).isdecimal():
            sizes.append(float(number.word) * _UNITS[unit.word])
    return max(sizes, default=None)


def _decide(pieces: Sequence[Piece]) -> None:
    """The polarity of every piece: denials run through a list, "clear" reaches back to the subject."""
    carried = False
    for i, piece in enumerate(pieces):
        if piece.joiner == "deny":
            # "not entirely clear" denies that it is free
            free = piece.free and not piece.findings
            piece.polarity = PRESENT if free else DENIED
            carried = not free
        elif carried and _carries(pieces, i):
            piece.polarity = DENIED
        else:
            carried = False
            piece.polarity = FREE if _is_free(piece) else PRESENT
    for i in range(len(pieces) - 1, 0, -1):
        _reach_back(pieces, i)


def _carries(pieces: Sequence[Piece], i: int) -> bool:
    """Whether a denial before piece `i` still holds in it."""
    if pieces[i].joiner == "or":
        return True
    if pieces[i].joiner == "with":
        return not pieces[i - 1].findings  # "neither lung | shows any opacity"
    return pieces[i].joiner in (",", "and") and _continues(pieces, i)


def _continues(pieces: Sequence[Piece], i: int) -> bool:
    """Whether a list of denied findings goes on: bare names, or anything before a later "or"."""
    piece = pieces[i]
    if piece.free or piece.says("there") or piece.has("remains") or piece.attributes:
        return False
    if not (piece.findings and piece.place.named):
        return True
    for later in pieces[i + 1 :]:
        if later.joiner == "or":
            return True
        if later.joiner not in (",", "and") or later.free or later.says("there"):
            return False
    return False


def _is_free(piece: Piece) -> bool:
    """Whether its "clear" or "resolved" speaks of lungs, and nothing takes it back."""
    if not piece.free or piece.has("remains"):
        return False
    if not piece.place.foreign:
        return True
    lungs = any(
        t.role == "finding" and t.term is not None and t.term.organ in LUNG_ORGANS
        for t in piece.tokens
    )
    return not lungs


def _reach_back(pieces: Sequence[Piece], i: int) -> None:
    """Read "the left lung and right apex are clear", "the left lung shows no opacity": the subject is free too."""
    piece, before = pieces[i], pieces[i - 1]
    if before.polarity != PRESENT:
        return
    subject = before.bare and (before.place.named or before.place.foreign)
    alone = not piece.place.named and not piece.place.foreign and not piece.findings
    if (
        piece.polarity == FREE
        and subject
        and (alone or piece.joiner in ("and", "or") or _in_list(pieces, i))
    ):
        before.polarity = FREE
    elif (
        piece.polarity == FREE
        and alone
        and before.findings
        and piece.joiner in (",", "and")
        and i == len(pieces) - 1
    ):
        # "Left lower lobe opacity, resolved."
        before.polarity = (
            FREE if piece.says("resolved", "cleared", "gone", "disappeared") else PRESENT
        )
    elif piece.joiner == "deny" and piece.polarity == DENIED and subject and not piece.place.named:
        abnormal = any(t.word in _ABNORMAL or _strange(t) for t in before.tokens)
        if piece.findings and not abnormal and before.place.named:
            before.polarity = DENIED
            before.denied_groups = frozenset(
                t.term.group for t in piece.findings if t.term is not None
            )


def _in_list(pieces: Sequence[Piece], i: int) -> bool:
    """Whether a comma before piece `i` is part of a list that ends in "and"."""
    return (
        pieces[i].joiner == ","
        and i + 1 < len(pieces)
        and pieces[i + 1].joiner == "and"
        and pieces[i].bare
    )


def _strange(token: Token) -> bool:
    """An unknown word, which may be a finding that the vocabulary lacks."""
    return (
        token.term is None
        and token.word.isalpha()
        and len(token.word) > 2
        and token.word not in known_words()
    )
