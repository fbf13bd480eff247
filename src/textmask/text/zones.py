"""Where the zones of a sentence lie in a picture: measured tables, one row per kind of picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textmask.statement import Laterality, Level, Side, Statement, Zone


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
    """The nine zones of one kind of picture, by sides of the picture (not of the patient).

    Attributes:
        sides, levels: bands, which may overlap.
        side_cuts, level_cuts: where one ends and the next begins when every pixel must belong to one; equal cuts leave
            no room for the middle one.
        told_by: how a mask shows a zone: by the `share` of its area there, or by where the `centroid` of one of its
            pieces lies.
        side_share: of the mask's area that must lie on a side for the side to be shown.
        level_share: of the area on a side that must lie on a level for the zone to be shown.
    """

    name: str
    sides: dict[Side, Band]
    levels: dict[Level, Band]
    side_cuts: tuple[float, float]
    level_cuts: tuple[float, float]
    told_by: Literal["share", "centroid"] = "share"
    side_share: float = 0.03
    level_share: float = 0.10


def _bands(*rows: tuple[float, float, float, float]) -> tuple[Band, ...]:
    return tuple(Band(*map(float, row)) for row in rows)


_THIRDS = _bands((1 / 6, 0.13, 0, 1 / 3), (0.5, 0.13, 1 / 3, 2 / 3), (5 / 6, 0.13, 2 / 3, 1))
_HALVES = _bands((0.25, 0.18, 0, 0.5), (0.5, 0.18, 0.25, 0.75), (0.75, 0.18, 0.5, 1))
_CHEST_SIDES = dict(
    zip(
        Side, _bands((0.28, 0.18, 0, 0.5), (0.5, 0.18, 0.3, 0.7), (0.79, 0.18, 0.5, 1)), strict=True
    )
)
ZONE_MAPS: dict[str, ZoneMap] = {
    # medians and bands measured on the one-sided, one-level captions of QaTa-COV19 v2; thirds of the film are a poor
    # map there: 69 % of the area of "lower" lesions lies in the middle third. Cuts and shares: those with the best
    # balanced accuracy over the six zones of affected lungs on the 5716 training masks, within 0.4 points; lower cuts
    # score higher only by calling nearly everything "lower", as nearly every caption does
    "chest": ZoneMap(
        "chest",
        _CHEST_SIDES,
        dict(
            zip(
                Level,
                _bands((0.27, 0.13, 0, 0.45), (0.51, 0.13, 0.35, 0.68), (0.6, 0.13, 0.42, 0.8)),
                strict=True,
            )
        ),
        side_cuts=(0.5, 0.5),
        level_cuts=(0.34, 0.46),
    ),
    # the synthetic films of textmask.data.phantom, whose levels do not overlap
    "phantom": ZoneMap(
        "phantom",
        _CHEST_SIDES,
        dict(
            zip(
                Level,
                _bands((0.26, 0.1, 0, 0.36), (0.47, 0.1, 0.36, 0.58), (0.68, 0.1, 0.58, 0.8)),
                strict=True,
            )
        ),
        side_cuts=(0.5, 0.5),
        level_cuts=(0.36, 0.58),
        level_share=0.02,
    ),
    "thirds": ZoneMap(
        "thirds",
        dict(zip(Side, _THIRDS, strict=True)),
        dict(zip(Level, _THIRDS, strict=True)),
        side_cuts=(1 / 3, 2 / 3),
        level_cuts=(1 / 3, 2 / 3),
        told_by="centroid",
    ),
    "halves": ZoneMap(
        "halves",
        dict(zip(Side, _HALVES, strict=True)),
        dict(zip(Level, _HALVES, strict=True)),
        side_cuts=(0.5, 0.5),
        level_cuts=(0.5, 0.5),
        side_share=0.5,
        level_share=0.5,
    ),
    # of a box drawn round what was looked at, rather than of the picture
    "box": ZoneMap(
        "box",
        dict(zip(Side, _HALVES, strict=True)),
        dict(zip(Level, _THIRDS, strict=True)),
        side_cuts=(0.5, 0.5),
        level_cuts=(1 / 3, 2 / 3),
    ),
}
MAP_OF_GRAMMAR = {
    **dict.fromkeys(("qata", "mosmed", "report", ""), "chest"),
    **dict.fromkeys(("polyp", "lesion"), "thirds"),
    "nuclei": "halves",
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
