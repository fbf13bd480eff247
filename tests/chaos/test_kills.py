"""A command that is killed before any of its writes leaves the old result or the new one, and can be run again."""

import shutil

import pytest
from promises import SMALL, assert_whole, content, evaluation, leftovers, study, training

from textmask.data.manifest import read_manifest
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.reports.page import write_report

FAST = EvaluationOptions(n_bootstrap=20, surface=False, device="cpu")


@pytest.mark.slow
def test_evaluate_leaves_the_old_evaluation_or_the_new_one(pristine, data, kills):
    command = ["evaluate", "{work}/run", data, "--seed", 1, "--no-surface", "--device", "cpu"]
    killed, _, complete = kills(pristine, command)

    old, new = evaluation(pristine / "run"), evaluation(complete / "run")
    assert old != new

    seen, unfinished = set(), 0
    for folder in killed:
        found = evaluation(folder / "run")
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


def test_report_leaves_the_old_page_or_the_new_one(pristine, tmp_path, kills):
    before = tmp_path / "before"
    shutil.copytree(pristine, before)
    (before / "run" / "report.html").write_text("old")
    killed, _, complete = kills(before, ["report", "{work}/run"])
    new = (complete / "run" / "report.html").read_text()
    assert {(folder / "run" / "report.html").read_text() for folder in killed} <= {"old", new}


def test_export_leaves_nothing_or_all_of_it(pristine, kills):
    command = ["export", "{work}/run", "--target", "hf", "--out", "{work}/hub"]
    killed, _, complete = kills(pristine, command)
    new = content(complete / "hub")
    for folder in killed:
        if (folder / "hub").exists():
            assert content(folder / "hub") == new


def test_calibrate_leaves_no_limits_or_whole_ones(pristine, data, kills):
    killed, _, complete = kills(pristine, ["calibrate", "{work}/run", data, "--device", "cpu"])
    new = (complete / "run" / "calibration.json").read_bytes()
    for folder in killed:
        path = folder / "run" / "calibration.json"
        assert not path.exists() or path.read_bytes() == new


@pytest.mark.slow
def test_a_training_goes_on_after_any_kill_with_the_same_numbers(pristine, data, kills):
    command = ["train", "unet", data, *SMALL, "--out", "{work}/new"]
    killed, again, complete = kills(pristine, command, [[*command, "--resume"]])
    new = training(complete / "new")
    for folder in killed:
        assert_whole(folder)
    for folder in again:
        found = training(folder / "new")
        different = [name for name in new if found[name] != new[name]]
        assert different == [], folder.name
        assert found.keys() == new.keys()
        assert leftovers(folder) == []


@pytest.mark.slow
def test_a_study_goes_on_after_a_kill_with_the_same_figures(data, tmp_path, kills):
    (tmp_path / "empty").mkdir()
    words = ["study", "labels", "unet", data, *SMALL, "--fractions", "1", "--out", "{work}/study"]
    command = [*words, "--cache-dir", "{work}/cache"]
    # every third write: all of them would take minutes
    killed, again, complete = kills(tmp_path / "empty", command, [command], most=40)

    new = study(complete / "study")
    assert len(new) > 5
    for folder in killed:
        assert_whole(folder)
    for folder in again:
        found = study(folder / "study")
        different = [name for name in new if found.get(name) != new[name]]
        assert different == [], folder.name
        assert found.keys() == new.keys()
        assert leftovers(folder) == []


def test_predictions_are_whole_after_any_kill_and_the_rest_follows(pristine, data, tmp_path, kills):
    images = tmp_path / "images"
    images.mkdir()
    for row in read_manifest(data).rows[:3]:
        shutil.copy(data.parent / row.image, images)
    words = ["predict", "{work}/run", images, "opacity in the left lung", "--out", "{work}/masks"]
    command = [*words, "--device", "cpu"]
    killed, again, complete = kills(pristine, command, [command])
    new = content(complete / "masks")
    for folder in killed:
        found = content(folder / "masks")
        assert found.keys() <= new.keys()
        masks = {name: data for name, data in found.items() if name.endswith(".png")}
        assert masks == {name: new[name] for name in masks}
    # the same command again
    for folder in again:
        found = content(folder / "masks")
        assert found.keys() == new.keys()
        assert {name: found[name] for name in masks} == masks
        assert leftovers(folder) == []
