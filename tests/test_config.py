"""Recipes are strict, frozen, and round-trip."""

import pytest

from textmask.config import Ramp, Stage
from textmask.errors import ConfigError
from textmask.io.files import write_json
from textmask.methods.registry import get_method, load_recipe
from textmask.methods.unet import UNetRecipe


def test_override_sets_fields_by_path_and_keeps_the_original():
    recipe = UNetRecipe()
    changed = recipe.override(
        "seed=5", "stages.segment.epochs=3", "stages.0.optim.lr=0.01", "stages.*.batch_size=2"
    )
    assert (changed.seed, changed.stages[0].epochs, changed.stages[0].optim.lr) == (5, 3, 0.01)
    assert changed.stages[0].batch_size == 2
    assert recipe.seed == 0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sed=1", "Did you mean 'seed'"),
        ("stages.segmet.epochs=1", "segment"),
        ("stages.segment.optim.rate=1", "lr"),
        ("seed=abc", "seed"),
        ("seed", "no '='"),
        ("seed.x=1", "seed is a scalar"),
        ("widths=[1.5]", "widths"),
        ("stages.segment.epochs=0", "greater than or equal to 1"),
    ],
)
def test_wrong_overrides_say_what_and_what_is_valid(assignment, message):
    with pytest.raises(ConfigError, match=message):
        UNetRecipe().override(assignment)


def test_unknown_method_lists_the_valid_ones():
    with pytest.raises(
        ConfigError, match=r"unknown method 'unett'. Did you mean 'unet'.*statement_unet"
    ):
        get_method("unett")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"method": "nope"}', '{"method": "unet", "extra": 1}']
)
def test_a_text_that_is_no_recipe_is_refused(text):
    with pytest.raises(ConfigError):
        load_recipe(text)


def test_stages_must_have_distinct_names_and_start_from_earlier_ones():
    a = Stage(name="a")
    with pytest.raises(ValueError, match="repeat"):
        UNetRecipe(stages=(a, a))
    with pytest.raises(ValueError, match="not an earlier stage"):
        UNetRecipe(stages=(Stage(name="a", start_from="b"), Stage(name="b")))


def test_ramps_grow_from_zero_to_their_value():
    linear = Ramp(to=2.0, start_epoch=5, end_epoch=15)
    assert [linear.at(e) for e in (0, 5, 10, 15, 99)] == [0, 0, 1, 2, 2]
    sigmoid = Ramp(to=1.0, end_epoch=10, shape="sigmoid")
    assert sigmoid.at(0) == 0
    assert sigmoid.at(5) == pytest.approx(2.718281828 ** (-1.25))
    assert sigmoid.at(10) == 1
    assert Ramp(to=1.0, start_epoch=3, end_epoch=3).at(2.9) == 0


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_tiles_share_less_than_a_whole_tile():
    tiled = UNetRecipe().override('tiles={"size":[64,96],"overlap":63}')
    assert (tiled.tiles.size, tiled.tiles.overlap) == ((64, 96), 63)
    assert UNetRecipe().override("tiles={}").tiles.size == (256, 256)
    assert UNetRecipe.from_json(tiled.to_json()) == tiled
    for wrong in (
        '{"size":[64,96],"overlap":64}',
        '{"size":[96,64],"overlap":80}',
        '{"size":[0,64],"overlap":0}',
    ):
        with pytest.raises(ConfigError, match="tiles must share less than a whole tile"):
            UNetRecipe().override(f"tiles={wrong}")
    with pytest.raises(ConfigError, match="overlap"):
        UNetRecipe().override('tiles={"overlap":-1}')


def test_a_stage_that_counts_places_in_whole_pictures_refuses_tiles():
    with pytest.raises(ConfigError, match=r"'average' learns the position of masks.*tiles=null"):
        get_method("text_prior").recipe().override("tiles={}")
