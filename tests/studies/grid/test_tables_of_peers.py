"""Tables of the papers: their rows can be trained, and the paper's method is compared with each of the others."""

import pytest

from textmask.methods.registry import PRESETS, get_method, preset_recipe
from textmask.studies.grid.design import find_arms, plan_ablation

PAPERS = ("c2seg", "ssa", "biclip", "dusss", "semi_medref")


def compared(method: str, table: str) -> list[tuple[str, str]]:
    return [(arm.name, minus.name) for arm, minus in plan_ablation(method, table).pairs]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", PAPERS)
def test_every_row_of_table_1_is_a_recipe(method, preset):
    for arm in find_arms(method, "table1"):
        recipe = preset_recipe(arm.method or method, preset).override(*arm.settings)
        assert recipe.method == (arm.method or method)


@pytest.mark.parametrize("method", PAPERS)
def test_text_guided_peers_are_rows_of_table_1(method):
    names = {arm.method for arm in find_arms(method, "table1")}
    assert "lvit" in names
    assert get_method(method).tables["table1"]


def test_the_method_of_the_paper_is_compared_with_every_other_method():
    pairs = compared("c2seg", "table1")
    for other in ("unet", "ukan", "tganet", "lavt", "lvit", "clip", "gloria", "convirt"):
        assert ("c2seg", other) in pairs
    assert len(set(pairs)) == len(pairs)
    # and each row with the one before it, as in other tables
    assert ("gloria", "clip") in pairs


def test_methods_are_compared_at_the_same_share_of_labels():
    pairs = compared("semi_medref", "table1")
    assert ("labels-2", "lvit-2") in pairs
    assert ("labels-5", "lavt-5") in pairs
    assert ("labels-5", "lvit-2") not in pairs


def test_a_table_without_other_methods_is_compared_row_by_row():
    assert compared("ssa", "table2") == [
        ("2", "1"),
        ("3", "2"),
        ("4", "3"),
        ("3", "1"),
        ("4", "1"),
    ]
