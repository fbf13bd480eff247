"""A data set and a trained run that all tests of kills and damage begin with."""

import pytest
from promises import folders, run_killer

from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.methods.registry import preset_recipe
from textmask.reports.page import write_report
from textmask.training.loop import train

FAST = EvaluationOptions(n_bootstrap=20, surface=False, device="cpu")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    counts = {"train": 8, "valid": 40, "test": 1}
    config = PhantomConfig(size=(32, 32))
    return write_phantoms(tmp_path_factory.mktemp("data"), counts, config, seed=0)


@pytest.fixture(scope="session")
def pristine(data, tmp_path_factory):
    """A run with an evaluation and a report, before the command that is killed."""
    folder = tmp_path_factory.mktemp("pristine")
    manifest = read_manifest(data)
    recipe = preset_recipe("unet", "smoke").override("image_size=[32,32]", "threshold=0.05")
    train(recipe, manifest, folder / "run", progress=False)
    evaluate(folder / "run", manifest, "test", FAST)
    write_report(folder / "run")
    return folder


@pytest.fixture
def kills(tmp_path):
    """Kill a command before every write: what each kill left, that after `again`, and what is left without a kill.

    `most` is the number of kills, spread over all writes.
    """

    def go(pristine, command, again=(), most=None):
        work = tmp_path / "work"
        words = [str(word) for word in command]
        next_words = [[str(word) for word in words] for words in again]
        run_killer([(pristine, work, words, next_words, most)], tmp_path)
        left = folders(work / "killed")
        assert len(left) > 4
        return left, folders(work / "again") if again else [], work / "complete"

    return go
