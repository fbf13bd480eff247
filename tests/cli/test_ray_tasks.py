"""`evaluate` and `predict` in tasks of Ray: the results of this process, also if a worker is killed in its work."""

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from PIL import Image

from textmask import cluster
from textmask.cluster import Launcher, SharedValue, run_tasks
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.data.shards import write_shards
from textmask.errors import CheckpointError, ConfigError
from textmask.evaluation import scoring
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import read_jobs
from textmask.layouts.read import read_layout
from textmask.methods.registry import get_method
from textmask.runs.environment import limited_threads
from textmask.studies.grid import launch
from textmask.studies.grid.launch import TrialOutcome
from textmask.training.loop import train

# in a process of its own, whose functions Ray takes by value: one worker kills itself in the middle of each work
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import ray
from textmask.cluster import Launcher, import_ray
from textmask.evaluation import scoring
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.inference import batch
from textmask.inference.jobs import read_jobs
from textmask.layouts.read import read_layout

base = Path(sys.argv[1])
real_part, real_count = batch.work_part, scoring.count_part

def dies_once(name):
    try:
        (base / name).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

def part(run, jobs, out, wanted, how):
    if not (base / "killed-predict").exists():
        real_part(run, jobs[:5], out, wanted, how)
        written = [path for path in out.iterdir() if not path.name.startswith(".")]
        times = {path.name: path.stat().st_mtime_ns for path in written}
        (base / "times.json").write_text(json.dumps(times))
        dies_once("killed-predict")
    return real_part(run, jobs, out, wanted, how)

def count(shared, path, part, prompts):
    if part.start == 32:
        dies_once("killed-evaluate")
    return real_count(shared, path, part, prompts)

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
batch.work_part, batch.PART = part, 16
scoring.count_part, scoring.PART = count, 32
engine = Launcher("ray", threads=1)
options = EvaluationOptions(out=base / "evaluated", n_bootstrap=20, engine=engine)
evaluate(base / "run", read_layout(base / "shards"), "test", options)
jobs = read_jobs(base / "shards", None)
results = batch.predict_folder(base / "run", jobs, base / "masks", engine=engine)
(base / "statuses.json").write_text(json.dumps([result.status for result in results]))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run, and shards with 70 images to test it on; this process predicts with one thread, as the tasks do."""
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    table = write_phantoms(
        tmp_path / "data", {"train": 4, "valid": 4, "test": 70}, PhantomConfig((32, 32)), seed=0
    )
    recipe = get_method("statement_unet").recipe().smoke().override("image_size=[32,32]")
    train(recipe, read_manifest(table), tmp_path / "run", progress=False)
    write_shards(read_manifest(table), tmp_path / "shards", shard_bytes=100_000)
    with limited_threads(1):
        yield tmp_path / "run"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed: pip install 'textmask[ray]'",
)
def test_ray_gives_the_results_of_this_process_although_a_worker_is_killed(run, tmp_path):
    local = EvaluationOptions(out=tmp_path / "local", n_bootstrap=20)
    evaluate(run, read_layout(tmp_path / "shards"), "test", local)
    predict_folder(run, read_jobs(tmp_path / "shards", None), tmp_path / "here")

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for _ in range(3):  # Ray gives its parts 15 s to start, which a busy machine may miss
        done = subprocess.run(
            [sys.executable, script, tmp_path], capture_output=True, text=True, check=False
        )
        if "timed out during startup" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed-evaluate").exists()
    assert (tmp_path / "killed-predict").exists()

    # the same scores of each image
    for name in ("scores.csv", "per_image.csv"):
        assert (tmp_path / "evaluated" / name).read_text() == (
            tmp_path / "local" / name
        ).read_text()
    summaries = [
        json.loads((tmp_path / name / "summary.json").read_text())
        for name in ("evaluated", "local")
    ]
    assert summaries[0] == summaries[1]

    # the same masks, each image once, and none written again by the task that took over
    assert json.loads((tmp_path / "statuses.json").read_text()) == ["done"] * 78
    masks = sorted((tmp_path / "here").glob("*.mask.png"))
    assert len(masks) == 78
    assert [path.name for path in masks] == sorted(
        path.name for path in (tmp_path / "masks").glob("*.mask.png")
    )
    for path in masks:
        assert path.read_bytes() == (tmp_path / "masks" / path.name).read_bytes()
    with (tmp_path / "masks/predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 78
    times = json.loads((tmp_path / "times.json").read_text())
    assert len(times) >= 15
    for name, time in times.items():
        assert (tmp_path / "masks" / name).stat().st_mtime_ns == time


class FakeRay:
    """Runs a task when it is waited for, the last one first."""

    exceptions = SimpleNamespace(RayError=ZeroDivisionError)
    most = 0

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def put(self, value):
        return SimpleNamespace(get=lambda: value)

    def remote(self, function):
        def submit(*given):
            return Submitted(lambda: function(*given))

        def options(**asked):
            self.asked = asked
            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def wait(self, waiting, num_returns):
        self.most = max(self.most, len(waiting))
        return [waiting[-1]], waiting[:-1]

    def get(self, held):
        return held.get()


class Submitted:
    def __init__(self, get):
        self.get = get


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    cluster._read_shared.cache_clear()
    return fake


def test_few_tasks_of_ray_wait_at_a_time_and_all_are_run_once(ray):
    tasks = [(i,) for i in range(100)]
    found = list(run_tasks(Launcher("ray", threads=1), lambda i: 1 // (i - 7), tasks))
    assert sorted(number for number, _, _ in found) == list(range(100))
    assert ray.most == 2 * cluster.AHEAD
    assert ray.asked["max_retries"] == cluster.RETRIES
    assert [(number, result) for number, result, problem in found if problem] == [(7, None)]


def test_a_shared_value_is_read_once_by_a_process_of_ray(ray, monkeypatch):
    real, reads = ray.get, []
    monkeypatch.setattr(ray, "get", lambda held: (reads.append(type(held)), real(held))[1])
    shared = SharedValue([1, 2, 3])
    for engine in (Launcher("ray", threads=1), Launcher()):
        tasks = [(0,), (1,), (2,)]
        found = run_tasks(engine, lambda held, i: held.get()[i], tasks, shared=shared)
        assert sorted(result for _, result, _ in found) == [1, 2, 3]
    assert reads.count(SimpleNamespace) == 1


@pytest.mark.parametrize(
    ("device", "gpus", "reserved"),
    [("auto", 2.0, 1), ("cuda", 2.0, 1), ("cpu", 2.0, 0), ("auto", 0.0, 0), ("cuda", 0.0, None)],
)
def test_a_task_of_ray_reserves_the_gpu_that_it_uses(ray, monkeypatch, device, gpus, reserved):
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0, "GPU": gpus}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    launcher = Launcher("ray", threads=1)

    @dataclass
    class Study:
        device: str

        def decode(self):
            pass

    made = []
    monkeypatch.setattr(
        launch,
        "work_elsewhere",
        lambda study, trial, threads: (
            made.append((study.get().device, trial, threads)),
            TrialOutcome(None),
        )[1],
    )

    def trials():
        named = "cuda:1" if device == "cuda" else device
        return launch.run_trials(launcher, Study(named), ["a"], lambda *_: None, False)

    if reserved is None:
        for start in (lambda: run_tasks(launcher, int, [()], device=device), trials):
            with pytest.raises(ConfigError, match="no machine of the Ray cluster has a GPU"):
                list(start())
        return
    assert list(run_tasks(launcher, int, [()], device=device)) == [(0, 0, "")]
    assert ray.asked["num_gpus"] == reserved

    # Ray shows a trial only the GPU it has reserved
    assert [outcome.trial for outcome in trials()] == ["a"]
    assert ray.asked["num_gpus"] == reserved
    assert made == [(device, "a", 1)]


def test_parts_that_ray_counts_in_any_order_are_the_whole(run, ray, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PART", 32)
    scores = []
    for name, engine in (("local", None), ("ray", Launcher("ray", threads=1))):
        options = EvaluationOptions(out=tmp_path / name, n_bootstrap=20, engine=engine)
        evaluate(run, read_layout(tmp_path / "shards"), "test", options)
        scores.append((tmp_path / name / "scores.csv").read_text())
    assert scores[0] == scores[1]

    def fails(*given):
        raise ZeroDivisionError("the machine went away.")

    monkeypatch.setattr(scoring, "count_part", fails)
    with pytest.raises(CheckpointError, match=r"images 64 to 69 could not be scored .* went away"):
        evaluate(run, read_layout(tmp_path / "shards"), "test", options)
    assert (tmp_path / "ray/scores.csv").read_text() == scores[0]


def test_a_worker_that_lives_on_reads_a_run_and_shards_that_were_made_again(
    run, tmp_path, monkeypatch
):
    def here(engine, function, tasks, device, shared=None):
        for i, task in enumerate(tasks):
            yield i, function(*([shared] if shared else []), *task), ""

    monkeypatch.setattr(scoring, "run_tasks", here)
    monkeypatch.setattr(cluster, "run_tasks", here)

    def results(name, engine):
        out, folder = tmp_path / f"{name}-scores", tmp_path / f"{name}-masks"
        options = EvaluationOptions(out=out, n_bootstrap=20, engine=engine)
        evaluate(run, read_layout(tmp_path / "shards"), "test", options)
        jobs = read_jobs(tmp_path / "shards", None)[:4]
        done = predict_folder(run, jobs, folder, engine=engine)
        assert {result.status for result in done} == {"done"}
        masks = [(folder / f"{job.stem}.mask.png").read_bytes() for job in jobs]
        return (out / "scores.csv").read_text(), masks

    first = results("first", Launcher("ray", threads=1))
    shutil.rmtree(run)
    shutil.rmtree(tmp_path / "shards")
    shutil.rmtree(tmp_path / "cache/unpacked")
    recipe = get_method("statement_unet").recipe().smoke()
    recipe = recipe.override("image_size=[32,32]").override("threshold=0.05")
    manifest = read_manifest(tmp_path / "data/manifest.csv")
    train(recipe, manifest, run, progress=False)
    write_shards(manifest, tmp_path / "shards", shard_bytes=50_000)
    again = results("again", Launcher("ray", threads=1))
    assert again == results("local", None)
    assert again[0] != first[0]
    assert again[1] != first[1]


def test_shards_are_predicted_as_a_folder_is(run, tmp_path, monkeypatch):
    shards, table = read_layout(tmp_path / "shards"), tmp_path / "data/manifest.csv"
    items = read_jobs(tmp_path / "shards", None)
    assert [item.text for item in items] == [row.text for row in shards.rows]
    assert {item.laterality for item in items} == {str(shards.laterality)}
    assert len(read_jobs(tmp_path / "shards", "left lung")) == 78
    given = read_jobs(table, None)
    masks = []
    for name, jobs in (("shards", items[:3]), ("table", given[:3])):
        results = predict_folder(run, jobs, tmp_path / name)
        assert {result.status for result in results} == {"done"}
        paths = [tmp_path / name / f"{job.stem}.mask.png" for job in jobs]
        masks.append([Image.open(path).tobytes() for path in paths])
    assert masks[0] == masks[1]

    # the names do not depend on where this machine unpacks
    before = [item.stem for item in items]
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "other"))
    assert [item.stem for item in read_jobs(tmp_path / "shards", None)] == before
