"""What the commands import: torch is loaded only by what needs it, and last."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from textmask.__main__ import running_beside
from textmask.cli.study_robustness import CORRUPTION_KINDS
from textmask.data.corruptions import CORRUPTIONS
from textmask.data.manifest import write_manifest
from textmask.methods.registry import get_method

RESULTS = Path(__file__).parents[2] / "results"
# runs `textmask` in this process for each list of arguments, and names the first one that loads torch
PROBE = """
import json, sys
from textmask.cli.app import main

for arguments, expected in json.loads(sys.argv[1]):
    sys.argv = ["textmask", *arguments]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    if "torch" in sys.modules:
        sys.exit(f"textmask {' '.join(arguments)} loads torch")
    if code != expected:
        sys.exit(f"textmask {' '.join(arguments)} ends with {code}, expected {expected}")
"""
HELP = [
    *([name] for name in ("demo", "train", "evaluate", "report", "table", "verify-table", "study")),
    *([name] for name in ("methods", "predict", "calibrate", "serve", "data", "dicom", "export")),
    *(["study", name] for name in ("ablation", "labels", "sensitivity", "prompts", "text-noise")),
    *(["study", name] for name in ("corruption", "features", "ambiguity", "claims")),
    *(["data", name] for name in ("inspect", "convert", "describe", "phantom")),
    *(["dicom", name] for name in ("segment", "watch")),
    *(["methods", name] for name in ("list", "show")),
    ["import-weights"],
]


@pytest.fixture
def folder(phantom_manifest, tmp_path):
    """A folder with a run that has no weights, and the path of a manifest."""
    write_manifest(phantom_manifest, phantom_manifest.root / "start.csv")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(get_method("unet").recipe().smoke().to_json())
    (run / "data.json").write_text("{}")
    return tmp_path


def probe(calls, folder):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps(calls)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_help_and_what_only_reads_do_without_torch(folder, phantom_manifest):
    table = str(phantom_manifest.root / "start.csv")
    calls = [[[*words, "--help"], 0] for words in ([], *HELP)]
    calls += [
        [["--version"], 0],
        [["methods", "list"], 0],
        [["data", "inspect", table, "--no-pixels"], 0],
        [["data", "inspect", table], 0],
        [["data", "convert", table, "--out", str(phantom_manifest.root / "copy.csv")], 0],
        [["data", "phantom", "--out", "p", "--train", "1", "--valid", "1", "--test", "1"], 0],
        [["verify-table", "91.65", "84.60"], 0],
        [["table", str(RESULTS / "qata-biclip.json"), str(RESULTS / "qata-c2seg.json")], 0],
        [["study", "ablation", "c2seg", "--table", "table3", "--show"], 0],
    ]
    probe(calls, folder)


def test_wrong_paths_and_names_are_answered_without_torch(folder, phantom_manifest):
    table = str(phantom_manifest.root / "start.csv")
    run_and_data = [["run", "gone.csv"], ["gone", table]]
    commands = [
        ["evaluate"], ["calibrate"], ["study", "prompts"], ["study", "text-noise"],
        ["study", "corruption"], ["study", "features"], ["study", "ambiguity"],
    ]  # fmt: skip
    calls = [[[*words, *paths], 2] for words in commands for paths in run_and_data]
    calls += [
        [["evaluate", "run", table, "--split", "tset"], 2],
        [["evaluate", "run", table, "--zones", "lungs"], 2],
        [["evaluate", "run", table, "--beside", "gone"], 2],
        [["evaluate", "run", table, "--device", "gpu"], 2],
        [["evaluate", "default", table], 2],
        [["train", "biklip", table], 2],
        [["train", "unet", table, "--preset", "light"], 2],
        [["train", "unet", table, "--set", "sed=1"], 2],
        [["train", "unet", table, "--tracker", "wandb"], 2],
        [["train", "unet", table, "--labelled-list", "gone.txt"], 2],
        [["train", "unet", "gone.csv"], 2],
        [["train", "unet", table, "--out", "run"], 2],
        [["train", "--resume", "gone"], 2],
        [["train", "--recipe", "gone.json", table], 2],
        [["study", "ablation", "c2seg", table, "--table", "table9"], 2],
        [["study", "labels", "unet", "gone.csv"], 2],
        [["study", "labels", "unet", table, "--engine", "slrum"], 2],
        [["study", "corruption", "run", table, "--kinds", "rain"], 2],
        [["study", "text-noise", "run", table, "--kinds", "typos"], 2],
        [["predict", "gone.png", "left lung"], 2],
        [["predict", "gone", "gone.png", "left lung"], 2],
        [["report", "gone"], 2],
        [["table", "gone.json"], 2],
        [["export", "gone", "--out", "o"], 2],
        [["export", "run", "--target", "onxx"], 2],
        [["serve", "gone"], 2],
        [["serve", "run", "--jobs-root", "gone"], 2],
        [["dicom", "segment", "gone", "gone.dcm", "left lung"], 2],
        [["methods", "show", "unett"], 2],
        [["data", "inspect", "gone"], 2],
        [["data", "describe", table, "--out", "o.csv", "--zones", "lungs"], 2],
    ]
    probe(calls, folder)


POLICY = """
import os, sys
import textmask.__main__ as main
assert "torch" not in sys.modules
running, cores = int(sys.argv[1]), int(sys.argv[2])
main.running_beside, main.os.cpu_count = lambda: running, lambda: cores
sys.argv = ["textmask", "--version"]
try:
    main.start()
except SystemExit:
    pass
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("running", "cores", "given", "used"),
    [
        (0, 2, {}, "None"),
        (1, 2, {}, "passive"),
        (1, 2, {"OMP_NUM_THREADS": "1"}, "None"),
        (2, 2, {"OMP_NUM_THREADS": "1"}, "passive"),
        (1, 2, {"OMP_NUM_THREADS": "two"}, "passive"),
        (1, 2, {"OMP_WAIT_POLICY": "active"}, "active"),
        (0, 2, {"OMP_WAIT_POLICY": "passive"}, "passive"),
    ],
)
def test_waiting_threads_sleep_where_others_have_the_cores(running, cores, given, used):
    own = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        [sys.executable, "-c", POLICY, str(running), str(cores)],
        capture_output=True, text=True, check=True, env={**environment, **given},
    )  # fmt: skip
    assert done.stdout.split()[-1] == used


def test_a_busy_process_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        assert running_beside() >= 1
    finally:
        busy.kill()
        busy.wait()


LOADED = """
import json, sys
from importlib import metadata
from textmask.cli.app import main

scans = []
find = metadata.entry_points
metadata.entry_points = lambda **group: scans.append(group) or find(**group)
sys.argv = ["textmask", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
names = {name.partition(".")[0] for name in sys.modules}
print("\\n" + json.dumps([sorted(names), len(scans)]))
"""


def loaded(*arguments):
    """Top-level modules that a command loads, and how often it looks for methods of other packages."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names, scans = json.loads(done.stdout.splitlines()[-1])
    return set(names), scans


def test_methods_list_loads_no_library_of_numbers_or_images():
    names, scans = loaded("methods", "list")
    assert not names & {"torch", "numpy", "cv2", "matplotlib", "openpyxl", "PIL", "pandas"}
    assert scans == 1  # each look reads a file of every installed package


def test_predict_of_one_image_loads_nothing_for_charts_spreadsheets_or_other_formats(tmp_path):
    image = str(tmp_path / "a.png")
    cv2.imwrite(image, np.zeros((32, 32), np.uint8))
    names, _ = loaded("predict", image, "left lung", "--out", str(tmp_path / "out"))
    assert "torch" in names
    assert not names & {
        *("matplotlib", "openpyxl", "pandas", "nibabel", "pydicom", "highdicom", "onnx"),
        *("onnxruntime", "openvino", "transformers", "lightning_fabric", "ray", "fastapi"),
    }


def test_the_kinds_of_corruption_are_listed_without_torch():
    assert tuple(CORRUPTIONS) == CORRUPTION_KINDS
