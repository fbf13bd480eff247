import itertools

import numpy as np
import pytest

from textmask.errors import ConfigError, DataError
from textmask.io.orientation import OPPOSITE, VIEWS, Orientation

PAIRS = [(a, b) for a, b in itertools.permutations("LRAPHF", 2) if b != OPPOSITE[a]]
FILM = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_way_to_the_usual_view_and_back(pair):
    orientation = Orientation(*pair)
    np.testing.assert_array_equal(orientation.from_usual(orientation.to_usual(FILM)), FILM)
    colour = np.stack([FILM, FILM + 1, FILM + 2], axis=-1)
    np.testing.assert_array_equal(orientation.from_usual(orientation.to_usual(colour)), colour)


@pytest.mark.parametrize("pair", PAIRS)
def test_directions_in_the_usual_view_literally(pair):
    """An image whose values grow towards the patient's left, back and feet grows so in the usual view."""
    towards = {"L": (1, 0, 0), "P": (0, 1, 0), "F": (0, 0, 1)}
    vectors = {k: np.array(v) for k, v in towards.items()} | {
        OPPOSITE[k]: -np.array(v) for k, v in towards.items()
    }
    rows, columns = np.mgrid[:3, :4]
    place = columns[..., None] * vectors[pair[0]] + rows[..., None] * vectors[pair[1]]
    orientation = Orientation(*pair)
    along = orientation.to_usual(place[..., :3])
    usual = orientation.usual
    assert (np.diff(along @ vectors[usual.columns], axis=1) == 1).all()
    assert (np.diff(along @ vectors[usual.rows], axis=0) == 1).all()


def test_a_film_as_it_hangs_stays_and_a_mirrored_one_is_mirrored():
    np.testing.assert_array_equal(Orientation("L", "F").to_usual(FILM), FILM)
    np.testing.assert_array_equal(Orientation("R", "F").to_usual(FILM), FILM[:, ::-1])
    assert Orientation("L", "F").patient_left == "right"
    assert Orientation("R", "F").patient_left == "left"
    assert Orientation("F", "L").patient_left == "bottom"
    assert Orientation("P", "F").patient_left is None


def test_ap_and_pa_hang_alike():
    assert VIEWS["ap"] == VIEWS["pa"] == ("L", "F")
    assert Orientation.of_view("pa").source == "view pa"
    with pytest.raises(ConfigError, match=r"unknown view 'paa'\. Did you mean 'pa'"):
        Orientation.of_view("paa")


@pytest.mark.parametrize(
    ("cosines", "pair"),
    [
        ((1, 0, 0, 0, 1, 0), ("L", "P")),
        ((1, 0, 0, 0, 0, -1), ("L", "F")),
        ((-1, 0, 0, 0, -0.99, 0.14), ("R", "A")),
    ],
)
def test_cosines(cosines, pair):
    found = Orientation.of_cosines(cosines, "ImageOrientationPatient")
    assert (found.columns, found.rows, found.source) == (*pair, "ImageOrientationPatient")


@pytest.mark.parametrize("cosines", [(1, 0, 0), (0, 0, 0, 0, 1, 0), (float("nan"), 0, 0, 0, 1, 0)])
def test_cosines_that_are_none(cosines):
    with pytest.raises(DataError, match="six direction cosines"):
        Orientation.of_cosines(cosines, "ImageOrientationPatient")


@pytest.mark.parametrize("pair", [("L", "R"), ("L", "L"), ("X", "F"), ("", "F")])
def test_no_orientation(pair):
    with pytest.raises(DataError, match="expected two of L R A P H F"):
        Orientation(*pair)
