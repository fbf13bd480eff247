"""Statements: bits, flips."""

from hypothesis import given
from hypothesis import strategies as st

from textmask.statement import LUNG_ZONES, ZONES, Level, Side, Statement

statements = st.builds(
    Statement,
    zones=st.frozensets(st.sampled_from(ZONES)),
    negated=st.frozensets(st.sampled_from(ZONES)),
)


def test_bits_follow_the_published_order():
    statement = Statement(frozenset({(Side.LEFT, Level.LOWER), (Side.RIGHT, Level.UPPER)}))
    assert statement.bits() == (0, 0, 1, 0, 0, 0, 1, 0, 0)
    assert statement.lung_bits() == (0, 0, 1, 1, 0, 0)
    assert len(ZONES) == 9
    assert tuple(zone for zone in ZONES if zone[0] is not Side.CENTER) == LUNG_ZONES


@given(statements)
def test_flips_are_their_own_inverse_and_commute(statement):
    assert statement.mirrored().mirrored() == statement
    assert statement.inverted().inverted() == statement
    assert statement.mirrored().inverted() == statement.inverted().mirrored()


@given(statements)
def test_a_horizontal_flip_swaps_the_side_columns_of_the_grid(statement):
    left, center, right = (statement.bits()[i : i + 3] for i in (0, 3, 6))
    assert statement.mirrored().bits() == right + center + left
