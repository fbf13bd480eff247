"""The field's sentences as statements: chest captions, polyp and nuclei prompts, plain report sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from textmask.errors import choose
from textmask.text.statement import Level, Side, Statement, Zone
from textmask.text.words import LEVELS, MAX_LENGTH, NUMBERS, SIDES, clean, repair, split_words
from textmask.types import Laterality

GRAMMARS = ("qata", "mosmed", "polyp", "nuclei", "report")
WARNINGS = {
    "empty_text": "the sentence is empty",
    "too_long": f"only the first {MAX_LENGTH} characters were read",
    "control_characters": "control, zero-width or direction characters were ignored",
    "nothing_parsed": "no place or finding was understood; a text-guided mask may be meaningless",
    "repaired_typo": "a misspelt word was read as the nearest word of the captions",
    "contradiction_lateral": "unilateral or bilateral contradicts the sides that are named",
    "contradiction_count": "no or zero findings contradicts the places that are named",
    "contradiction_negation": "the same place is said to be affected and free",
    "missing_side": "a lung is named without its side; the side was inferred from the rest",
    "missing_level": "a lung is named without upper, middle or lower; all of it was assumed",
}
ALL = frozenset(Level)
LUNGS = ("lung", "lungs", "hemithorax")
PLACES = (*LUNGS, "lobe", "lobes", "zone", "zones", "field", "fields", "base", "bases", "apex", "apices", "region")
ABBREVIATIONS = {
    "rul": ((Side.RIGHT, Level.UPPER),),
    "rml": ((Side.RIGHT, Level.MIDDLE),),
    "rll": ((Side.RIGHT, Level.LOWER),),
    "lul": ((Side.LEFT, Level.UPPER),),
    "lll": ((Side.LEFT, Level.LOWER),),
    "lingula": ((Side.LEFT, Level.MIDDLE),),
    "lingular": ((Side.LEFT, Level.MIDDLE),),
    "bibasilar": ((Side.LEFT, Level.LOWER), (Side.RIGHT, Level.LOWER)),
    "bibasal": ((Side.LEFT, Level.LOWER), (Side.RIGHT, Level.LOWER)),
    "biapical": ((Side.LEFT, Level.UPPER), (Side.RIGHT, Level.UPPER)),
}
FINDINGS = (
    "opacity opacities infiltrate infiltrates infiltration consolidation consolidations pneumonia infection infected "
    "effusion lesion lesions nodule nodules mass shadowing airspace atelectasis disease finding findings polyp polyps"
).split()
BEFORE = ("no", "without", "denies", "negative", "free", "resolved", "not")
AFTER = ("clear", "normal", "unremarkable", "unaffected", "spared")


@dataclass
class _Reading:
    """What has been read of a sentence so far."""

    zones: set[Zone] = field(default_factory=set)
    negated: set[Zone] = field(default_factory=set)
    count: int | None = None
    lateral: str | None = None
    size: str | None = None
    denied: bool = False
    found: bool = False
    warnings: list[str] = field(default_factory=list)

    def warn(self, code: str) -> None:
        if code not in self.warnings:
            self.warnings.append(code)


@lru_cache(maxsize=65536)
def parse(sentence: str, grammar: str = "auto", laterality: Laterality = Laterality.UNKNOWN) -> Statement:
    """What a sentence claims. Never fails: what is not understood is left out and named in `warnings`.

    Args:
        sentence: any text.
        grammar: one of `GRAMMARS`; `auto` chooses by the words. MosMedData+ is read as such only when named, since its
            captions look like QaTa's: there a bare "left lung" means that the lung is *not* affected.
        laterality: whose left "left" is; recorded, and changes nothing else.
    """
    if grammar != "auto":
        choose("grammar", grammar, GRAMMARS)
    reading = _Reading()
    text, hidden = clean(sentence)
    for code, present in (("too_long", len(sentence) > MAX_LENGTH), ("control_characters", hidden)):
        if present:
            reading.warn(code)
    if not text:
        reading.warn("empty_text")
        return Statement(laterality=laterality, warnings=tuple(reading.warnings))
    words = split_words(text)
    name = _recognise(words) if grammar == "auto" else grammar
    if name in ("qata", "mosmed"):
        repaired = [part for word in words for part in repair(word).split()]
        if repaired != words and any(word not in ("inf", "bilat", "unilat") for word in set(words) - set(repaired)):
            reading.warn("repaired_typo")
        _read_captions(repaired, reading, mosmed=name == "mosmed")
    elif name == "polyp":
        _read_polyps(words, reading)
    elif name == "nuclei":
        _read_nuclei(words, reading)
    else:
        _read_report(words, reading)
    return _state(reading, name, laterality)


def explain(statement: Statement) -> list[str]:
    """The warnings of a statement as sentences."""
    return [WARNINGS[code] for code in statement.warnings]


def _recognise(words: list[str]) -> str:
    """The grammar of a sentence; anything that is no known caption is read as a report sentence."""
    present = {part for word in words for part in repair(word).split()}
    if present & {"polyp", "polyps"}:
        return "polyp"
    if present & {"nuclei", "nucleus"}:
        return "nuclei"
    if "infected" in present or ("pulmonary" in present and "infection" in present):
        return "qata"
    plain = [word for word in words if word not in (",", ".", ";")]
    if plain and plain[-1] == "lung" and (plain[0] == "all" or plain[0] in LEVELS or plain[0] in SIDES):
        return "qata"  # the place alone: "lower left lung"
    return "report"


def _state(reading: _Reading, name: str, laterality: Laterality) -> Statement:
    """Draw the conclusions of a reading and check it against itself."""
    zones = frozenset(reading.zones)
    sides = {side for side, _ in zones}
    absent = reading.denied and not zones
    if zones and (reading.count == 0 or (reading.denied and name in ("qata", "mosmed"))):
        reading.warn("contradiction_count")
    one_sided = {"unilateral": {Side.LEFT, Side.RIGHT} <= sides, "bilateral": bool(sides) and len(sides) == 1}
    if reading.lateral and one_sided[reading.lateral]:
        reading.warn("contradiction_lateral")
    if zones & reading.negated:
        reading.warn("contradiction_negation")
    understood = bool(zones or reading.negated or absent or reading.count is not None or reading.lateral)
    if not (understood or reading.found):
        reading.warn("nothing_parsed")
    return Statement(
        zones=zones,
        count=0 if absent and name in ("qata", "mosmed") else reading.count,
        lateral=reading.lateral,
        absent=absent,
        negated=frozenset(reading.negated),
        size=reading.size,
        laterality=laterality,
        grammar=name if understood or reading.found else "",
        warnings=tuple(reading.warnings),
    )


def _read_common(words: list[str], reading: _Reading) -> None:
    """Number of findings, uni- or bilateral, size."""
    for i, word in enumerate(words):
        number = NUMBERS.get(word, int(word) if word.isdecimal() and len(word) < 4 else None)
        nouns = {"area", "areas", "polyp", "polyps", "lesion", "lesions", "opacities", "nodules"}
        if number is not None and reading.count is None and nouns & set(words[i + 1 : i + 6]):
            reading.count = number
        if word in ("unilateral", "bilateral") and reading.lateral is None:
            reading.lateral = word
        if word in ("small", "medium", "large") and reading.size is None:
            reading.size = word


def _parts(words: Iterable[str], marks: tuple[str, ...]) -> list[list[str]]:
    """Cut a list of words at the given words."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in marks:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _read_captions(words: list[str], reading: _Reading, mosmed: bool) -> None:
    """QaTa and MosMedData+: "... , two infected areas, upper middle left lung and all right lung."."""
    _read_common(words, reading)
    reading.denied = "no" in words and "infection" in words
    named: list[tuple[Side | None, frozenset[Level]]] = []
    for part in _parts(words, ("and", ",", ".", ";")):
        sides = [SIDES[word] for word in part if word in SIDES]
        if not sides and not set(part) & set(LUNGS):
            continue
        levels = frozenset(LEVELS[word] for word in part if word in LEVELS)
        if not levels and "all" in part:
            levels = ALL
        if not levels:
            if mosmed:  # a bare lung is not affected
                continue
            reading.warn("missing_level")
            levels = ALL
        named += [(side, levels) for side in sides] or [(None, levels)]
    for i, (side, levels) in enumerate(named):
        if side is None:
            reading.warn("missing_side")
            others = {other for j, (other, _) in enumerate(named) if j != i and other is not None}
            both = reading.lateral == "bilateral"
            inferred = {Side.LEFT, Side.RIGHT} - others if both else others
            reading.zones |= {(s, level) for s in inferred for level in levels}
        else:
            reading.zones |= {(side, level) for level in levels}


def _read_polyps(words: list[str], reading: _Reading) -> None:
    """Polyp prompts: "... on the top left." and "..., located in top left, bottom of the image"; one cell a place.

    A side alone is that side at middle height, a level alone its centre: the prompts were made from the centre of the
    polyp's box in a 3 x 3 grid.
    """
    _read_common(words, reading)
    reading.found = True
    many = "many" in words
    reading.count = None if many else reading.count
    if reading.count is None and not many and "polyp" in words:
        reading.count = 1
    for sentence in _parts(words, (".", ";")):
        start = next((i for i, w in enumerate(sentence) if w in ("on", "in", "located")), None)
        tail = sentence[start:] if start is not None else sentence
        for part in _parts(tail, (",", "and")):
            zone = _cell(part)
            if zone is not None:
                reading.zones.add(zone)


def _cell(words: list[str]) -> Zone | None:
    """The one cell of the 3 x 3 grid that words such as "top left", "center" or "middle right" mean."""
    sides = [SIDES[w] for w in words if w in SIDES and SIDES[w] is not Side.CENTER]
    levels = [LEVELS[w] for w in words if w in LEVELS and LEVELS[w] is not Level.MIDDLE]
    central = any(w in ("center", "centre", "central", "middle") for w in words)
    if not (sides or levels or central):
        return None
    return (sides[0] if sides else Side.CENTER, levels[0] if levels else Level.MIDDLE)


def _read_nuclei(words: list[str], reading: _Reading) -> None:
    """Nuclei prompts: "... density in the upper left is high."; a half is three cells, a quadrant its corner."""
    reading.found = True
    sides = [SIDES[w] for w in words if w in SIDES]
    levels = [LEVELS[w] for w in words if w in LEVELS]
    if sides or levels:
        reading.zones |= {(side, level) for side in sides or list(Side) for level in levels or list(Level)}


def _read_report(words: list[str], reading: _Reading) -> None:
    """Plain report sentences, clause by clause: "patchy opacity in the left lower lobe, right lung is clear"."""
    _read_common(words, reading)
    for clause in _parts(words, (".", ";", "but", "however", "while", "whereas")):
        pieces = _parts(clause, (",",))
        merged: list[list[str]] = []
        for piece in pieces:  # a comma only ends a clause when what follows speaks for itself
            own = set(piece) & {*BEFORE, *AFTER, *FINDINGS}
            if merged and not own:
                merged[-1] += ["and", *piece]
            else:
                merged.append(list(piece))
        for piece in merged:
            _read_clause(piece, reading)


def _read_clause(words: list[str], reading: _Reading) -> None:
    cut = next((i for i, w in enumerate(words) if w in BEFORE), len(words))
    free = bool(set(words[:cut]) & set(AFTER))
    zones = _report_zones(words[:cut], reading)
    (reading.negated if free else reading.zones).update(zones)
    reading.found |= bool(zones) or (bool(set(words[:cut]) & set(FINDINGS)) and not free)
    if free and not zones:
        reading.denied = True
    if cut < len(words):
        denied = _report_zones(words[cut:], reading)
        reading.negated |= denied
        reading.denied |= bool(set(words[cut:]) & set(FINDINGS)) and not zones


def _report_zones(words: list[str], reading: _Reading) -> set[Zone]:
    """Zones of a clause; side and level are shared across "and": "left upper and lower lobes"."""
    zones = {zone for word in words for zone in ABBREVIATIONS.get(word, ())}
    found: list[tuple[list[Side], list[Level], bool]] = []
    for part in _parts(words, ("and", "&", "or")):
        sides = [SIDES[w] for w in part if w in SIDES and SIDES[w] is not Side.CENTER]
        if set(part) & {"bilateral", "both", "bilaterally"}:
            sides = [Side.LEFT, Side.RIGHT]
        if "lungs" in part and not sides:
            sides = [Side.LEFT, Side.RIGHT]
        levels = [LEVELS[w] for w in part if w in LEVELS]
        if sides or levels:
            found.append((sides, levels, bool(set(part) & set(LUNGS)) or "bilateral" in part))
    for i, (sides, levels, whole) in enumerate(found):
        before, after = found[:i][::-1], found[i + 1 :]
        if not sides:
            sides = next((s for s, _, _ in before + after if s), [])
        if not levels:
            borrowed = [] if whole else next((lv for _, lv, _ in after if lv), [])
            levels = borrowed or list(Level)
        if not sides and any(word in PLACES for word in words):
            reading.warn("missing_side")
            sides = [Side.LEFT, Side.RIGHT]
        zones |= {(side, level) for side in sides for level in levels}
    return zones
