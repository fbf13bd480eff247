"""A command that is killed before any of its writes leaves the old result or the new one, and can be run again."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from textmask.data.manifest import read_manifest
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.io.files import UNFINISHED
from textmask.methods.registry import preset_recipe
from textmask.reports.page import write_report
from textmask.runs.checkpoint import read_tensors
from textmask.runs.environment import limited_threads
from textmask.runs.layout import LAST, WEIGHTS
from textmask.training.loop import train

KILLER = Path(__file__).with_name("killer.py")
FAST = EvaluationOptions(n_bootstrap=20, surface=False, device="cpu")


def kills(pristine, work, *arguments):
    """What each kill left, in order; the last folder is that of the command that ended by itself."""
    work.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(KILLER), str(pristine), str(work), *map(str, arguments)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert (work / "status").read_text() == "0", found.stderr + found.stdout
    left = sorted(
        (path for path in work.iterdir() if path.is_dir()), key=lambda path: int(path.name)
    )
    assert len(left) > 4
    return left[:-1], left[-1]


def content(path):
    """Every file below a path that is not hidden, with its bytes."""
    found = {}
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            found[str(inside)] = file.read_bytes()
    return found


def leftovers(folder):
    return list(folder.rglob(f"*{UNFINISHED}"))


@pytest.mark.slow
def test_evaluate_leaves_the_old_evaluation_or_the_new_one(pristine, data, tmp_path):
    run = "{work}/run"
    arguments = ["evaluate", run, data, "--seed", 1, "--no-surface"]
    killed, complete = kills(pristine, tmp_path / "work", *arguments, "--device", "cpu")

    def evaluation(folder):
        # the advice on missing baselines names the folder of the runs
        files = content(folder / "run" / "evaluation" / "test")
        return {name: re.sub(rb"--out \w+/", b"--out RUNS/", data) for name, data in files.items()}

    old, new = evaluation(pristine), evaluation(complete)
    assert old != new

    seen, unfinished = set(), 0
    for folder in killed:
        found = evaluation(folder)
        unfinished += bool(leftovers(folder))
        differing = [name for name in new if found.get(name) not in (old.get(name), new[name])]
        assert found in (old, new), (folder.name, differing or sorted(found.keys() ^ new.keys()))
        seen.add(found == new)
        # the next writer removes what the killed one left
        write_report(folder / "run")
        assert leftovers(folder) == []
    assert seen == {False, True}
    assert unfinished
    evaluate(killed[-1] / "run", read_manifest(data), "test", FAST)


def test_report_leaves_the_old_page_or_the_new_one(pristine, tmp_path):
    before = tmp_path / "before"
    shutil.copytree(pristine, before)
    (before / "run" / "report.html").write_text("old")
    killed, complete = kills(before, tmp_path / "work", "report", "{work}/run")
    new = (complete / "run" / "report.html").read_text()
    assert {(folder / "run" / "report.html").read_text() for folder in killed} <= {"old", new}


def test_export_leaves_nothing_or_all_of_it(pristine, tmp_path):
    arguments = ["export", "{work}/run", "--target", "hf", "--out", "{work}/hub"]
    killed, complete = kills(pristine, tmp_path / "work", *arguments)
    new = content(complete / "hub")
    for folder in killed:
        if (folder / "hub").exists():
            assert content(folder / "hub") == new


def test_calibrate_leaves_no_limits_or_whole_ones(pristine, data, tmp_path):
    arguments = ["calibrate", "{work}/run", data, "--device", "cpu"]
    killed, complete = kills(pristine, tmp_path / "work", *arguments)
    new = (complete / "run" / "calibration.json").read_bytes()
    for folder in killed:
        path = folder / "run" / "calibration.json"
        assert not path.exists() or path.read_bytes() == new


@pytest.mark.slow
def test_a_training_goes_on_after_any_kill_with_the_same_numbers(pristine, data, tmp_path):
    small = ["--preset", "smoke", "--set", "image_size=[32,32]", "--device", "cpu", "--quiet"]
    arguments = ["train", "unet", data, *small, "--out", "{work}/new"]
    killed, complete = kills(pristine, tmp_path / "work", *arguments)
    recipe = preset_recipe("unet", "smoke").override("image_size=[32,32]")
    manifest = read_manifest(data)
    new = {name: read_tensors(complete / "new" / name)[0] for name in (WEIGHTS, LAST)}

    for folder in killed:
        run = folder / "new"
        for name in (WEIGHTS, LAST):  # whole, or not there
            if (run / name).exists():
                read_tensors(run / name)
        with limited_threads(1):  # as the killed command had
            train(recipe, manifest, run, resume=True, progress=False)
        for name, tensors in new.items():
            found = read_tensors(run / name)[0]
            assert found.keys() == tensors.keys()
            different = [key for key in tensors if not torch.equal(found[key], tensors[key])]
            assert different == [], (folder.name, name)
        assert leftovers(run) == []


def test_predictions_are_whole_after_any_kill_and_the_rest_follows(pristine, data, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for row in read_manifest(data).rows[:3]:
        shutil.copy(data.parent / row.image, images)
    words = ["predict", "{work}/run", images, "opacity in the left lung", "--out", "{work}/masks"]
    killed, complete = kills(pristine, tmp_path / "work", *words, "--device", "cpu")
    new = content(complete / "masks")
    for folder in killed:
        found = content(folder / "masks")
        assert found.keys() <= new.keys()
        masks = {name: data for name, data in found.items() if name.endswith(".png")}
        assert masks == {name: new[name] for name in masks}
    # the same command again
    folder = killed[len(killed) // 2]
    again = [str(word).replace("{work}", str(folder)) for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "textmask", *again, "--device", "cpu"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert content(folder / "masks").keys() == new.keys()
    assert leftovers(folder) == []
