"""Launchers: the same rows wherever trials run, failures and busy folders, kill -9."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from textmask.cluster import Launcher
from textmask.data.manifest import write_manifest
from textmask.errors import CheckpointError, ConfigError, TextMaskError
from textmask.methods.registry import Arm
from textmask.studies.grid import launch, runner
from textmask.studies.grid.design import StudyPlan, plan_labels
from textmask.studies.grid.launch import ClusterTask, TrialOutcome
from textmask.studies.grid.runner import StudyOptions, run_study

SETTINGS = (
    *("stages.segment.steps_per_epoch=6", "stages.segment.epochs=2"),
    *("stages.segment.optim.lr=0.01", "threshold=0.05"),  # finds something
)
PLAN = plan_labels("unet", [1.0, 0.5])
BROKEN = Arm("broken", "diverges", ("stages.segment.optim.lr=1e30",), "unet")
TRIALS = ["unet-0.5-seed0", "unet-1-seed0"]


@pytest.fixture(scope="module")
def go(phantom_manifest, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def call(out, plan=PLAN, **options):
        options = {
            "preset": "smoke",
            "settings": SETTINGS,
            "n_bootstrap": 40,
            "cache_dir": cache,
            **options,
        }
        return run_study(plan, phantom_manifest, out, StudyOptions(**options))

    call.cache = cache
    return call


@pytest.fixture(scope="module")
def local(go, tmp_path_factory):
    """The study made here, one trial after another. Tests do not change it."""
    out = tmp_path_factory.mktemp("local")
    return out, go(out, launcher=Launcher(threads=1))


@pytest.fixture
def textmask(go, phantom_manifest):
    """Starts a study of `unet` with the same settings in a real process."""
    table = phantom_manifest.root / "grid.csv"
    write_manifest(phantom_manifest, table)
    common = ["--preset", "smoke", "--threads", "1", "--cache-dir", str(go.cache)]
    common += [part for setting in SETTINGS for part in ("--set", setting)]

    def start(study, *options):
        command = [
            sys.executable,
            "-m",
            "textmask",
            "study",
            study,
            "unet",
            str(table),
            *common,
            *options,
        ]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(launch, "POLL_S", 0.05)


def figures(summary):
    """A summary without what time and place change."""
    arms = tuple(arm.model_copy(update={"seconds": ()}) for arm in summary.arms)
    return summary.model_copy(update={"arms": arms})


@pytest.mark.slow
def test_jobs_in_processes_of_their_own_give_the_rows_of_this_one_and_one_that_fails_stops_no_other(
    go, local, quick, tmp_path
):
    plan, lines = StudyPlan("ablation", "x", "x", "unet", (BROKEN, PLAN.arms[0]), ()), []
    launcher = Launcher(
        "slurm", threads=1, slurm=("slurm_partition=gpu", "timeout_min=60"), cluster="local"
    )
    with pytest.raises(
        TextMaskError, match=r"1 of 2 trials failed:\n  broken-seed0: the loss is not finite"
    ):
        go(tmp_path, plan, launcher=launcher, progress=lines.append)
    own = {"seconds": 0}
    rows = [
        json.loads((out / TRIALS[0] / "study-test.json").read_text()) | own
        for out in (tmp_path, local[0])
    ]
    assert rows[0] == rows[1]
    assert any(
        re.match(r"\[2/2\] unet-0.5-seed0 \(unet, 50 %\): job \d+, 2 trials left", line)
        for line in lines
    )
    assert "not finished: broken-seed0" in (tmp_path / "table.md").read_text()


def test_a_job_at_its_time_limit_goes_into_the_queue_again():
    again = ClusterTask().checkpoint("study", "trial", 2)
    assert isinstance(again.function, ClusterTask)
    assert again.args == ("study", "trial", 2)


@pytest.mark.slow
def test_a_job_that_is_stopped_within_its_training_is_queued_again_and_resumes(go, quick, tmp_path):
    """By the signal that SLURM sends before the time limit; submitit's local executor starts the job again."""
    plan = StudyPlan("ablation", "x", "x", "unet", PLAN.arms[:1], ())
    longer = (*SETTINGS, "stages.segment.epochs=12")
    path = tmp_path / "jobs" / TRIALS[0]
    stopped = []

    def stop(controller):
        deadline = time.monotonic() + 200
        while not (path / "log.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        children = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
        stopped.append(len((path / "log.jsonl").read_text().splitlines()))
        os.kill(int(children[0]), signal.SIGUSR2)

    def progress(line):
        if found := re.search(r": job (\d+)", line):
            threading.Thread(target=stop, args=(found[1],)).start()

    slurm = Launcher("slurm", threads=1, slurm=("timeout_min=60",), cluster="local")
    go(tmp_path / "jobs", plan, settings=longer, launcher=slurm, progress=progress)
    go(tmp_path / "here", plan, settings=longer, launcher=Launcher(threads=1))
    assert 0 < stopped[0] < 12
    logs = "".join(file.read_text() for file in (tmp_path / "jobs/jobs").rglob("*.err"))
    logs += "".join(file.read_text() for file in (tmp_path / "jobs/jobs").rglob("*.out"))
    assert "Requeued job" in logs
    rows = []
    for folder in (path, tmp_path / "here" / TRIALS[0]):
        assert len((folder / "log.jsonl").read_text().splitlines()) == 12
        rows.append(json.loads((folder / "study-test.json").read_text()) | {"seconds": 0})
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_local_ray_instance_gives_the_rows_of_this_process_and_one_trial_that_fails_stops_no_other(
    local, textmask, tmp_path
):
    """In a process of its own, for Ray has 15 s to start its parts and is started again on a machine that is busy."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'textmask[ray]'")
    for _ in range(3):
        broken = (
            "--field",
            "stages.segment.optim.lr=1e30",
            "--engine",
            "ray",
            "--out",
            str(tmp_path),
        )
        said, _ = textmask("sensitivity", *broken).communicate(timeout=280)
        if "cannot reach or start Ray" not in said:
            break
    assert (
        "1 of 2 trials failed:\n  stages.segment.optim.lr-1e30-seed0: the loss is not finite"
        in said
    )
    own = {"arm": "", "title": "", "settings": "", "seconds": 0, "weights_sha256": ""}
    folders = (tmp_path / "preset-seed0", local[0] / TRIALS[1])
    rows = [json.loads((folder / "study-test.json").read_text()) | own for folder in folders]
    assert rows[0] == rows[1]


def test_more_threads_than_any_machine_has_are_refused_instead_of_waiting_for_ever(
    go, tmp_path, monkeypatch
):
    nodes = [
        {"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 2.0), (False, 64.0))
    ]
    stub = SimpleNamespace(is_initialized=lambda: True, nodes=lambda: nodes)
    monkeypatch.setitem(sys.modules, "ray", stub)
    with pytest.raises(
        ConfigError, match=r"no machine of the cluster has 8 CPUs .* Give --threads 2\."
    ):
        go(tmp_path, launcher=Launcher("ray", threads=8))


def test_ray_that_does_not_start_is_one_message(go, tmp_path, monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")  # what Ray raises

    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init)
    )
    with pytest.raises(ConfigError, match="cannot reach or start Ray: The current node timed out"):
        go(tmp_path, launcher=Launcher("ray"))


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_says_how_to_get_it(
    engine, package, go, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'textmask\[{engine}\]'"):
        go(tmp_path, launcher=Launcher(engine))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "slrum"}, "unknown engine 'slrum'. Did you mean 'slurm'"),
        ({"threads": 0}, "threads is 0"),
        ({"slurm": ("a=1",)}, "need --engine slurm"),
        ({"name": "slurm"}, "srun"),  # this machine has none
        ({"name": "slurm", "cluster": "debug", "slurm": ("partition",)}, "has no '='"),
        ({"name": "slurm", "cluster": "debug", "slurm": ("slurm_partitoin=x",)}, "partitoin"),
        ({"name": "slurm", "cluster": "debug", "slurm": ("timeout_min=long",)}, "timeout_min"),
    ],
)
def test_wrong_launchers_are_one_message(options, said, go, tmp_path):
    with pytest.raises(ConfigError, match=said):
        go(tmp_path, launcher=Launcher(**options))


def test_a_trial_that_another_process_trains_is_left_to_it(go, local, tmp_path):
    out = shutil.copytree(local[0], tmp_path / "study")
    for name in TRIALS:
        (out / name / "study-test.json").unlink()
    lines = []
    with FileLock(out / TRIALS[0] / ".lock"):
        summary = go(out, progress=lines.append)
    assert summary.missing == (TRIALS[0],)
    assert any("is being trained by another process" in line for line in lines)
    assert figures(go(out)) == figures(local[1])  # unlocked: trained now


def test_a_row_that_never_appears_is_told_with_the_likely_cause(go, tmp_path, monkeypatch):
    def elsewhere(launcher, study, trials, started, bar):
        yield TrialOutcome(trials[0])

    monkeypatch.setitem(launch._LAUNCHERS, "local", elsewhere)
    monkeypatch.setattr(runner, "PATIENCE_S", -1)
    with pytest.raises(CheckpointError, match="All machines must see the same folder"):
        go(tmp_path)


@pytest.mark.slow
def test_kill_9_loses_no_finished_trial_and_the_rest_goes_on_to_the_same_figures(
    go, local, textmask, tmp_path
):
    """A real process is killed within its second training."""
    out = tmp_path / "study"
    process = textmask("labels", "--fractions", "0.5,1", "--out", str(out), "--quiet")
    deadline = time.monotonic() + 200
    while not (out / TRIALS[1] / "last.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert not (out / TRIALS[1] / "result.json").exists()
    kept = (out / TRIALS[0] / "weights.safetensors").stat().st_mtime_ns
    with np.load(out / TRIALS[0] / "study-test.npz") as file:
        assert len(file["intersection"]) == 8
    assert figures(go(out, launcher=Launcher(threads=1))) == figures(local[1])
    assert (out / TRIALS[0] / "weights.safetensors").stat().st_mtime_ns == kept
