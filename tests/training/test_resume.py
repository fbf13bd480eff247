"""A resumed training has the numbers of one that was not stopped, or says why it cannot."""

import shutil
from dataclasses import replace

import cv2
import pytest
import torch

from textmask.data.manifest import read_manifest
from textmask.errors import CheckpointError, ConfigError, DataError, DataWarning
from textmask.methods.registry import get_method
from textmask.runs import checkpoint, layout
from textmask.runs.environment import limited_threads
from textmask.runs.record import stored_names
from textmask.statement import Laterality
from textmask.training.loop import TrainOptions, train
from textmask.training.steps import GradientStep


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture
def data(phantom_manifest, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(phantom_manifest.root, folder)
    return read_manifest(folder / "manifest.csv")


def recipe_of(name="unet", epochs=2, **changes):
    recipe = get_method(name).recipe().smoke()
    stages = tuple(
        stage.model_copy(update={"epochs": epochs if stage.optim else 1, "batch_size": 4})
        for stage in recipe.stages
    )
    return recipe.model_copy(update={"stages": stages, **changes})


def go(recipe, data, out, cache, *, resume=False, **options):
    return train(
        recipe,
        data,
        out,
        resume=resume,
        cache_dir=cache,
        progress=False,
        options=TrainOptions(**options),
    )


def kill_at(monkeypatch, step):
    """Stop a training at its step number `step`, counted from 1."""
    real, done = GradientStep.run, []

    def run(self, *args):
        done.append(1)
        if len(done) == step:
            raise Killed
        return real(self, *args)

    monkeypatch.setattr(GradientStep, "run", run)


def rows_of(run):
    import json

    lines = (run / layout.LOG).read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_s")}
        for line in lines
    ]


def assert_equal_runs(a, b):
    for name in (layout.WEIGHTS, layout.LAST):
        one, other = (checkpoint.read_tensors(run / name)[0] for run in (a, b))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert rows_of(a) == rows_of(b)


def killed_run(recipe, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            go(recipe, data, tmp_path / "run", tmp_path / "cache", save_every_steps=1)
    return tmp_path / "run"


def changed(data, kind):
    """The same data set with one change; the last value is what the message says."""
    rows = list(data.rows)
    train_at = next(i for i, row in enumerate(rows) if row.split == "train")
    test_at = next(i for i, row in enumerate(rows) if row.split == "test")
    if kind == "prompt":
        rows[train_at] = replace(rows[train_at], text="opacity in the right upper lung")
        return replace(data, rows=tuple(rows)), "prompts differ"
    if kind == "test image":
        rows[test_at] = replace(rows[test_at], split="train")
        return replace(data, rows=tuple(rows)), "rows were added"
    if kind == "fewer":
        del rows[train_at]
        return replace(data, rows=tuple(rows)), "rows were added, removed"
    if kind == "laterality":
        rows = [replace(row, laterality=Laterality.PATIENT) for row in rows]
        return replace(data, rows=tuple(rows)), "read in another way"
    path = data.root / (rows[train_at].mask if kind == "mask" else rows[train_at].image)
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    pixels[:8] = 255 - pixels[:8]
    cv2.imwrite(str(path), pixels)
    return data, "images or masks were changed"


@pytest.mark.parametrize("kind", ["prompt", "test image", "fewer", "laterality", "mask", "image"])
def test_other_data_are_refused_unless_accepted(kind, data, tmp_path, monkeypatch):
    recipe = recipe_of()
    run = killed_run(recipe, data, tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other, words = changed(data, kind)
    with pytest.raises(DataError, match=f"other data: .*split train.*{words}.*--accept-changes"):
        go(recipe, other, run, tmp_path / "cache", resume=True)
    assert before == {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path in before
    }
    if kind != "laterality":  # the weights know whose left theirs is
        with pytest.warns(DataWarning, match="Going on"):
            go(recipe, other, run, tmp_path / "cache", resume=True, accept_changes=True)
        # leak checks know the images from before and those that were accepted
        trained = {data.key(row) for one in (data, other) for row in one.rows_of("train")}
        assert set(stored_names(run, "train")) == trained


def test_other_threads_are_refused_unless_accepted_or_deterministic(data, tmp_path, monkeypatch):
    recipe = recipe_of()
    with limited_threads(2):
        run = killed_run(recipe, data, tmp_path, monkeypatch)
    with limited_threads(1):
        with pytest.raises(ConfigError, match=r"threads of torch 2 -> 1.*deterministic=true"):
            go(recipe, data, run, tmp_path / "cache", resume=True)
        with pytest.warns(DataWarning, match="not those of one run"):
            go(recipe, data, run, tmp_path / "cache", resume=True, accept_changes=True)


def test_deterministic_trainings_do_not_depend_on_threads(data, tmp_path):
    recipe = recipe_of(deterministic=True)
    for threads in (1, 2):
        with limited_threads(threads):
            go(recipe, data, tmp_path / f"threads{threads}", tmp_path)
            assert torch.get_num_threads() == threads
    assert_equal_runs(tmp_path / "threads1", tmp_path / "threads2")


def test_a_run_without_its_checkpoint_is_never_started_over(data, tmp_path):
    run = tmp_path / "run"
    go(recipe_of(), data, run, tmp_path)
    (run / layout.LAST).unlink()
    weights = (run / layout.WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match=r"last\.safetensors is missing"):
        go(recipe_of(), data, run, tmp_path, resume=True)
    (run / layout.LAST).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        go(recipe_of(), data, run, tmp_path, resume=True)
    assert (run / layout.WEIGHTS).read_bytes() == weights


def test_a_lost_row_of_the_log_comes_back(data, tmp_path):
    run = tmp_path / "run"
    go(recipe_of(), data, run, tmp_path)
    whole = rows_of(run)
    lines = (run / layout.LOG).read_text().splitlines()
    (run / layout.LOG).write_text(lines[0] + "\n")
    (run / layout.LOG_CSV).unlink()
    (run / layout.RESULT).unlink()
    go(recipe_of(), data, run, tmp_path, resume=True)
    assert rows_of(run) == whole
    assert (run / layout.LOG_CSV).read_text().count("\n") == len(whole) + 1


def test_resume_starts_a_run_that_does_not_exist_yet(data, tmp_path):
    assert go(recipe_of(), data, tmp_path / "new", tmp_path, resume=True).best >= 0


def test_a_run_of_an_older_version_is_resumed_as_before(data, tmp_path, monkeypatch):
    import json

    run = killed_run(recipe_of(), data, tmp_path, monkeypatch)
    stored = json.loads((run / layout.DATA).read_text())
    for name in ("identity", "machine"):
        del stored[name]
    (run / layout.DATA).write_text(json.dumps(stored))
    go(recipe_of(), data, run, tmp_path / "cache", resume=True)
