"""Every method, killed at several moments (writes and steps) of a training and resumed, has the numbers of no kill."""

import json

import pytest
from promises import SMALL, folders, leftovers, run_killer, training

from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.methods.registry import get_method, list_methods

KILLS = 10
# of a baseline: its network and its loss are its own, its training is that of one of these
FEWER = 1
TRAINED_ALIKE = ("unet", "ukan", "mean_teacher")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder per method: what the kills left, the same resumed and evaluated, and a run without kills."""
    folder = tmp_path_factory.mktemp("methods")
    counts = {"train": 8, "valid": 4, "test": 4}
    data = write_phantoms(folder / "data", counts, PhantomConfig(size=(32, 32)), seed=0)
    (folder / "empty").mkdir()
    jobs = []
    for method in list_methods():
        # a mean mask is made in one epoch
        epochs = 1 if method == "text_prior" else 2
        changes = ("--set", f"stages.*.epochs={epochs}", "--save-every-steps", 1)
        command = ["train", method, data, *SMALL, *changes, "--out", "{work}/run"]
        words = [str(word) for word in command]
        again = [[*words, "--resume"], ["score", "{work}/run", str(data)]]
        jobs.append((folder / "empty", folder / method, words, again, kills_of(method)))
    run_killer(jobs, folder)
    return folder


def kills_of(method):
    baseline = "(baseline)" in get_method(method).card.paper and method not in TRAINED_ALIKE
    return FEWER if baseline else KILLS


@pytest.mark.parametrize("method", list_methods())
def test_kills_change_no_number(method, work):
    whole = work / method / "complete" / "run"
    numbers, summary = training(whole), summary_of(whole)
    assert len(folders(work / method / "killed")) == kills_of(method)
    resumed = folders(work / method / "again")
    assert len(resumed) == kills_of(method)
    for folder in resumed:
        found = training(folder / "run")
        assert found.keys() == numbers.keys()
        different = [name for name in numbers if found[name] != numbers[name]]
        assert different == [], folder.name
        assert summary_of(folder / "run") == summary, folder.name
        assert leftovers(folder) == []


def summary_of(run):
    found = json.loads((run / "evaluation" / "test" / "summary.json").read_text())
    # advice that names the folder of the runs, the commit of the code, how long it took
    for name in ("git_commit", "train_seconds"):
        del found["protocol"][name]
    del found["missing_rows"]
    return found


def test_the_kills_came_before_between_and_after_the_checkpoints(work):
    files = set()
    for method in list_methods():
        for folder in folders(work / method / "killed"):
            files.add(sum(1 for _ in folder.rglob("*.safetensors")))
    assert {0, 1, 2} <= files
