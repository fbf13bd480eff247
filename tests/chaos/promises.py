"""What must hold after a kill: the states that are compared, and how killer.py is run."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from textmask.io.files import UNFINISHED
from textmask.runs.checkpoint import read_tensors, tensor_checksum
from textmask.runs.layout import LOG_CSV, RESULT

KILLER = Path(__file__).with_name("killer.py")
SMALL = (
    *("--preset", "smoke", "--set", "image_size=[32,32]"),
    *("--set", "threshold=0.05"),  # finds something after a few steps
    *("--device", "cpu", "--quiet"),
)
TIMES = ("seconds", "images_per_s")
VARYING = (*TIMES, "minutes", "commit", "commits")


def run_killer(jobs, folder):
    """Run jobs of killer.py; each entry is (pristine, work, command, again, number of kills or None)."""
    names = ("pristine", "work", "command", "again", "kills")
    entries = [dict(zip(names, job, strict=True)) for job in jobs]
    path = folder / "jobs.json"
    path.write_text(json.dumps(entries, default=str))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(KILLER), str(path)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-4000:]


def folders(path):
    """The numbered folders of a path, in order."""
    return sorted(path.iterdir(), key=lambda folder: int(folder.name))


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


def assert_whole(folder):
    """Every file that can be seen can be read."""
    for name in content(folder):
        path = folder / name
        assert path.stat().st_size, path
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".png":
            assert cv2.imread(str(path)) is not None, path
        elif path.suffix == ".npz":
            np.load(path).close()


def evaluation(run):
    """The files of an evaluation; the advice on missing baselines names the folder of the runs."""
    folder = run / "evaluation" / "test"
    found = {}
    for name, data in content(folder).items():
        found[name] = re.sub(rb"--out [\w-]+/", b"--out RUNS/", data)
        if name.endswith(".npz"):
            found[name] = arrays(folder / name)
    return found


def training(run):
    """All numbers of a training: tensors of every file, rows of the log, the chosen epoch."""
    found = {}
    for path in sorted(run.glob("*.safetensors")):
        tensors = read_tensors(path)[0]
        found[path.name] = {name: tensor_checksum({name: tensors[name]}) for name in tensors}
    rows = list(csv.DictReader((run / LOG_CSV).read_text().splitlines()))
    assert rows
    found["log"] = [{name: row[name] for name in row if name not in TIMES} for row in rows]
    result = json.loads((run / RESULT).read_text())
    found["result"] = {name: result[name] for name in result if name not in TIMES}
    return found


def study(folder):
    """The figures of a study and of its trials, without how long they took and the commit of the code."""
    found = {}
    for name, data in content(folder).items():
        path = folder / name
        if path.parent != folder and not path.name.startswith("study-"):
            continue  # the run of a trial
        found[name] = data
        if path.suffix == ".csv":
            found[name] = without_times(list(csv.DictReader(data.decode().splitlines())))
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(data))
        elif path.suffix == ".npz":
            found[name] = arrays(path)
        elif path.suffix == ".md":  # the same figures with minutes and commit
            found[name] = b""
    return found


def without_times(value):
    """A JSON value without what differs from call to call."""
    if isinstance(value, list):
        return [without_times(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: without_times(one) for name, one in value.items() if name not in VARYING}


def arrays(path):
    """The arrays of a .npz file, which also has the time at which it was written."""
    with np.load(path) as file:
        return {name: (file[name].shape, file[name].tobytes()) for name in file}
