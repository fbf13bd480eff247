"""A study whose trial was stopped is resumed on another machine only if the user says so, and each command can."""

import pytest

from textmask.cli.app import app
from textmask.errors import ConfigError, DataWarning
from textmask.runs.environment import limited_threads
from textmask.studies.grid import search_space
from textmask.training.steps import GradientStep

SMALL = ("--preset", "smoke", "--device", "cpu", "--set", "image_size=[32,32]", "--quiet")
STUDIES = {
    "labels": ("--fractions", "1", "--set", "stages.*.epochs=2"),
    "sensitivity": ("--field", "threshold=0.4", "--set", "stages.*.epochs=2"),
    "folds": ("--folds", "3", "--set", "stages.*.epochs=2"),
    "tune": ("--over", "threshold=0.3..0.7", "--trials", "1", "--set", "stages.*.epochs=2"),
}


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


class Lowest:
    """Suggests the lower end of each range."""

    def __init__(self, seed):
        pass

    def suggest(self, space, finished, number):
        return {one.field: one.ends()[0] for one in space}


@pytest.mark.parametrize("study", STUDIES)
def test_other_threads_are_refused_unless_accepted(study, phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(search_space, "OptunaSampler", Lowest)
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    table = phantom_manifest.root / "manifest.csv"
    out = tmp_path / "study"
    command = ["study", study, "unet", str(table), "--out", str(out), *SMALL, *STUDIES[study]]

    # the first epoch is saved, the second is not
    real, epochs = GradientStep.run, set()

    def run(self, batch, epoch, i):
        epochs.add(epoch)
        if len(epochs) == 2:
            raise Killed
        return real(self, batch, epoch, i)

    with limited_threads(2), monkeypatch.context() as patch:
        patch.setattr(GradientStep, "run", run)
        with pytest.raises(Killed):
            app(command, standalone_mode=False)

    with limited_threads(1):
        advice = r"threads of torch 2 -> 1.*--threads 2.*--accept-changes"
        with pytest.raises(ConfigError, match=advice):
            app(command, standalone_mode=False)
        with pytest.warns(DataWarning, match="not those of one run"):
            app([*command, "--accept-changes"], standalone_mode=False)
