"""Plain report sentences, clause by clause, and what all readers of sentences share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from textmask.statement import Level, Side, Zone
from textmask.text.words import LEVELS, NUMBERS, SIDES

BOTH = frozenset({Side.LEFT, Side.RIGHT})
LUNGS = frozenset("lung lungs hemithorax".split())
# plural nouns mean both lungs when no side is named, singular ones leave the side open
PLURALS = frozenset("lobes zones fields bases apices hila lungs midzones".split())
NOUNS = (
    LUNGS
    | PLURALS
    | frozenset(
        "lobe zone field region base apex perihilar hilum basal basilar apical midlung midzone".split()
    )
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
    **dict.fromkeys(
        ("bibasilar", "bibasal"), ((Side.LEFT, Level.LOWER), (Side.RIGHT, Level.LOWER))
    ),
    "biapical": ((Side.LEFT, Level.UPPER), (Side.RIGHT, Level.UPPER)),
}
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
class Reading:
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
        """Note a warning code once."""
        if code not in self.warnings:
            self.warnings.append(code)


def read_common(words: list[str], reading: Reading) -> None:
    """Number of findings, uni- or bilateral, size."""
    nouns = {"area", "areas", "polyp", "polyps", "lesion", "lesions", "opacities", "nodules"}
    for i, word in enumerate(words):
        number = NUMBERS.get(word, int(word) if word.isdecimal() and len(word) < 4 else None)
        if number is not None and reading.count is None and nouns & set(words[i + 1 : i + 6]):
            reading.count = number
        if word in ("unilateral", "bilateral") and reading.lateral is None:
            reading.lateral = word
        # "polyp which is a small lump ..." defines a polyp and does not measure this one
        if (
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


def read_report(words: list[str], reading: Reading) -> None:
    """Plain report sentences, clause by clause: "patchy opacity in the left lower lobe, right lung is clear"."""
    read_common(words, reading)
    for sentence in cut_at(words, (".", ";", "but", "however", "while", "whereas", "although")):
        clauses: list[list[str]] = []
        for piece in cut_at(
            sentence, (",",)
        ):  # a comma only ends a clause when what follows speaks for itself
            speaks = set(piece) & (BEFORE | AFTER | FINDINGS | EXCEPT)
            if clauses and (
                not speaks or set(piece) <= AFTER | EXCEPT | {"is", "are"} or piece[0] in EXCEPT
            ):
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


def _read_clause(words: list[str], reading: Reading) -> None:
    # "no change in" and "not only" deny nothing
    words = [
        w for i, w in enumerate(words) if not (w in BEFORE and CHANGE & set(words[i + 1 : i + 4]))
    ]
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


def _read_exception(words: list[str], head: set[Zone], free: bool, reading: Reading) -> None:
    """What is excepted is the opposite of the rest: "lungs clear except for the left base", "... sparing the apex"."""
    zones = _report_zones(words, reading, {side for side, _ in head})
    gained, lost = (reading.zones, reading.negated) if free else (reading.negated, reading.zones)
    gained |= zones
    lost -= zones


def _report_zones(words: list[str], reading: Reading, known: Collection[Side] = ()) -> set[Zone]:
    """Zones of a clause; side and level are shared across "and": "left upper and lower lobes".

    Args:
        words: of one clause.
        reading: takes the warnings.
        known: sides that are understood when none is named.
    """
    zones = {zone for word in words for zone in ABBREVIATIONS.get(word, ())}
    parts = [
        part for part in cut_at(words, ("and", "or")) if NOUNS & set(part) or not OTHER & set(part)
    ]
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
