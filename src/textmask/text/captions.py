"""Readers of the published captions: QaTa-COV19 and MosMedData+, polyps and lesions, nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from textmask.statement import Finding, Level, Side, Zone
from textmask.text.lexicon import BOTH, lexicon, term_of
from textmask.text.places import ALL
from textmask.text.report_grammar import Reading, cut_at, read_common
from textmask.text.tokens import LETTERS
from textmask.text.words import LEVELS, NOT_TYPOS, NUMBERS, SIDES, TYPOS, one_edit_apart, repair

SHORT = {
    "lt": "left",
    "rt": "right",
    "bilat": "bilateral",
    "unilat": "unilateral",
    "bilaterally": "bilateral",
}
SHORT |= {"pulm": "pulmonary"}
_ABBREVIATED = {*SHORT, *LETTERS, "inf"}
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
LUNGS = frozenset("lung lungs hemithorax".split())
# a caption has none of these words, so a sentence that has one is read as a report
PROSE = frozenset(
    "the is are in of with without clear normal free lobe lobes base bases apex".split()
)
# what polyp and lesion prompts are about, one and several
ONE = frozenset("polyp lesion tumor tumour ulcer melanoma wound".split())
SOME = frozenset("polyps lesions tumors tumours ulcers melanomas wounds".split())
_COUNTS = frozenset(NUMBERS) | frozenset("a an the small medium large colonic tiny big".split())
_DENIALS = frozenset("no without not denies negative".split())


def spelled_out(words: Sequence[str]) -> list[str]:
    """Abbreviations in full: "Lt. base", "L lower lobe", "bilat.", "inf."."""
    out: list[str] = []
    for i, word in enumerate(words):
        if word not in _ABBREVIATED:
            out.append(word)
            continue
        following = next((w for w in words[i + 1 : i + 3] if w != "."), "")
        term = term_of(following)
        if word in LETTERS:
            place = (term is not None and term.role in ("lung", "level")) or following == "sided"
            out.append(LETTERS[word] if place else word)
        elif word == "inf":
            areas = following in ("area", "areas")
            lung = term is not None and term.role == "lung"
            out.append("lower" if lung else "infected" if areas else "infection")
        else:
            out.append(SHORT[word])
    return out


def mend(words: Sequence[str], chest: bool) -> list[str]:
    """Misspelled words as they were meant: any word of the captions there, only words of place in free text."""
    out: list[str] = []
    for i, word in enumerate(words):
        fixed = _mend_caption(word, chest)
        # "there" is not "three"
        counts = (
            fixed == (word,)
            or fixed[0] not in NUMBERS
            or words[i + 1 : i + 2][:1] in (["infected"], ["area"], ["areas"])
        )
        out += fixed if counts else (word,)
    return out


@lru_cache(maxsize=8192)
def _mend_caption(word: str, chest: bool) -> tuple[str, ...]:
    """One word as it was meant, two where a space is missing."""
    if word in SIDES or word in LEVELS:
        return (word,)
    if glued := _unglued(word):
        return tuple(glued)
    fixed = repair(word)
    if word in TYPOS or chest or (fixed == "left" and sorted(word) == sorted(fixed)):
        return tuple(fixed.split())
    near = [known for known in FREE if one_edit_apart(word, known)] if len(word) > 4 else []
    return (near[0] if len(near) == 1 and word not in REAL else word,)


def _unglued(word: str) -> list[str]:
    """Two words of place that lost the space between them."""
    if len(word) < 6 or word in lexicon():
        return []
    cuts = (cut for cut in range(3, len(word) - 2) if word[:cut] in JOINED and word[cut:] in JOINED)
    return next(([word[:cut], word[cut:]] for cut in cuts), [])


def recognize_caption(words: Sequence[str]) -> str:
    """The caption grammar of mended words, "" where they are no known caption."""
    present = set(words) - {",", ".", ";"}
    if present & {"polyp", "polyps"}:
        return "polyp"
    if present & {"nuclei", "nucleus"}:
        return "nuclei"
    caption = "infected" in present or {"pulmonary", "infection"} <= present
    place_alone = {"lung"} < present <= {*SIDES, *LEVELS, "all", "lung", "and"}  # "lower left lung"
    return "qata" if (caption and not present & PROSE) or place_alone else ""


def read_captions(words: list[str], reading: Reading, mosmed: bool) -> None:
    """QaTa and MosMedData+: "... , two infected areas, upper middle left lung and all right lung."."""
    read_common(words, reading)
    reading.denied = "no" in words and "infection" in words
    reading.found = not reading.denied and bool({"infection", "infected"} & set(words))
    for word in words:
        term = term_of(word)
        if term is not None and term.role == "place":
            reading.zones |= term.zones

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
        for one in sides:
            reading.zones |= {(one, level) for level in levels}
    if reading.found or reading.denied:
        zones = frozenset(reading.zones)
        reading.findings.append(
            Finding("infection", zones, reading.found, organ="lung", group="airspace")
        )


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


def read_cells(words: list[str], reading: Reading) -> None:
    """Polyp and lesion prompts: "... on the top left.", "..., located in top left of the image"; one cell per place.

    A side alone is that side at middle height, a level alone its center: in Kvasir-SEG the centers of the boxes of
    322 of the 323 single polyps "in right" or "in left" lie in the middle third of the height, and those of 142 of
    the 147 "in top" or "in bottom" in the middle third of the width.
    """
    read_common(words, reading)
    kind = next((word for word in words if word in ONE | SOME), "lesion").removesuffix("s")
    own = {kind, f"{kind}s"}
    denials = [
        i for i, word in enumerate(words) if word in _DENIALS and own & set(words[i + 1 : i + 4])
    ]
    if denials:
        reading.denied = True
        reading.findings.append(Finding(kind, present=False, organ="image", group="image"))
        return
    reading.found = True
    if "many" in words:
        reading.count = None
    elif reading.count is None and ONE & set(words):
        reading.count = 1

    for sentence in cut_at(words, (".", ";")):
        cells = [_cell(part) for part in cut_at(_caption_located(sentence), (",", "and"))]
        reading.zones |= {zone for zone in cells if zone is not None}
    reading.findings.append(Finding(kind, frozenset(reading.zones), organ="image", group="image"))


def _caption_located(words: list[str]) -> list[str]:
    """The words of a prompt from the one that introduces its place: "located", "on", "in" or "at", else the noun."""
    if "located" in words:
        return words[words.index("located") :]
    start = next((i for i, word in enumerate(words) if word in ("on", "in", "at")), None)
    if start is not None:
        return words[start:]
    noun = next((i for i, word in enumerate(words) if word in ONE | SOME), None)
    if noun is None:
        return words
    # "right ear polyp" describes a shape
    plain = all(word in SIDES or word in LEVELS or word in _COUNTS for word in words[:noun])
    return words if plain else words[noun:]


def _cell(words: list[str]) -> Zone | None:
    """The one cell of the 3 x 3 grid that words such as "top left", "center" or "middle right" mean."""
    sides = [SIDES[w] for w in words if w in SIDES and SIDES[w] is not Side.CENTER]
    levels = [LEVELS[w] for w in words if w in LEVELS and LEVELS[w] is not Level.MIDDLE]
    central = any(w in ("center", "centre", "central", "middle") for w in words)
    if not (sides or levels or central):
        return None
    return (sides[0] if sides else Side.CENTER, levels[0] if levels else Level.MIDDLE)


def read_nuclei(words: list[str], reading: Reading) -> None:
    """Nuclei prompts: "... density in the upper left is high."; a half is three cells, a quadrant its corner."""
    reading.found = True
    for part in cut_at(words, (",", ".", ";", "and")):
        sides = [SIDES[w] for w in part if w in SIDES]
        levels = [LEVELS[w] for w in part if w in LEVELS]
        if sides or levels:
            for side in sides or list(Side):
                reading.zones |= {(side, level) for level in levels or list(Level)}
    reading.findings.append(
        Finding("nuclei", frozenset(reading.zones), organ="image", group="image")
    )
