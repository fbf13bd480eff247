"""What a study compares: arms, pairs and refusals."""

import pytest

from textmask.cli.study_grid import read_field
from textmask.errors import ConfigError
from textmask.methods.registry import preset_recipe
from textmask.studies.grid.design import field_value, plan_labels, plan_sensitivity


def names(plan):
    return [arm.name for arm in plan.arms], [(a.name, b.name) for a, b in plan.pairs]


def test_methods_are_compared_at_each_fraction_and_a_single_one_step_by_step():
    plan = plan_labels("statement_unet", [1, 0.05, 0.05], ["unet", "statement_unet"])
    assert names(plan) == (
        ["statement_unet-0.05", "unet-0.05", "statement_unet-1", "unet-1"],
        [("unet-0.05", "statement_unet-0.05"), ("unet-1", "statement_unet-1")],
    )
    assert (plan.arms[1].method, plan.arms[1].settings) == (
        "unet",
        ("stages.*.labelled_fraction=0.05",),
    )
    assert names(plan_labels("unet", [0.25, 1, 0.1]))[1] == [
        ("unet-0.25", "unet-0.1"),
        ("unet-1", "unet-0.25"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unett", [0.5]), "unknown method 'unett'"),
        (("unet", [0.5], ["biklip"]), "unknown method 'biklip'"),
        (("unet", []), "missing, expected numbers above 0"),
        (("unet", [0.5, 0]), "0.5, 0, expected numbers above 0"),
        (("unet", [25]), "25, expected"),
        (("unet", [float("nan")]), "nan, expected"),
        (("unet", [0.1, 0.1 + 1e-9]), "several arms have the name unet-0.1"),
    ],
)
def test_wrong_fractions_and_methods_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        plan_labels(*arguments)


def test_one_field_varies_at_a_time_and_the_preset_is_not_trained_twice():
    fields = [("tau", ["0.05", "0.07", "0.1"]), ("stages.*.optim.lr", ["0.5"])]
    plan = plan_sensitivity("c2seg", fields, "lite", ["rho=0.9"])
    arms, pairs = names(plan)
    assert arms == ["preset", "tau-0.05", "tau-0.1", "stages.-.optim.lr-0.5"]
    assert pairs == [(name, "preset") for name in arms[1:]]
    assert plan.arms[0].title.startswith("tau = 0.07, stages.*.optim.lr = ")
    assert [arm.settings for arm in plan.arms] == [
        (),
        ("tau=0.05",),
        ("tau=0.1",),
        ("stages.*.optim.lr=0.5",),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([], "needs a field with its values"),
        ([("tau", [])], "needs a field with its values"),
        ([("taw", ["1"])], "Did you mean 'tau'"),
        ([("tau", ["-1"])], "greater than 0"),
        ([("tau", ["0.1"]), ("tau", ["0.1"])], "several arms have the name tau-0.1"),
    ],
)
def test_wrong_fields_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        plan_sensitivity("c2seg", fields)


def test_fields_are_read_as_overrides_address_them():
    recipe = preset_recipe("c2seg", "paper").override(
        "stages.pretrain.epochs=3", "stages.segment.epochs=9"
    )
    assert field_value(recipe, "stages.*.epochs") == "3 / 9"
    assert (
        field_value(recipe, "stages.segment.epochs")
        == field_value(recipe, "stages.1.epochs")
        == "9"
    )
    assert field_value(recipe, "image_size") == "[224, 224]"
    assert read_field("image_size=[32, 32],[64,64]") == ("image_size", ["[32, 32]", "[64,64]"])
    assert read_field(" tau = 0.05, 0.07,") == ("tau", ["0.05", "0.07"])
    assert read_field("tau") == ("tau", [])
