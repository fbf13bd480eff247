"""Reads a prompt as a program: a recursive grammar over the names of the vocabulary and a few dozen words of English.

    sentence    expression, or "no" expression ["but" expression]
    expression  union {"except" union}
    union       phrase {"and" phrase}
    phrase      modifiers (name | "every structure" | "(" expression ")") places {relation phrase}

Places bind nearest to the name, then relations, then what selects a piece: the largest, the second from the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from textmask.statement import Laterality, Side
from textmask.text.program import (
    AtLevel,
    Everything,
    Except,
    Find,
    Largest,
    LeftOf,
    Nothing,
    Nth,
    OnSide,
    Program,
    Range,
    RightOf,
    Smallest,
    Span,
    Step,
    Union,
    Unknown,
    steps_of,
)
from textmask.text.program_words import RELATIONS, ProgramToken, program_tokens
from textmask.text.program_zones import zone_program
from textmask.text.structures import Start, StructureList, structure_list
from textmask.text.words import MAX_LENGTH

PROGRAM_WARNINGS = {
    "empty_text": "the prompt is empty",
    "too_long": f"only the first {MAX_LENGTH} characters were read",
    "unknown_words": "words outside of the vocabulary were ignored",
    "unknown_name": "the target is not in the vocabulary; nothing is segmented",
    "contradiction_side": "both sides are named for one structure; nothing lies on both",
    "unpaired_side": "a side is named of a structure that has no left and right one",
    "two_structures": "two structures are named as one; both were taken",
    "missing_anchor": "a relation such as above or inside has nothing that it refers to",
    "repaired_typo": "a misspelled word was read as the nearest word of the vocabulary",
}
MAX_DEPTH = 24
_FAR: dict[Start, Start] = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
_PLACES = ("side", "level")


def parse_program(
    prompt: str,
    laterality: Laterality = Laterality.UNKNOWN,
    structures: StructureList | None = None,
) -> Program:
    """What a prompt asks for. Never fails: what is not understood is named in the program.

    Args:
        prompt: any text; the first 2000 characters are read.
        laterality: convention of sides that the prompt does not declare itself ("of the image", "patient's").
        structures: the vocabulary; None is that of this package.
    """
    return _parse_cached(prompt, laterality, structures or structure_list())


@lru_cache(maxsize=16384)
def _parse_cached(prompt: str, laterality: Laterality, structures: StructureList) -> Program:
    reader = _Reader(structures, laterality)
    tokens = program_tokens(prompt[:MAX_LENGTH], structures)
    if len(prompt) > MAX_LENGTH:
        reader.warn("too_long")
    if not prompt.strip():
        reader.warn("empty_text")
    if any(token.mended for token in tokens):
        reader.warn("repaired_typo")
    step = zone_program(prompt, tokens, laterality, structures)
    if step is None:
        parts, step = reader.sentences(tokens)
    else:
        parts = [step]
        reader.ignore([token for token in tokens if token.kind == "unknown"])
    if any(isinstance(one, Unknown) for one in steps_of(step)):
        reader.warn("unknown_name")
    if reader.ignored:
        reader.warn("unknown_words")
    return Program(step, tuple(parts), tuple(reader.ignored), tuple(reader.warnings), prompt)


@dataclass
class _Phrase:
    """What the words of one phrase say, before it becomes a step.

    Attributes:
        places: sides and levels, one list for each of "left and right lower".
        selectors: tokens that choose a piece, in reading order.
        start: of "from the top".
    """

    places: list[list[ProgramToken]] = field(default_factory=lambda: [[]])
    selectors: list[ProgramToken] = field(default_factory=list)
    start: Start | None = None


@dataclass
class _Reader:
    """Reads the tokens of a prompt; `i` is the next one."""

    structures: StructureList
    laterality: Laterality
    tokens: Sequence[ProgramToken] = ()
    i: int = 0
    depth: int = 0
    ignored: list[Unknown] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, code: str) -> None:
        """Note a warning once."""
        if code not in self.warnings:
            self.warnings.append(code)

    @property
    def kind(self) -> str:
        """Kind of the next token, "" at the end."""
        return self.tokens[self.i].kind if self.i < len(self.tokens) else ""

    def take(self) -> ProgramToken:
        """The next token."""
        self.i += 1
        return self.tokens[self.i - 1]

    # ---- sentences -------------------------------------------------------------------------------------------

    def sentences(self, tokens: Sequence[ProgramToken]) -> tuple[list[Step], Step]:
        """The target of each sentence, and the whole target."""
        found: list[Step] = []
        only: list[Step] = []
        denied: list[Step] = []
        silent = False
        for sentence in _cut_at(tokens, "stop"):
            if any(token.kind == "normal" for token in sentence):
                # "the liver is normal" asks for nothing; another clause of the sentence may
                clauses = [c for c in _cut_at(sentence, "comma") if not _has(c, "normal")]
                sentence = [token for clause in clauses for token in clause]
                silent = True
            positive, negative = self._sentence(sentence)
            silent = silent or negative is not None
            if negative is not None and not _refused(negative):
                denied.append(negative)
            if positive is not None:
                (only if _has(sentence, "only") else found).append(positive)

        # "Only the pancreas" takes back what other sentences name
        found = list(dict.fromkeys(only or found))
        if not found:
            found = [Nothing() if silent else self._unknown(())]
        whole = found[0] if len(found) == 1 else Union(tuple(found))
        if denied and not only and whole != Nothing():
            return found, Except(whole, denied[0] if len(denied) == 1 else Union(tuple(denied)))
        return found, whole

    def _sentence(self, tokens: Sequence[ProgramToken]) -> tuple[Step | None, Step | None]:
        """What a sentence asks for, and what it says is not to be segmented."""
        self.tokens, self.i = [token for token in tokens if token.kind != "only"], 0
        if self.kind == "nothing" and _kind_at(self.tokens, 1) in ("except", "but"):
            self.i = 2  # "nothing but the heart"
        if self.kind == "not":
            self.take()
            negative = self.union() or Everything()
            if self.kind != "but":
                return None, negative
            self.take()
            return self.expression(), None

        found: list[Step] = []
        while self.i < len(self.tokens):
            before = self.i
            step = self.expression()
            if step is not None:
                found.append(step)
            if self.i == before:
                self.i += 1  # a stray bracket or relation
        if len(found) > 1:
            self.warn("two_structures")
            return Union(tuple(found)), None
        return (found[0] if found else None), None

    # ---- expressions -----------------------------------------------------------------------------------------

    def expression(self) -> Step | None:
        """Read `union {"except" union}`."""
        step = self.union()
        while step is not None and self.kind in ("except", "but", "not"):
            while self.kind in ("except", "but", "not"):
                self.take()
            without = self.union()
            if without is not None:
                step = Except(step, without)
        return step

    def union(self) -> Step | None:
        """Read `phrase {"and" phrase}`."""
        parts = [self.phrase()]
        while self.kind in ("and", "comma"):
            self.take()
            parts.append(self.phrase())
        found = [part for part in parts if part is not None]
        return Union(tuple(found)) if len(found) > 1 else found[0] if found else None

    def phrase(self) -> Step | None:
        """Read a name with its places, relations and selectors."""
        if self.depth >= MAX_DEPTH:
            return None
        self.depth += 1
        phrase = _Phrase()
        base = self._base(phrase)
        if base is not None:
            self._after(phrase)
            base = self._placed(base, phrase)
            while self.kind in RELATIONS:
                base = self._related(base)
                self._after(phrase)
            base = self._selected(base, phrase)
        self.depth -= 1
        return base

    def _base(self, phrase: _Phrase) -> Step | None:
        """Read up to the name of a phrase, with what stands before it."""
        unknown: list[ProgramToken] = []
        every = False
        while self.kind:
            kind = self.kind
            if kind in _PLACES:
                phrase.places[-1].append(self.take())
            elif kind in ("and", "comma") and self._shares_noun(phrase):
                self.take()
                phrase.places.append([])
            elif kind == "select_of":
                phrase.selectors.append(self.take())
                return self.union() or self._unknown(unknown)
            elif kind in ("select", "ordinal", "first"):
                phrase.selectors.append(self.take())
            elif kind == "start":
                phrase.start = self.take().start
            elif kind == "unknown":
                unknown.append(self.take())
            elif kind in ("image", "patient", "all"):
                every |= self.take().kind == "all"
            elif kind == "thing" and not unknown:
                token = self.take()
                if self.kind != "name" or self.tokens[self.i].linked:
                    return Everything(token.span)
            elif kind == "name":
                if unknown and self.tokens[self.i].linked:
                    phrase.places = [[]]  # of what the unknown thing lies in
                return self._name(unknown)
            elif kind == "open":
                self.take()
                self.ignore(unknown)
                step = self.expression()
                if self.kind == "close":
                    self.take()
                return step
            elif kind == "nothing":
                return Nothing(self.take().span)
            else:
                break
        if unknown:
            return self._unknown(unknown)
        # "everything", or a relation of its own: "to the left of the heart"
        return Everything() if every or self.kind in RELATIONS else None

    def _shares_noun(self, phrase: _Phrase) -> bool:
        """Whether "and" joins places of one name: "left and right lung"."""
        if not phrase.places[-1] or phrase.selectors:
            return False
        return _kind_at(self.tokens, self.i + 1) in (*_PLACES, "image", "patient")

    def _name(self, unknown: list[ProgramToken]) -> Step:
        """A name, or unknown words that it only belongs to: "stone of the kidney", "kidney stone"."""
        token = self.take()
        if unknown and token.linked:
            return self._unknown(unknown)
        if self.kind == "unknown" and self.tokens[self.i].adjacent:
            words = [*unknown, token]
            while self.kind == "unknown" and self.tokens[self.i].adjacent:
                words.append(self.take())
            return self._unknown(words)
        self.ignore(unknown)
        first = Find(token.name, token.span)

        # "L2 to L4"
        if self.kind == "to" and _kind_at(self.tokens, self.i + 1) == "name":
            other = self.tokens[self.i + 1]
            if self.structures.group_of(token.name, other.name) is not None:
                self.i += 2
                return Range(
                    first, Find(other.name, other.span), _span_from(token.span, other.span)
                )
        return first

    def _after(self, phrase: _Phrase) -> None:
        """Read what follows a name: places, "from the top", "with the larger area", and what it lies in."""
        named = True
        while self.kind:
            kind, token = self.kind, self.tokens[self.i]
            if kind in _PLACES:
                phrase.places[-1].append(token)
            elif kind == "start":
                phrase.start = token.start
            elif kind in ("select", "first", "ordinal"):
                phrase.selectors.append(token)
            elif kind == "unknown":
                self.ignore([token])
            elif (kind == "name" and token.linked and named) or kind in ("thing", "all", "to"):
                named = False  # "opacity in the left lung", "nucleus of the white cell"
            elif kind not in ("image", "patient"):
                return
            self.i += 1

    # ---- steps -----------------------------------------------------------------------------------------------

    def _placed(self, base: Step, phrase: _Phrase) -> Step:
        """A name on its sides and levels."""
        groups, phrase.places = phrase.places, [[]]
        if not any(groups):
            return base
        sides = [{token.side for token in group if token.side} for group in groups]
        if (
            len(groups) > 1
            and sides == [{Side.LEFT}, {Side.RIGHT}][:: 1 if Side.LEFT in sides[0] else -1]
        ):
            levels = [token for token in groups[-1] if token.level]
            if isinstance(base, Find) and self.structures.structures[base.name].paired:
                return self._at(base, levels)  # both of a pair are all of it

        # "upper and lower left": the side of the last counts for all
        shared = [token for token in groups[-1] if token.side]
        found = []
        for group in groups:
            own = any(token.side for token in group)
            found.append(self._at(base, group if own else [*group, *shared]))
        return found[0] if len(found) == 1 else Union(tuple(found))

    def _at(self, base: Step, places: Sequence[ProgramToken]) -> Step:
        """A step on one side and level; sides first, so that the order of the words does not matter."""
        if len({token.side for token in places if token.side}) > 1:
            self.warn("contradiction_side")
        step = base
        for token in places:
            if token.side is not None:
                self._check_side(base)
                whose = token.laterality or self.laterality
                step = OnSide(token.side, step, whose, token.span)
        for token in places:
            if token.level is not None:
                step = AtLevel(token.level, step, token.span)
        return step

    def _check_side(self, base: Step) -> None:
        for one in steps_of(base):
            if isinstance(one, Find):
                structure = self.structures.structures[one.name]
                if not (structure.paired or structure.members or structure.zone_map):
                    self.warn("unpaired_side")

    def _related(self, of: Step) -> Step:
        """A step in relation to the phrase that follows."""
        token = self.take()
        relation = RELATIONS[token.kind]
        # the patient's left lies on the right of the image
        if (
            relation in (LeftOf, RightOf)
            and (token.laterality or self.laterality) is Laterality.PATIENT
        ):
            relation = RightOf if relation is LeftOf else LeftOf
        anchor = self.phrase()
        if anchor is None:
            self.warn("missing_anchor")
            return self._unknown([token]) if isinstance(of, Everything) else of
        return relation(of, anchor, token.span)

    def _selected(self, step: Step, phrase: _Phrase) -> Step:
        """The piece of a step that the words choose; the nearest to the name counts first."""
        selectors = phrase.selectors
        ordinal = next((token for token in selectors if token.kind == "ordinal"), None)
        border = next((token for token in selectors if token.kind == "first"), None)
        for token in reversed(selectors):
            if token.kind in ("select", "select_of"):
                step = (Largest if token.largest else Smallest)(step, token.span)
            elif token is border and ordinal is None:
                step = Nth(1, token.start or "top", step, token.span)
        if ordinal is not None:
            start = phrase.start or (border.start if border else None) or self._order_of(step)
            if ordinal.number == -1:
                step = Nth(1, _FAR[start], step, ordinal.span)
            else:
                step = Nth(ordinal.number, start, step, ordinal.span)
        return step

    def _order_of(self, step: Step) -> Start:
        """Where the members of a group are counted from."""
        if isinstance(step, Find):
            return self.structures.structures[step.name].start or "top"
        return "top"

    def _unknown(self, tokens: Sequence[ProgramToken]) -> Unknown:
        words = tuple(word for token in tokens for word in token.words)
        span = _span_from(tokens[0].span, tokens[-1].span) if tokens else (0, 0)
        return Unknown(words, self.structures.nearest(words), span)

    def ignore(self, tokens: Sequence[ProgramToken]) -> None:
        """Note words that were not understood."""
        if tokens:
            self.ignored.append(self._unknown(tokens))


def _cut_at(tokens: Sequence[ProgramToken], kind: str) -> list[list[ProgramToken]]:
    """The tokens between tokens of a kind."""
    parts: list[list[ProgramToken]] = [[]]
    for token in tokens:
        if token.kind == kind:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _has(tokens: Sequence[ProgramToken], kind: str) -> bool:
    return any(token.kind == kind for token in tokens)


def _refused(step: Step) -> bool:
    return any(isinstance(one, Unknown) for one in steps_of(step))


def _kind_at(tokens: Sequence[ProgramToken], i: int) -> str:
    return tokens[i].kind if i < len(tokens) else ""


def _span_from(first: Span, last: Span) -> Span:
    return (first[0], last[1])
