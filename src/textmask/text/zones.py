"""Where the zones of a sentence lie in a picture: measured tables, one row per kind of picture."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.text.statement import Level, Side, Statement, Zone
from textmask.types import Laterality


@dataclass(frozen=True)
class Band:
    """One side or level along its axis, as shares of the picture's width or height.

    Attributes:
        centre, sigma: of the Gaussian that stands for it.
        low, high: the stretch that counts as lying in it; bands of neighbours may overlap.
    """

    centre: float
    sigma: float
    low: float
    high: float


@dataclass(frozen=True)
class ZoneMap:
    """The nine zones of one kind of picture, by sides of the picture (not of the patient)."""

    name: str
    sides: dict[Side, Band]
    levels: dict[Level, Band]


_THIRDS = (Band(1 / 6, 0.13, 0.0, 1 / 3), Band(0.5, 0.13, 1 / 3, 2 / 3), Band(5 / 6, 0.13, 2 / 3, 1.0))
_HALVES = (Band(0.25, 0.18, 0.0, 0.5), Band(0.5, 0.18, 0.25, 0.75), Band(0.75, 0.18, 0.5, 1.0))
ZONE_MAPS: dict[str, ZoneMap] = {
    # medians and bands measured on the one-sided, one-level captions of QaTa-COV19 v2; thirds of the film are a poor
    # map there: 69 % of the area of "lower" lesions lies in the middle third
    "chest": ZoneMap(
        "chest",
        dict(
            zip(Side, (Band(0.28, 0.18, 0.0, 0.5), Band(0.5, 0.18, 0.3, 0.7), Band(0.79, 0.18, 0.5, 1.0)), strict=True)
        ),
        dict(
            zip(
                Level,
                (Band(0.27, 0.13, 0.0, 0.45), Band(0.51, 0.13, 0.35, 0.68), Band(0.60, 0.13, 0.42, 0.80)),
                strict=True,
            )
        ),
    ),
    "thirds": ZoneMap("thirds", dict(zip(Side, _THIRDS, strict=True)), dict(zip(Level, _THIRDS, strict=True))),
    # of a box drawn round what was looked at, rather than of the picture
    "box": ZoneMap("box", dict(zip(Side, _HALVES, strict=True)), dict(zip(Level, _THIRDS, strict=True))),
    "halves": ZoneMap("halves", dict(zip(Side, _HALVES, strict=True)), dict(zip(Level, _HALVES, strict=True))),
}
MAP_OF_GRAMMAR = {
    "qata": "chest",
    "mosmed": "chest",
    "report": "chest",
    "polyp": "thirds",
    "nuclei": "halves",
    "": "chest",
}


def zone_map(statement: Statement) -> ZoneMap:
    """The table that fits the grammar that understood the sentence; chest films where none did."""
    return ZONE_MAPS[MAP_OF_GRAMMAR[statement.grammar]]


def image_zones(statement: Statement) -> frozenset[Zone]:
    """The affected zones by sides of the picture.

    Chest films hang with the patient's right on the left of the picture, so a statement about the patient's sides is
    mirrored. Where nobody knows whose left is meant, both readings are taken: only the level remains.
    """
    if statement.laterality is Laterality.IMAGE:
        return statement.zones
    mirrored = statement.mirrored().zones
    return mirrored if statement.laterality is Laterality.PATIENT else statement.zones | mirrored
