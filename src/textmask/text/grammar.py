"""The field's sentences as statements: chest captions, polyp and nuclei prompts, plain report sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from textmask.errors import choose
from textmask.text.statement import LUNG_ZONES, Level, Side, Statement, Zone
from textmask.text.words import (
    LEVELS,
    MAX_LENGTH,
    NOT_TYPOS,
    NUMBERS,
    SIDES,
    TYPOS,
    clean,
    one_edit_apart,
    repair,
    split_words,
)
from textmask.types import Laterality

GRAMMARS = ("qata", "mosmed", "polyp", "nuclei", "report")
WARNINGS = {
    "empty_text": "the sentence is empty",
    "too_long": f"only the first {MAX_LENGTH} characters were read",
    "control_characters": "control, zero-width or direction characters were ignored",
    "nothing_parsed": "no place or finding was understood; a text-guided mask may be meaningless",
    "repaired_typo": "a misspelt word was read as the nearest word of the captions",
    "contradiction_lateral": "unilateral or bilateral contradicts the sides that are named",
    "contradiction_count": "the number of findings contradicts the places that are named",
    "contradiction_negation": "the same place is said to be affected and free",
    "missing_side": "a lung is named without its side; the side was inferred from the rest",
    "missing_level": "a lung is named without upper, middle or lower; all of it was assumed",
}
ALL = frozenset(Level)
BOTH = frozenset({Side.LEFT, Side.RIGHT})
LUNGS = frozenset("lung lungs hemithorax".split())
# plural nouns mean both lungs when no side is named, singular ones leave the side open
PLURALS = frozenset("lobes zones fields bases apices hila lungs midzones".split())
NOUNS = (
    LUNGS
    | PLURALS
    | frozenset("lobe zone field region base apex perihilar hilum basal basilar apical midlung midzone".split())
)
REPORT_LEVELS = {
    **LEVELS,
    **dict.fromkeys(("hilum", "hila", "midlung", "midzone", "midzones"), Level.MIDDLE),
    **dict.fromkeys(("costophrenic", "infrahilar"), Level.LOWER),
    "suprahilar": Level.UPPER,
}
ABBREVIATIONS = {
    **{f"r{v.value[0]}{k}": ((Side.RIGHT, v),) for v in Level for k in "lz"},
    **{f"l{v.value[0]}{k}": ((Side.LEFT, v),) for v in Level for k in "lz"},
    **dict.fromkeys(("lingula", "lingular"), ((Side.LEFT, Level.MIDDLE),)),
    **dict.fromkeys(("bibasilar", "bibasal"), ((Side.LEFT, Level.LOWER), (Side.RIGHT, Level.LOWER))),
    "biapical": ((Side.LEFT, Level.UPPER), (Side.RIGHT, Level.UPPER)),
}
SHORT = {"lt": "left", "rt": "right", "bilat": "bilateral", "unilat": "unilateral", "bilaterally": "bilateral"}
DOTTED = frozenset("lt rt l r bilat unilat inf".split())
# words that are told apart again when the space between two of them is missing
JOINED = frozenset(
    "left right center upper middle mid lower top bottom all lung lungs lobe lobes zone zones area areas infected "
    "sided side".split()
)
# place words that are repaired in free text, and the real words that are one letter away from them
FREE = frozenset("right upper middle lower bottom center bilateral".split())
REAL = NOT_TYPOS | frozenset("fright rights enter blower lowers lowed mower muddle meddle upped centers".split())
# a caption has none of these words, so a sentence that has one is read as a report
PROSE = frozenset("the is are in of with without clear normal free lobe lobes base bases apex".split())
FINDINGS = frozenset(
    "opacity opacities infiltrate infiltrates infiltration consolidation consolidations pneumonia infection infected "
    "effusion effusions lesion lesions nodule nodules mass masses shadowing airspace atelectasis disease finding "
    "findings abnormality abnormalities pneumothorax edema oedema collapse density densities".split()
)
PLEURAL = frozenset("pleural effusion effusions pneumothorax".split())
# anatomy beside the lungs: its side is not a place in a lung, and its being normal says nothing of the lungs
OTHER = frozenset(
    "heart cardiac cardiomediastinal silhouette mediastinum mediastinal aorta aortic atrium atrial ventricle rib ribs "
    "bones osseous shoulder clavicle catheter picc port tube pacemaker jugular subclavian".split()
)
BEFORE = frozenset("no without denies negative not".split())
AFTER = frozenset("clear normal unremarkable unaffected spared resolved cleared free".split())
EXCEPT = frozenset("except excepting sparing spares apart aside".split())
CHANGE = frozenset("change changes changed improvement worsening longer only".split())


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

    Raises:
        ConfigError: unknown grammar.
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
    words = _spelled_out(split_words(text))
    name = _recognise(words) if grammar == "auto" else grammar
    mended = mend(words, chest=name in ("qata", "mosmed"))
    if mended != words:
        reading.warn("repaired_typo")
    if name in ("qata", "mosmed"):
        _read_captions(mended, reading, mosmed=name == "mosmed")
    else:
        {"polyp": _read_polyps, "nuclei": _read_nuclei, "report": _read_report}[name](mended, reading)
    return _state(reading, name, laterality)


def explain(statement: Statement) -> list[str]:
    """The warnings of a statement as sentences."""
    return [WARNINGS[code] for code in statement.warnings]


def _spelled_out(words: list[str]) -> list[str]:
    """Abbreviations in full and without their full stop: "Rt. base", "L lower lobe", "bilat.", "inf."."""
    out: list[str] = []
    for i, word in enumerate(words):
        following = next((w for w in words[i + 1 : i + 3] if w != "."), "")
        if word == "." and i and words[i - 1] in DOTTED:
            continue
        if word in ("l", "r") and (following in NOUNS or following in LEVELS or following == "sided"):
            out.append("left" if word == "l" else "right")
        elif word == "inf":  # inferior before a place, infection elsewhere
            out.append("lower" if following in NOUNS else "infection")
        else:
            out.append(SHORT.get(word, word))
    return out


def mend(words: list[str], chest: bool) -> list[str]:
    """Misspelt words as they were meant: any word of the captions there, only words of place in free text."""
    out: list[str] = []
    for i, word in enumerate(words):
        following = next(iter(words[i + 1 : i + 2]), "")
        fixed = repair(word)
        number = fixed in NUMBERS and following not in ("infected", "area", "areas")  # "there" is not "three"
        if glued := _unglued(word):
            out += glued
        elif word in TYPOS or (chest and not number) or (fixed == "left" and sorted(word) == sorted(fixed)):
            out += fixed.split()
        else:
            near = [known for known in FREE if one_edit_apart(word, known)] if len(word) > 4 else []
            out.append(near[0] if len(near) == 1 and word not in REAL and word not in SIDES and not chest else word)
    return out


def _unglued(word: str) -> list[str]:
    """Two words of place that lost the space between them."""
    if word in NOUNS:
        return []
    cuts = (cut for cut in range(3, len(word) - 2) if word[:cut] in JOINED and word[cut:] in JOINED)
    return next(([word[:cut], word[cut:]] for cut in cuts), [])


def _recognise(words: list[str]) -> str:
    """The grammar of a sentence; anything that is no known caption is read as a report sentence."""
    present = set(mend(words, chest=True)) - {",", ".", ";"}
    if present & {"polyp", "polyps"}:
        return "polyp"
    if present & {"nuclei", "nucleus"}:
        return "nuclei"
    caption = "infected" in present or {"pulmonary", "infection"} <= present
    # "lower left lung"
    place_alone = {"lung"} < present <= {*SIDES, *LEVELS, "all", "lung", "and"}
    return "qata" if (caption and not present & PROSE) or place_alone else "report"


def _state(reading: _Reading, name: str, laterality: Laterality) -> Statement:
    """Draw the conclusions of a reading and check it against itself."""
    zones = frozenset(reading.zones)
    sides = {side for side, _ in zones}
    absent = not zones and (reading.denied or reading.negated >= set(LUNG_ZONES))
    caption = name in ("qata", "mosmed")
    few = reading.count is not None and reading.count < (len(sides) if caption else 1)
    if zones and (few or (reading.denied and caption)):
        reading.warn("contradiction_count")
    one_sided = {"unilateral": sides >= BOTH, "bilateral": len(sides) == 1}
    if reading.lateral and one_sided[reading.lateral]:
        reading.warn("contradiction_lateral")
    if zones & reading.negated:
        reading.warn("contradiction_negation")
    understood = bool(zones or reading.negated or absent or reading.count is not None or reading.lateral)
    if not (understood or reading.found):
        reading.warn("nothing_parsed")
    return Statement(
        zones=zones,
        count=0 if absent and name != "report" else reading.count,
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
    nouns = {"area", "areas", "polyp", "polyps", "lesion", "lesions", "opacities", "nodules"}
    for i, word in enumerate(words):
        number = NUMBERS.get(word, int(word) if word.isdecimal() and len(word) < 4 else None)
        if number is not None and reading.count is None and nouns & set(words[i + 1 : i + 6]):
            reading.count = number
        if word in ("unilateral", "bilateral") and reading.lateral is None:
            reading.lateral = word
        # "polyp which is a small lump ..." defines a polyp and does not measure this one
        if word in ("small", "medium", "large") and reading.size is None and "which" not in words[:i]:
            reading.size = word


def _parts(words: Iterable[str], marks: Collection[str]) -> list[list[str]]:
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
    reading.found = not reading.denied and bool({"infection", "infected"} & set(words))
    named: list[tuple[Side | None, frozenset[Level]]] = []
    for phrase in _parts(words, (",", ".", ";")):
        named += _caption_places(_parts(phrase, ("and",)), reading, mosmed)
    for i, (side, levels) in enumerate(named):
        sides = frozenset({side}) if side else BOTH
        if side is None:
            reading.warn("missing_side")
            others = frozenset(other for j, (other, _) in enumerate(named) if j != i and other is not None)
            unknown = BOTH if reading.lateral is None else frozenset[Side]()
            sides = BOTH - others if reading.lateral == "bilateral" else others or unknown
        reading.zones |= {(s, level) for s in sides for level in levels}


def _caption_places(
    parts: list[list[str]], reading: _Reading, mosmed: bool
) -> list[tuple[Side | None, frozenset[Level]]]:
    """The sides (None where missing) and levels of "upper left lung and right lung"."""
    named: list[tuple[Side | None, frozenset[Level]]] = []
    places = [part for part in parts if SIDES.keys() & part or (LUNGS & set(part) and _caption_levels(part))]
    levels_of = [_caption_levels(part) for part in places]
    one_noun = any(not LUNGS & set(part) for part in places)  # "lower left and right lung"
    for part, levels in zip(places, levels_of, strict=True):
        if not levels and mosmed:  # a bare lung is not affected
            continue
        if not levels and one_noun:
            levels = next((other for other in levels_of if other), levels)
        if not levels:
            reading.warn("missing_level")
        sides: list[Side | None] = [SIDES[word] for word in part if word in SIDES]
        named += [(side, levels or ALL) for side in sides or [None]]
    return named


def _caption_levels(words: list[str]) -> frozenset[Level]:
    levels = frozenset(LEVELS[word] for word in words if word in LEVELS)
    return levels or (ALL if "all" in words else levels)


def _read_polyps(words: list[str], reading: _Reading) -> None:
    """Polyp prompts: "... on the top left." and "..., located in top left, bottom of the image"; one cell a place.

    A side alone is that side at middle height, a level alone its centre: in Kvasir-SEG the centres of the boxes of
    322 of the 323 single polyps "in right" or "in left" lie in the middle third of the height, and those of 142 of
    the 147 "in top" or "in bottom" in the middle third of the width.
    """
    _read_common(words, reading)
    if any(word in BEFORE and {"polyp", "polyps"} & set(words[i + 1 : i + 4]) for i, word in enumerate(words)):
        reading.denied = True
        return
    reading.found = True
    if "many" in words:
        reading.count = None
    elif reading.count is None and "polyp" in words:
        reading.count = 1
    for sentence in _parts(words, (".", ";")):
        start = next((i for i, w in enumerate(sentence) if w in ("on", "in", "located")), 0)
        cells = [_cell(part) for part in _parts(sentence[start:], (",", "and"))]
        reading.zones |= {zone for zone in cells if zone is not None}


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
    for part in _parts(words, (",", ".", ";", "and")):
        sides = [SIDES[w] for w in part if w in SIDES]
        levels = [LEVELS[w] for w in part if w in LEVELS]
        if sides or levels:
            reading.zones |= {(side, level) for side in sides or list(Side) for level in levels or list(Level)}


def _read_report(words: list[str], reading: _Reading) -> None:
    """Plain report sentences, clause by clause: "patchy opacity in the left lower lobe, right lung is clear"."""
    _read_common(words, reading)
    for sentence in _parts(words, (".", ";", "but", "however", "while", "whereas", "although")):
        clauses: list[list[str]] = []
        for piece in _parts(sentence, (",",)):  # a comma only ends a clause when what follows speaks for itself
            speaks = set(piece) & (BEFORE | AFTER | FINDINGS | EXCEPT)
            if clauses and (not speaks or set(piece) <= AFTER | EXCEPT | {"is", "are"} or piece[0] in EXCEPT):
                clauses[-1] += piece if speaks else ["and", *piece]
            else:
                clauses.append(list(piece))
        for clause in clauses:
            for part in _by_polarity(clause):
                _read_clause(part, reading)


def _by_polarity(words: list[str]) -> list[list[str]]:
    """Cut "opacity in the left base and the right lung is clear" in two; clauses of one polarity stay whole."""
    for i, word in enumerate(words):
        first, second = set(words[:i]), set(words[i + 1 :])
        turns = (first & FINDINGS and not first & (AFTER | BEFORE) and second & AFTER) or (
            first & AFTER and second & FINDINGS and not second & AFTER
        )
        if word in ("and", "with") and turns and not (first | second) & EXCEPT:
            return [words[:i], *_by_polarity(words[i + 1 :])]
    return [words]


def _read_clause(words: list[str], reading: _Reading) -> None:
    # "no change in" and "not only" deny nothing
    words = [w for i, w in enumerate(words) if not (w in BEFORE and CHANGE & set(words[i + 1 : i + 4]))]
    end = next((i for i, w in enumerate(words) if w in EXCEPT), len(words))
    cut = next((i for i, w in enumerate(words[:end]) if w in BEFORE), end)
    subject, denied = set(words[:cut]), set(words[cut:end])
    zones = _report_zones(words[:cut], reading)
    negated = _report_zones(words[cut:end], reading)
    free = bool(subject & AFTER)
    if zones and not negated and denied & FINDINGS and not subject & FINDINGS:
        free = True  # "the left lung shows no opacity"
    if denied & PLEURAL:
        negated -= reading.zones | zones  # "no right effusion" does not free the opacity beside it
    (reading.negated if free else reading.zones).update(zones)
    reading.negated |= negated
    reading.found |= bool(zones) or (bool(subject & FINDINGS) and not free)
    reading.denied |= free and not zones and not subject & OTHER
    reading.denied |= bool(denied & FINDINGS) and not (zones or negated)
    _read_exception(words[end:], zones | negated, free or cut < end, reading)


def _read_exception(words: list[str], head: set[Zone], free: bool, reading: _Reading) -> None:
    """What is excepted is the opposite of the rest: "lungs clear except for the left base", "... sparing the apex"."""
    zones = _report_zones(words, reading, {side for side, _ in head})
    gained, lost = (reading.zones, reading.negated) if free else (reading.negated, reading.zones)
    gained |= zones
    lost -= zones


def _report_zones(words: list[str], reading: _Reading, known: Collection[Side] = ()) -> set[Zone]:
    """Zones of a clause; side and level are shared across "and": "left upper and lower lobes".

    Args:
        words: of one clause.
        reading: takes the warnings.
        known: sides that are understood when none is named.
    """
    zones = {zone for word in words for zone in ABBREVIATIONS.get(word, ())}
    parts = [part for part in _parts(words, ("and", "or")) if NOUNS & set(part) or not OTHER & set(part)]
    found = [(part, *_sides_and_levels(part)) for part in parts]
    found = [entry for entry in found if entry[1] or entry[2]]
    for i, (part, sides, levels) in enumerate(found):
        before, after = found[:i][::-1], found[i + 1 :]
        if not sides:
            sides = next((s for _, s, _ in before + after if s), list(known))
        if not levels and not {"bilateral", "lungs"} & set(part):
            # "left and right lower lobes", "lower left and right lung": one noun, so one level
            shares = [lv for _, _, lv in after if lv] if not LUNGS & set(part) else []
            shares += [lv for other, _, lv in before[:1] if lv and not NOUNS & set(other)]
            levels = shares[0] if shares else levels
        if not sides and NOUNS & set(words):
            sides = sorted(BOTH)
            if not PLURALS & set(words):
                reading.warn("missing_side")
        zones |= {(side, level) for side in sides for level in levels or list(Level)}
    return zones


def _sides_and_levels(words: list[str]) -> tuple[list[Side], list[Level]]:
    sides = [SIDES[w] for w in words if w in SIDES and SIDES[w] is not Side.CENTER]
    if not sides and {"bilateral", "both", "lungs"} & set(words):
        sides = sorted(BOTH)
    return sides, [REPORT_LEVELS[w] for w in words if w in REPORT_LEVELS]
