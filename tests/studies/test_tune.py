"""Tuning: declared fields only, trials stored and resumed, a table and a plot; a fake sampler stands in for Optuna."""

import csv
import importlib.util
from dataclasses import replace

import pytest

from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.methods.registry import preset_recipe
from textmask.studies.grid import tune as tuning
from textmask.studies.grid.runner import StudyOptions
from textmask.studies.grid.search_space import Dimension, OptunaSampler, check_space

LR, BATCH = "stages.*.optim.lr=1e-4..1e-2", "stages.*.batch_size=2,4"


class Fake:
    """Takes the ends of ranges and the values of lists in turn; remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def suggest(self, space, finished, number):
        self.shown.append(list(finished))
        return {one.field: one.ends()[number % len(one.ends())] for one in space}


@pytest.fixture
def search(phantom_manifest, tmp_path):
    def go(sampler, trials=3, over=(LR, BATCH), manifest=phantom_manifest, out="out", **options):
        study = StudyOptions(preset="smoke", cache_dir=tmp_path / "cache", **options)
        space = [Dimension.parse(text) for text in over]
        return tuning.tune("unet", manifest, space, tmp_path / out, trials, sampler, study)

    return go


def test_ranges_and_values_are_read():
    lr = Dimension.parse(LR)
    assert (lr.low, lr.high, lr.is_log, lr.is_whole) == (1e-4, 1e-2, True, False)
    whole = Dimension.parse("stages.*.batch_size=8..64")
    assert (whole.low, whole.high, whole.is_whole, whole.is_log) == (8, 64, True, False)
    assert Dimension.parse("widths=[8,16],[16,32]").choices == ("[8,16]", "[16,32]")
    assert not Dimension.parse("threshold=0..0.5").is_log


@pytest.mark.parametrize(
    "text", ["lr", "=1..2", "lr=2..1", "lr=1..", "lr=a..b", "lr=1..inf", "lr=3", "lr=1,"]
)
def test_a_range_that_cannot_be_read_is_shown_how(text):
    with pytest.raises(ConfigError, match="smaller number first"):
        Dimension.parse(text)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["learning_rate=1..2"], "unknown field"),
        (["threshold=0.1..1.5"], "threshold"),
        (["precision=fp32,fp8"], "precision"),
        (["seed=1..5"], "not tuned"),
        ([LR, LR], "each field once"),
        ([], "at least one"),
    ],
)
def test_impossible_fields_and_values_are_refused_before_the_first_training(over, said):
    with pytest.raises(ConfigError, match=said):
        check_space(preset_recipe("unet", "smoke"), [Dimension.parse(text) for text in over])


def test_trials_are_stored_and_a_search_is_continued(search, tmp_path):
    result = search(Fake(), trials=2)
    assert [trial.values["stages.*.batch_size"] for trial in result.trials] == ["2", "4"]
    first = (tmp_path / "out" / "trial000" / "weights.safetensors").stat().st_mtime_ns

    # two more, which are suggested from what the first two gave
    fake = Fake()
    result = search(fake, trials=3)
    assert [len(shown) for shown in fake.shown] == [2]
    assert (tmp_path / "out" / "trial000" / "weights.safetensors").stat().st_mtime_ns == first
    with (tmp_path / "out" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["trial000", "trial001", "trial002"]
    scores = [float(row["valid_dice_per_image"]) for row in rows]
    assert result.best.score == max(scores)
    assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_trial_is_finished_with_its_own_values(search, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            search(Fake(), trials=1)
    fake = Fake()
    result = search(fake, trials=1)
    assert fake.shown == []
    assert result.best.values == {"stages.*.optim.lr": 1e-4, "stages.*.batch_size": "2"}


def test_a_diverging_trial_is_listed_and_the_search_continues(search, monkeypatch):
    real = tuning.train

    def diverge(recipe, manifest, out, **options):
        if out.name == "trial000":
            raise TextMaskError("the loss is not finite")
        return real(recipe, manifest, out, **options)

    monkeypatch.setattr(tuning, "train", diverge)
    result = search(Fake(), trials=2)
    assert result.trials[0].error == "the loss is not finite"
    assert result.best.number == 1


def test_another_search_in_the_folder_and_data_without_valid_are_refused(search, phantom_manifest):
    search(Fake(), trials=1)
    with pytest.raises(ConfigError, match="differs in space"):
        search(Fake(), trials=2, over=[LR])
    rows = tuple(row for row in phantom_manifest.rows if row.split != "valid")
    manifest = replace(phantom_manifest, rows=rows)
    with pytest.raises(DataError, match="no valid rows"):
        search(Fake(), manifest=manifest, out="none")


@pytest.mark.skipif(importlib.util.find_spec("optuna") is not None, reason="Optuna is installed")
def test_without_optuna_the_extra_is_named():
    with pytest.raises(ConfigError, match=r"textmask\[tune\]"):
        OptunaSampler()


def test_optuna_suggests_within_the_space_and_the_same_after_a_restart(search):
    pytest.importorskip("optuna")
    result = search(OptunaSampler(1), trials=3)
    for trial in result.trials:
        assert 1e-4 <= trial.values["stages.*.optim.lr"] <= 1e-2
        assert trial.values["stages.*.batch_size"] in ("2", "4")
    search(OptunaSampler(1), trials=2, out="again")
    again = search(OptunaSampler(1), trials=3, out="again")
    assert [trial.values for trial in again.trials] == [trial.values for trial in result.trials]
