"""The table "printed / chosen by us": complete, without stale rows, and shown by the command."""

import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.config import Recipe
from textmask.methods.registry import get_method, list_methods, origins, preset_recipe


@pytest.mark.parametrize("preset", ["paper", "lite"])
@pytest.mark.parametrize("name", list_methods())
def test_every_setting_has_a_row_and_can_be_overridden_by_its_path(name, preset):
    recipe = preset_recipe(name, preset)
    rows = origins(get_method(name), recipe)
    paths = [path for path, _, _ in rows]
    assert len(set(paths)) == len(paths)
    fields = {path.split(".")[0] for path in paths}
    assert fields == set(type(recipe).model_fields) - {"method"}
    for path, value, source in rows:
        assert source == "chosen by us" or source.startswith(("paper: ", "code: ", "code of "))
        if "*" not in path and "stages" in path:
            assert isinstance(recipe.override(f"{path}={value}"), Recipe)


@pytest.mark.parametrize("name", list_methods())
def test_no_source_is_about_a_field_that_does_not_exist(name):
    from fnmatch import fnmatchcase

    spec = get_method(name)
    paths = [path for path, _, _ in origins(spec, preset_recipe(name, "paper"))]
    stale = [p for p in spec.card.sources if not any(fnmatchcase(path, p) for path in paths)]
    assert stale == []
    assert spec.card.sources or not spec.card.paper or name == "mean_teacher"


@pytest.mark.parametrize("name", ["ssa", "biclip", "c2seg", "dusss", "semi_medref"])
def test_what_no_paper_prints_is_said_to_be_ours(name):
    """Named in the reading of the papers: clipping at 1.0, bf16, the ranges of the affine augmentation, the metric."""
    rows = {
        path: source for path, _, source in origins(get_method(name), preset_recipe(name, "paper"))
    }
    ours = {path for path, source in rows.items() if source == "chosen by us"}
    assert {"precision", "empty_policy", "seed", "deterministic"} <= ours
    assert [path for path in ours if path.endswith(".clip_norm")]
    for path, source in rows.items():
        if ".augment." in path:
            assert path in ours or "code" in source or "chosen by us" in source


def test_ssas_printed_values_are_the_papers():
    rows = {
        path: (value, source)
        for path, value, source in origins(get_method("ssa"), preset_recipe("ssa", "paper"))
    }
    assert rows["eps"] == ("0.03", "paper: 3e-2")
    assert rows["max_iterations"] == ("100", "paper: 100")
    assert rows["tolerance"] == ("0.01", "paper: 1e-2")
    assert rows["stages.segment.clip_norm"] == ("1.0", "chosen by us")


def test_the_command_shows_the_table_and_the_deviations():
    done = CliRunner().invoke(app, ["methods", "show", "mmi_unet"], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    assert "49.47 M" in done.output
    assert "56.17 M" in done.output
    row = next(line for line in done.output.splitlines() if "stages.segment.clip_norm" in line)
    assert "chosen by us" in row
