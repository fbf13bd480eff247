import pytest

from textmask.errors import DataError
from textmask.methods.registry import preset_recipe
from textmask.runs.checkpoint import load_run
from textmask.runs.data_options import DataOptions
from textmask.training.loop import TrainOptions, train

OPTIONS = DataOptions("qata", "text_long", "fold", "image", 0.1, True)


@pytest.mark.parametrize("options", [DataOptions(), OPTIONS])
def test_data_options_survive_json(options):
    assert DataOptions.from_json(options.as_json()) == options


def test_what_is_not_stored_has_its_default():
    assert DataOptions.from_json({"hold_out": 0}) == DataOptions()


@pytest.mark.parametrize(
    "stored",
    [{"colour": "red"}, {"layout": 3}, {"layout": None}, {"hold_out": "0.1"}, {"merge_valid": 1}],
)
def test_an_option_that_is_not_valid_is_named(stored):
    with pytest.raises(DataError, match=next(iter(stored))):
        DataOptions.from_json(stored)


def test_a_run_remembers_how_and_where_its_data_were_read(phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = preset_recipe("text_prior", "smoke")
    common = {"cache_dir": tmp_path / "cache", "progress": False}
    source = phantom_manifest.root.relative_to(phantom_manifest.root.parent)
    train(
        recipe,
        phantom_manifest,
        tmp_path / "new",
        options=TrainOptions(data_options=OPTIONS, source=source),
        **common,
    )
    assert load_run(tmp_path / "new").options == OPTIONS
    assert load_run(tmp_path / "new").source == tmp_path / source  # absolute

    train(recipe, phantom_manifest, tmp_path / "old", **common)
    old = load_run(tmp_path / "old")
    assert old.options == DataOptions()
    assert old.source is None
