"""Plain report sentences as zones and findings, and what all readers of sentences share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from textmask.statement import LUNG_ZONES, Finding, Side, Zone
from textmask.text.clauses import DENIED, FREE, PRESENT, Piece, pieces_of, without_comparisons
from textmask.text.lexicon import plain_words
from textmask.text.places import LUNG_ORGANS, share
from textmask.text.tokens import Token, join_slashed_sides
from textmask.text.words import NUMBERS

PLACES = frozenset({"side", "level", "place", "lung", "segment"})  # roles of words that name one
LISTS = ("and", "or", ",")  # what joins the parts of a list
COUNTED = frozenset("area areas polyp polyps lesion lesions opacities nodules".split())
_UNITS = frozenset("mm cm millimeter millimeters centimeter centimeters".split())


@dataclass
class Reading:
    """What has been read of a sentence so far.

    Attributes:
        zones, negated: said to be affected, said to be free.
        denials: zones that are free of findings of some groups only ("no right effusion").
        rest: zones that are free except for those that are affected ("otherwise clear").
        denied: a finding of the lungs is denied without a place.
        found: a finding is present, with or without a place.
    """

    zones: set[Zone] = field(default_factory=set)
    negated: set[Zone] = field(default_factory=set)
    denials: list[tuple[frozenset[Zone], frozenset[str]]] = field(default_factory=list)
    rest: set[Zone] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    count: int | None = None
    lateral: str | None = None
    size: str | None = None
    denied: bool = False
    found: bool = False
    warnings: list[str] = field(default_factory=list)

    def warn(self, code: str) -> None:
        """Note a warning code once."""
        if code not in self.warnings:
            self.warnings.append(code)

    def settle(self) -> None:
        """Free zones as they stand once everything was read: what one finding spares another may affect."""
        present = {finding.group for finding in self.findings if finding.present}
        for zones, groups in self.denials:
            self.negated |= zones if groups & present or not groups else zones - self.zones
        self.negated |= self.rest - self.zones


def read_common(words: list[str], reading: Reading) -> None:
    """Number of findings, uni- or bilateral, size."""
    for i, word in enumerate(words):
        if reading.count is None and (word in NUMBERS or word.isdecimal()):
            following = words[i + 1 : i + 6]
            if not (COUNTED.isdisjoint(following) or following[0] in _UNITS):
                reading.count = NUMBERS.get(
                    word, int(word) if len(word) < 4 and word.isdecimal() else None
                )
        elif word in ("unilateral", "bilateral") and reading.lateral is None:
            reading.lateral = word
        # "polyp which is a small lump ..." defines a polyp and does not measure this one
        elif (
            word in ("small", "medium", "large")
            and reading.size is None
            and "which" not in words[:i]
        ):
            reading.size = word


def cut_at(words: Iterable[str], marks: Collection[str]) -> list[list[str]]:
    """Cut a list of words at the given words."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in marks:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def sentences_of(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens cut at full stops, semicolons, question marks and at words such as "but"."""
    sentences: list[list[Token]] = [[]]
    for token in tokens:
        if token.word == ":":
            sentences[-1] = _without_label(sentences[-1], tokens, token)
            continue
        turn = token.role == "join" and token.name == "turn"
        if token.word == "?" and token.mark and sentences[-1]:
            sentences[-1].append(token)
        if turn or (token.mark and token.word != ","):
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [sentence for sentence in sentences if sentence]


def _without_label(label: list[Token], tokens: Sequence[Token], colon: Token) -> list[Token]:
    """The words before a colon; none where they only name organs and a place follows: "Lungs: left base opacity"."""
    only_names = all(
        token.role in ("anatomy", "lung", "join") and token.name != "lower" for token in label
    )
    for token in tokens:
        if token.start < colon.end:
            continue
        if token.mark and token.word != ",":
            return label
        if token.role in ("side", "level", "place", "anatomy") and only_names:
            return []
    return label


def read_report(tokens: Sequence[Token], reading: Reading) -> None:
    """Plain report sentences, clause by clause: "patchy opacity in the left lower lobe, right lung is clear"."""
    read_common(" ".join([token.word for token in tokens]).split(), reading)
    known: frozenset[Side] = frozenset()
    for sentence in sentences_of(tokens):
        follows = sentence[0].role == "follow"
        found = _read_sentence(sentence, reading, known if follows else frozenset())
        known = frozenset(side for side, _ in found) or known


def _read_sentence(
    sentence: Sequence[Token], reading: Reading, known: frozenset[Side]
) -> set[Zone]:
    """Read one sentence; returns the zones that it names."""
    tokens = without_comparisons(join_slashed_sides(sentence))
    main, exception, sparing = _split_exception(tokens)
    pieces = pieces_of(main)
    _resolve(pieces, reading, known)
    free = any(piece.polarity in (DENIED, FREE) for piece in pieces)
    head: set[Zone] = set()
    for i, piece in enumerate(pieces):
        _commit(piece, reading, _zones_of_findings(pieces, i))
        head |= piece.place.zones
    if exception:
        head |= _read_exception(exception, pieces, head, free and not sparing, reading)
    return head


def _split_exception(tokens: Sequence[Token]) -> tuple[list[Token], list[Token], bool]:
    """The sentence without what it excepts, what it excepts, and whether that is spared for certain."""
    at = next((i for i, token in enumerate(tokens) if token.role == "except"), None)
    if at is None:
        return list(tokens), [], False
    sparing = tokens[at].name == "sparing"
    if all(token.role in ("", "prep", "and") or token.mark for token in tokens[:at]):
        # "Apart from a scar in the right apex, both lungs are clear"
        comma = next((i for i in range(at, len(tokens)) if tokens[i].word == ","), len(tokens))
        return list(tokens[comma + 1 :]), list(tokens[at + 1 : comma]), sparing

    # a later clause that speaks for itself is not excepted
    for i in range(at + 1, len(tokens)):
        rest = tokens[i + 1 :]
        if tokens[i].word == "," and any(t.role in ("free", "deny", "remains") for t in rest):
            return [*tokens[:at], *tokens[i:]], list(tokens[at + 1 : i]), sparing
    return list(tokens[:at]), list(tokens[at + 1 :]), sparing


def _resolve(pieces: Sequence[Piece], reading: Reading, known: frozenset[Side]) -> None:
    """Give every piece its zones; sides and levels are shared within a clause."""
    clause: list[Piece] = []
    for i, piece in enumerate(pieces):
        speaks = bool(piece.findings) or piece.polarity != PRESENT
        starts = piece.joiner == "," and speaks and piece.polarity == PRESENT
        again = piece.joiner == "deny" and any(one.joiner == "deny" for one in clause)
        if (
            again
            or (starts and any(one.findings or one.polarity != PRESENT for one in clause))
            or (
                piece.polarity != (pieces[i - 1].polarity if i else PRESENT)
                and piece.place.sides
                and clause
            )
        ):
            _share(clause, reading, known)
            clause = []
        clause.append(piece)
    _share(clause, reading, known)


def _share(clause: Sequence[Piece], reading: Reading, known: frozenset[Side]) -> None:
    asked = [piece for piece in clause if not (piece.place.foreign and not piece.place.named)]
    if share([piece.place for piece in asked], known) and any(
        piece.polarity == PRESENT for piece in asked
    ):
        reading.warn("missing_side")


def _zones_of_findings(pieces: Sequence[Piece], i: int) -> frozenset[Zone]:
    """Where the findings of a piece are: its own place, else that of its neighbors of the same polarity."""
    piece = pieces[i]
    if not piece.findings or piece.place.foreign:
        return frozenset(piece.place.zones)
    if piece.place.zones:
        return frozenset(piece.place.zones | _listed_zones(pieces, i))
    zones: set[Zone] = set()
    for before in reversed(pieces[:i]):
        if before.polarity == DENIED or (before.polarity == FREE) != (piece.polarity != PRESENT):
            break
        zones |= before.place.zones
        if before.findings and (zones or before.joiner not in LISTS):
            break
    if zones:
        return frozenset(zones)

    # "a nodule, seen on one view only, projects over the right midlung"
    for following in pieces[i + 1 :]:
        if following.polarity != piece.polarity or following.findings:
            break
        if following.place.zones:
            return frozenset(following.place.zones)
        if following.joiner != ",":
            break
    return frozenset(zones)


def _listed_zones(pieces: Sequence[Piece], i: int) -> set[Zone]:
    """Further places of the findings of piece `i`: "left and right mid lung opacities"."""
    zones: set[Zone] = set()
    start = i
    while start > 0 and pieces[start].joiner in LISTS and _is_listed(pieces[start - 1], pieces[i]):
        start -= 1
    if start < i and _takes_list(pieces, start, i):
        zones = {zone for piece in pieces[start:i] for zone in piece.place.zones}

    end = i + 1
    while end < len(pieces) and pieces[end].joiner in LISTS and _is_listed(pieces[end], pieces[i]):
        end += 1
    if end < len(pieces) and pieces[end].findings and _takes_list(pieces, i + 1, end):
        return zones
    # a comma alone begins something else: the list reaches to its last "and"
    joined = [k for k in range(i + 1, end) if pieces[k].joiner in ("and", "or")]
    last = joined[-1] if joined else i
    return zones | {zone for piece in pieces[i + 1 : last + 1] for zone in piece.place.zones}


def _takes_list(pieces: Sequence[Piece], start: int, i: int) -> bool:
    """Whether the places from `start` on belong to piece `i` behind them: "right apex and left apex nodules"."""
    roles = [token.role for token in pieces[i].tokens]
    place = next((k for k, role in enumerate(roles) if role in PLACES), None)
    first = start if start > 0 and pieces[start - 1].findings else start + 1
    joined = all(piece.joiner in LISTS for piece in pieces[start + 1 : i])
    joined &= all(
        piece.joiner in ("and", "or", "with") for piece in (*pieces[first : start + 1], pieces[i])
    )
    return joined and place is not None and place < roles.index("finding")


def _is_listed(piece: Piece, head: Piece) -> bool:
    """Whether it is one more place of what `head` finds, and nothing else."""
    plain = not piece.findings and not piece.free and not piece.has("remains")
    return (
        plain
        and bool(piece.place.zones)
        and not piece.place.foreign
        and piece.polarity == head.polarity
        and all(token.term is not None or _is_small(token.word) for token in piece.tokens)
    )


def _commit(piece: Piece, reading: Reading, where: frozenset[Zone]) -> None:
    """Take the zones and findings of a piece over into the reading; `where` is the place of its findings."""
    zones = frozenset(piece.place.zones)
    about_lungs = not piece.place.foreign or bool(zones)
    present = piece.polarity == PRESENT
    _note_findings(piece, where, present, reading)
    if present:
        claimed = not _is_idle(piece)
        if claimed and not _describes_volume(piece):
            reading.zones |= zones or where
        reading.found |= bool(piece.findings) or (bool(zones) and claimed)
    elif piece.rest and about_lungs:
        reading.rest |= zones or set(LUNG_ZONES)
    elif piece.polarity == FREE or zones:
        groups = piece.denied_groups | {t.term.group for t in piece.findings if t.term is not None}
        if zones and piece.polarity == DENIED and groups:
            reading.denials.append((zones, groups))
        else:
            reading.negated |= zones
        reading.denied |= piece.polarity == FREE and not zones and about_lungs
    else:
        reading.denied |= any(
            t.term is not None and t.term.organ in LUNG_ORGANS for t in piece.findings
        )


def _is_idle(piece: Piece) -> bool:
    """Whether it names a place without saying that anything is there: advice, "well aerated", an unknown object."""
    if piece.findings:
        return False
    unknown = any(
        token.term is None and token.word.isalpha() and not _is_small(token.word)
        for token in piece.tokens
    )
    side_alone = not (piece.place.noun or piece.place.levels or piece.place.fixed)
    return "recommendation" in piece.attributes or piece.has("inert") or (unknown and side_alone)


def _is_small(word: str) -> bool:
    return len(word) < 3 or word in plain_words("function") or word in plain_words("descriptor")


def _describes_volume(piece: Piece) -> bool:
    """Whether it speaks of both lungs as a whole ("the lungs are hyperinflated"), which is no place."""
    groups = {token.term.group for token in piece.findings if token.term is not None}
    return groups == {"volume"}


def _note_findings(piece: Piece, zones: frozenset[Zone], present: bool, reading: Reading) -> None:
    """The findings of a piece as objects."""
    resolved = piece.polarity == FREE and bool(piece.findings)
    for token in piece.findings:
        if token.term is None:
            continue
        reading.findings.append(
            Finding(
                kind=token.term.name,
                zones=zones if token.term.organ in LUNG_ORGANS else frozenset(),
                present=present,
                certain=piece.certain,
                change="resolved" if resolved else piece.change,
                size_mm=piece.size_mm,
                start=piece.tokens[0].start,
                end=piece.tokens[-1].end,
                organ=token.term.organ,
                group=token.term.group,
                attributes=piece.attributes,
            )
        )


def _read_exception(
    tokens: Sequence[Token], pieces: Sequence[Piece], head: set[Zone], free: bool, reading: Reading
) -> set[Zone]:
    """What is excepted is the opposite of the rest: "lungs clear except for the left base", "... sparing the apex"."""
    inner = pieces_of(tokens)
    sides = frozenset(side for side, _ in head)
    known = (
        sides
        if len(sides) == 1 or not any(p.place.sides or p.place.fixed for p in inner)
        else frozenset()
    )
    _share(inner, reading, known)
    zones = {zone for piece in inner for zone in piece.place.zones}
    if free:
        for piece in inner:
            piece.polarity = PRESENT
            _commit(piece, reading, frozenset(piece.place.zones))
        reading.negated -= zones
        reading.denials = [(free_zones - zones, groups) for free_zones, groups in reading.denials]
        reading.rest -= zones
        return zones

    if zones >= head and head:
        return head  # "the upper lobe, sparing the apex": part of the zone is still affected

    # "widespread opacities sparing the left apex" are everywhere else
    lungs = any(
        t.term is not None and t.term.organ in LUNG_ORGANS
        for piece in pieces
        for t in piece.findings
    )
    if zones and not head and lungs:
        reading.zones |= set(LUNG_ZONES)
        reading.findings = [
            replace(f, zones=frozenset(LUNG_ZONES) - zones) if not f.zones else f
            for f in reading.findings
        ]
    reading.negated |= zones
    reading.zones -= zones
    return zones
