"""What a sentence claims about the image, independent of its wording.

Every location vocabulary of the field fits one 3 x 3 grid of zones: chest films use left/right x upper/middle/lower
(six zones), polyp and lesion prompts the whole grid, nuclei prompts halves and quadrants.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache


class Laterality(StrEnum):
    """What "left" means: the left of the image, the patient's left, or unknown."""

    IMAGE = "image"
    PATIENT = "patient"
    UNKNOWN = "unknown"


class Side(StrEnum):
    """Horizontal third of the frame that `Statement.laterality` names."""

    LEFT = "left"
    CENTER = "center"
    RIGHT = "right"

    @property
    def mirrored(self) -> Side:
        """The side after a horizontal flip."""
        return {Side.LEFT: Side.RIGHT, Side.RIGHT: Side.LEFT}.get(self, self)


class Level(StrEnum):
    """Vertical third."""

    UPPER = "upper"
    MIDDLE = "middle"
    LOWER = "lower"

    @property
    def inverted(self) -> Level:
        """The level after a vertical flip."""
        return {Level.UPPER: Level.LOWER, Level.LOWER: Level.UPPER}.get(self, self)


Zone = tuple[Side, Level]
ZONES: tuple[Zone, ...] = tuple((side, level) for side in Side for level in Level)
LUNG_ZONES: tuple[Zone, ...] = tuple(
    (side, level) for side in (Side.LEFT, Side.RIGHT) for level in Level
)


@dataclass(frozen=True)
class Finding:
    """One finding that a sentence names, with what the sentence says about it.

    Attributes:
        kind: canonical name of the vocabulary, e.g. "effusion" for "pleural fluid".
        zones: where it is; empty when no place is named.
        present: False when the sentence denies it.
        certain: False when the sentence only suspects it ("possible", "cannot be excluded").
        change: "new", "increased", "decreased", "stable", "resolved", or "" when nothing is said.
        size_mm: largest measurement of its clause in millimeters.
        start, end: the characters of its clause in the source.
        organ, group: as in the vocabulary; findings of one group may stand for each other in a paraphrase.
        attributes: "history" and "recommendation" when its clause says so.
    """

    kind: str
    zones: frozenset[Zone] = frozenset()
    present: bool = True
    certain: bool = True
    change: str = ""
    size_mm: float | None = None
    start: int = 0
    end: int = 0
    organ: str = ""
    group: str = ""
    attributes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """For results, logs and pages."""
        return {
            "kind": self.kind,
            "zones": sorted(f"{side} {level}" for side, level in self.zones),
            "polarity": "present" if self.present else "absent",
            "certainty": "certain" if self.certain else "possible",
            "change": self.change,
            "size_mm": self.size_mm,
            "span": [self.start, self.end],
            "attributes": list(self.attributes),
        }


@dataclass(frozen=True)
class Statement:
    """The claims of one sentence.

    Attributes:
        zones: the (side, level) cells that are said to be affected; empty when no location is named.
        count: number of findings named ("two infected areas"), None when not named.
        lateral: "unilateral" or "bilateral" when the word (or an abbreviation of it) is used.
        absent: the sentence says that there is no finding at all.
        negated: zones said to be free ("right lung is clear").
        size: "small", "medium" or "large" when named (polyps).
        laterality: whose left "left" is.
        grammar: name of the grammar that understood the sentence, "" when none did.
        findings: the findings of a report sentence, in the order of reading.
        language: ISO 639 code of the language that was read, "" when it is not supported.
        warnings: codes of what is wrong with the sentence (`textmask.text.grammar.WARNINGS`).
    """

    zones: frozenset[Zone] = frozenset()
    count: int | None = None
    lateral: str | None = None
    absent: bool = False
    negated: frozenset[Zone] = frozenset()
    size: str | None = None
    laterality: Laterality = Laterality.UNKNOWN
    grammar: str = ""
    findings: tuple[Finding, ...] = field(default=(), compare=False)
    language: str = field(default="en", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sides(self) -> frozenset[Side]:
        """Sides with at least one affected zone."""
        return frozenset(side for side, _ in self.zones)

    @property
    def levels(self) -> frozenset[Level]:
        """Levels with at least one affected zone."""
        return frozenset(level for _, level in self.zones)

    @property
    def has_location(self) -> bool:
        """Whether a place is named."""
        return bool(self.zones)

    def bits(self) -> tuple[int, ...]:
        """Nine 0/1 flags in the order of `ZONES` (side major)."""
        return _bits(self.zones)

    def lung_bits(self) -> tuple[int, ...]:
        """The published six-zone label: upper, middle, lower left, then upper, middle, lower right."""
        return tuple(int(zone in self.zones) for zone in LUNG_ZONES)

    def mirrored(self) -> Statement:
        """The statement that is true after a horizontal flip of the picture."""
        return replace(
            self,
            zones=frozenset((side.mirrored, level) for side, level in self.zones),
            negated=frozenset((side.mirrored, level) for side, level in self.negated),
        )

    def inverted(self) -> Statement:
        """The statement that is true after a vertical flip of the picture."""
        return replace(
            self,
            zones=frozenset((side, level.inverted) for side, level in self.zones),
            negated=frozenset((side, level.inverted) for side, level in self.negated),
        )


@lru_cache(maxsize=1024)
def _bits(zones: frozenset[Zone]) -> tuple[int, ...]:
    """`Statement.bits`, remembered: every batch asks for them."""
    return tuple(int(zone in zones) for zone in ZONES)
