"""Zone tables and whose left is meant."""

import pytest

from textmask.statement import Laterality, Level, Side
from textmask.text.grammar import GRAMMARS, parse
from textmask.text.zones import MAP_OF_GRAMMAR, ZONE_MAPS, image_zones, zone_map

LOWER_LEFT = "unilateral pulmonary infection, one infected areas, lower left lung."


def test_every_grammar_has_a_map_and_every_map_all_bands():
    assert set(MAP_OF_GRAMMAR) == {*GRAMMARS, ""}
    for table in ZONE_MAPS.values():
        assert set(table.sides) == set(Side)
        assert set(table.levels) == set(Level)
        for band in (*table.sides.values(), *table.levels.values()):
            assert 0 <= band.low < band.centre < band.high <= 1
            assert band.sigma > 0


def test_the_grammar_chooses_the_map():
    assert zone_map(parse(LOWER_LEFT)).name == "chest"
    assert zone_map(parse("one small polyp, top left")).name == "thirds"
    assert zone_map(parse("The nuclei density in the upper left is high.")).name == "halves"
    assert zone_map(parse("Hello World")).name == "chest"


@pytest.mark.parametrize(
    ("laterality", "sides"),
    [
        (Laterality.IMAGE, {Side.LEFT}),
        (Laterality.PATIENT, {Side.RIGHT}),
        (Laterality.UNKNOWN, {Side.LEFT, Side.RIGHT}),
    ],
)
def test_the_convention_decides_which_side_left_is(laterality, sides):
    zones = image_zones(parse(LOWER_LEFT, laterality=laterality))
    assert zones == {(side, Level.LOWER) for side in sides}
