"""Prediction of many images: processes that share them, and a thread that writes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from textmask.errors import ConfigError, DataError
from textmask.inference import batch
from textmask.inference.batch import pool_size, predict_folder
from textmask.inference.jobs import BatchItem, read_jobs
from textmask.inference.processes import run_in_processes
from textmask.inference.results import BatchResult
from textmask.inference.writer import AHEAD, ResultWriter
from textmask.runs.environment import limited_threads

PROMPT = "opacity in the left lower lung"


@pytest.fixture
def folder(tmp_path):
    """Eleven images, one of them damaged."""
    rng = np.random.default_rng(0)
    path = tmp_path / "images"
    path.mkdir()
    for i in range(10):
        cv2.imwrite(str(path / f"{i}.png"), rng.integers(0, 255, (60 + i, 50), np.uint8))
    (path / "broken.png").write_bytes(b"no image")
    return path


def test_two_processes_write_what_one_writes_in_the_same_order(folder, tmp_path, monkeypatch):
    jobs = read_jobs(folder, PROMPT)[::-1]
    jobs[3:3] = [BatchItem(jobs[0].image, "opacity in the right lung")]
    seen = []
    with limited_threads(1):
        alone = predict_folder("default", jobs, tmp_path / "one", device="cpu")
    shared = predict_folder(
        "default",
        jobs,
        tmp_path / "two",
        device="cpu",
        processes=2,
        progress=lambda *n: seen.append(n),
    )
    assert [result.job for result in shared] == jobs
    assert [(r.status, r.message) for r in shared] == [(r.status, r.message) for r in alone]
    assert seen[-1] == ("images", len(jobs), len(jobs))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    # what exists is skipped, whoever wrote it, and needs no process
    monkeypatch.setattr(batch, "_in_processes", None)
    again = predict_folder("default", jobs, tmp_path / "two", device="cpu", processes=2)
    assert {result.status for result in again} == {"skipped", "failed"}


def test_the_number_of_processes(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(batch, "IMAGES_PER_PROCESS", 32)
    assert [pool_size(None, n, "cpu") for n in (1, 63, 64, 127, 128, 10_000)] == [1, 1, 2, 3, 4, 4]
    assert pool_size(None, 10_000, "cuda") == 1
    assert pool_size(3, 10_000, "cpu") == 3
    assert pool_size(3, 2, "cpu") == 2
    assert pool_size(3, 0, "cpu") == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 400)
    assert pool_size(None, 1_000_000, "cpu") == batch.MAX_PROCESSES
    with pytest.raises(ConfigError, match="processes is 0"):
        pool_size(0, 10, "cpu")


def ends_once(path, number):
    """Dies in the first process that gets number 1."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_that_dies_fails_its_tasks_and_hangs_nothing(tmp_path):
    tasks = [(tmp_path, number) for number in range(4)]
    ended = sorted(run_in_processes(ends_once, tasks, 1))
    assert [number for number, _, _ in ended] == [0, 1, 2, 3]
    assert "fewer --processes" in ended[1][2]
    assert ended[1][1] is None


SLEEPER = """
import os, sys, time
from pathlib import Path
from textmask.inference.processes import run_in_processes

def sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(100)

if __name__ == "__main__":
    list(run_in_processes(sleep, [(sys.argv[1],)], 1))
"""


def test_processes_end_when_their_caller_is_killed(tmp_path):
    script, names = tmp_path / "sleeper.py", tmp_path / "names"
    script.write_text(SLEEPER)
    names.mkdir()
    caller = subprocess.Popen([sys.executable, str(script), str(names)])
    until = time.monotonic() + 90
    while not list(names.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    (name,) = names.iterdir()
    while is_alive(int(name.name)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(int(name.name))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_writer_keeps_the_order_and_is_not_far_behind(tmp_path):
    written, most = [], []

    def write(number):
        time.sleep(0.002)
        written.append(number)

    with ResultWriter() as writer:
        futures = []
        for number in range(20):
            futures.append(writer.write(partial(write, number), result(tmp_path, number)))
            most.append(number - len(written))
    assert written == list(range(20))
    assert max(most) <= AHEAD
    assert [future.result().job.text for future in futures] == [str(n) for n in range(20)]


def test_what_cannot_be_written_fails_alone_and_with_its_label_map(tmp_path):
    def full():
        raise DataError("the disk is full")

    with ResultWriter() as writer:
        failed = writer.write(full, result(tmp_path, 0))
        done = writer.write(lambda: None, result(tmp_path, 1))
        without_map = writer.write_after(done, full)
    assert (failed.result().status, failed.result().message) == ("failed", "the disk is full")
    assert done.result().status == "done"
    assert (without_map.result().status, without_map.result().job.text) == ("failed", "1")


def test_ctrl_c_drops_what_has_not_begun(tmp_path):
    written: list[int] = []
    last: Future[BatchResult] | None = None
    try:
        with ResultWriter() as writer:
            for number in range(AHEAD):
                last = writer.write(
                    lambda number=number: (time.sleep(0.05), written.append(number)),
                    result(tmp_path, number),
                )
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert len(written) < AHEAD
    assert last is not None
    assert last.cancelled()


def result(folder, number):
    return BatchResult(BatchItem(folder / "a.png", str(number)), "done")
