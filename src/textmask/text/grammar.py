"""The field's sentences as statements: chest captions, polyp, nuclei and lesion prompts, plain report sentences."""

from __future__ import annotations

from functools import lru_cache

from textmask.errors import choose
from textmask.statement import LUNG_ZONES, Laterality, Level, Side, Statement, Zone
from textmask.text.report_grammar import (
    ABBREVIATIONS,
    BEFORE,
    BOTH,
    FINDINGS,
    LUNGS,
    NOUNS,
    OTHER,
    Reading,
    cut_at,
    read_common,
    read_report,
)
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

GRAMMARS = ("qata", "mosmed", "polyp", "nuclei", "lesion", "report")
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
SHORT = {
    "lt": "left",
    "rt": "right",
    "bilat": "bilateral",
    "unilat": "unilateral",
    "bilaterally": "bilateral",
}
SHORT |= {"pulm": "pulmonary"}
DOTTED = frozenset("lt rt l r bilat unilat inf pulm".split())
# words that are told apart again when the space between two of them is missing
JOINED = frozenset(
    "left right center upper middle mid lower top bottom all lung lungs lobe lobes zone zones area areas infected "
    "sided side".split()
)
# place words that are repaired in free text, and the real words that are one letter away from them
FREE = frozenset("right upper middle lower bottom center bilateral".split())
REAL = NOT_TYPOS | frozenset(
    "fright rights enter blower lowers lowed mower muddle meddle upped centers".split()
)
# a caption has none of these words, so a sentence that has one is read as a report
PROSE = frozenset(
    "the is are in of with without clear normal free lobe lobes base bases apex".split()
)


@lru_cache(maxsize=65536)
def parse(
    sentence: str, grammar: str = "auto", laterality: Laterality = Laterality.UNKNOWN
) -> Statement:
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
    reading = Reading()
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
    if grammar == "auto" and name in ("qata", "report") and (found := _caption_apart(mended)):
        caption, rest = found
        _read_captions(caption, reading, mosmed=False)
        read_report(rest, reading)
        name = "report"
    elif name in ("qata", "mosmed"):
        _read_captions(mended, reading, mosmed=name == "mosmed")
    else:
        readers = {
            "polyp": _read_polyps,
            "lesion": _read_polyps,
            "nuclei": _read_nuclei,
            "report": read_report,
        }
        readers[name](mended, reading)
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
        if word in ("l", "r") and (
            following in NOUNS or following in LEVELS or following == "sided"
        ):
            out.append("left" if word == "l" else "right")
        elif (
            word == "inf"
        ):  # inferior before a place, infected before its areas, infection elsewhere
            areas = following in ("area", "areas")
            out.append("lower" if following in NOUNS else "infected" if areas else "infection")
        else:
            out.append(SHORT.get(word, word))
    return out


def mend(words: list[str], chest: bool) -> list[str]:
    """Misspelt words as they were meant: any word of the captions there, only words of place in free text."""
    out: list[str] = []
    for i, word in enumerate(words):
        following = next(iter(words[i + 1 : i + 2]), "")
        fixed = repair(word)
        number = fixed in NUMBERS and following not in (
            "infected",
            "area",
            "areas",
        )  # "there" is not "three"
        if glued := _unglued(word):
            out += glued
        elif (
            word in TYPOS
            or (chest and not number)
            or (fixed == "left" and sorted(word) == sorted(fixed))
        ):
            out += fixed.split()
        else:
            near = [known for known in FREE if one_edit_apart(word, known)] if len(word) > 4 else []
            out.append(
                near[0]
                if len(near) == 1 and word not in REAL and word not in SIDES and not chest
                else word
            )
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
    if (
        present & {"lesion", "lesions"} and "image" in present and not present & NOUNS
    ):  # "... in top left of the image"
        return "lesion"
    caption = "infected" in present or {"pulmonary", "infection"} <= present
    # "lower left lung"
    place_alone = {"lung"} < present <= {*SIDES, *LEVELS, "all", "lung", "and"}
    return "qata" if (caption and not present & PROSE) or place_alone else "report"


def _caption_apart(words: list[str]) -> tuple[list[str], list[str]] | None:
    """The caption, and what a report says before or after it: "..., lower left lung. No pleural effusion."."""
    sentences = cut_at(words, (".", ";"))
    speaks = FINDINGS | OTHER | PROSE | BEFORE
    other = [i for i, s in enumerate(sentences) if _recognise(s) == "report" and speaks & set(s)]
    if not other or not any(_recognise(s) == "qata" for s in sentences):
        return None
    caption, rest = (
        [word for i, s in enumerate(sentences) if (i in other) is told for word in (*s, ".")]
        for told in (False, True)
    )
    return caption, rest


def _state(reading: Reading, name: str, laterality: Laterality) -> Statement:
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
    understood = bool(
        zones or reading.negated or absent or reading.count is not None or reading.lateral
    )
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


def _read_captions(words: list[str], reading: Reading, mosmed: bool) -> None:
    """QaTa and MosMedData+: "... , two infected areas, upper middle left lung and all right lung."."""
    read_common(words, reading)
    reading.denied = "no" in words and "infection" in words
    reading.found = not reading.denied and bool({"infection", "infected"} & set(words))
    reading.zones |= {zone for word in words for zone in ABBREVIATIONS.get(word, ())}
    named: list[tuple[Side | None, frozenset[Level]]] = []
    for phrase in cut_at(words, (",", ".", ";")):
        named += _caption_places(cut_at(phrase, ("and",)), reading, mosmed)
    for i, (side, levels) in enumerate(named):
        sides = frozenset({side}) if side else BOTH
        if side is None:
            reading.warn("missing_side")
            others = frozenset(
                other for j, (other, _) in enumerate(named) if j != i and other is not None
            )
            unknown = BOTH if reading.lateral is None else frozenset[Side]()
            sides = BOTH - others if reading.lateral == "bilateral" else others or unknown
        reading.zones |= {(s, level) for s in sides for level in levels}


def _caption_places(
    parts: list[list[str]], reading: Reading, mosmed: bool
) -> list[tuple[Side | None, frozenset[Level]]]:
    """The sides (None where missing) and levels of "upper left lung and right lung"."""
    named: list[tuple[Side | None, frozenset[Level]]] = []
    places = [
        part
        for part in parts
        if SIDES.keys() & part or (LUNGS & set(part) and _caption_levels(part))
    ]
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


def _read_polyps(words: list[str], reading: Reading) -> None:
    """Polyp and lesion prompts: "... on the top left.", "..., located in top left of the image"; one cell a place.

    A side alone is that side at middle height, a level alone its centre: in Kvasir-SEG the centres of the boxes of
    322 of the 323 single polyps "in right" or "in left" lie in the middle third of the height, and those of 142 of
    the 147 "in top" or "in bottom" in the middle third of the width.
    """
    read_common(words, reading)
    one, some = {"polyp", "lesion"}, {"polyps", "lesions"}
    if any(
        word in BEFORE and (one | some) & set(words[i + 1 : i + 4]) for i, word in enumerate(words)
    ):
        reading.denied = True
        return
    reading.found = True
    if "many" in words:
        reading.count = None
    elif reading.count is None and one & set(words):
        reading.count = 1
    for sentence in cut_at(words, (".", ";")):
        start = next((i for i, w in enumerate(sentence) if w in ("on", "in", "located")), 0)
        cells = [_cell(part) for part in cut_at(sentence[start:], (",", "and"))]
        reading.zones |= {zone for zone in cells if zone is not None}


def _cell(words: list[str]) -> Zone | None:
    """The one cell of the 3 x 3 grid that words such as "top left", "center" or "middle right" mean."""
    sides = [SIDES[w] for w in words if w in SIDES and SIDES[w] is not Side.CENTER]
    levels = [LEVELS[w] for w in words if w in LEVELS and LEVELS[w] is not Level.MIDDLE]
    central = any(w in ("center", "centre", "central", "middle") for w in words)
    if not (sides or levels or central):
        return None
    return (sides[0] if sides else Side.CENTER, levels[0] if levels else Level.MIDDLE)


def _read_nuclei(words: list[str], reading: Reading) -> None:
    """Nuclei prompts: "... density in the upper left is high."; a half is three cells, a quadrant its corner."""
    reading.found = True
    for part in cut_at(words, (",", ".", ";", "and")):
        sides = [SIDES[w] for w in part if w in SIDES]
        levels = [LEVELS[w] for w in part if w in LEVELS]
        if sides or levels:
            reading.zones |= {
                (side, level) for side in sides or list(Side) for level in levels or list(Level)
            }
