"""Fine-tuning from weights of another shape, and resuming after a kill when the data have changed meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import textmask
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.errors import CheckpointError
from textmask.methods.registry import build_method, get_method
from textmask.training.init import load_init
from textmask.training.loop import TrainOptions

SIZE = {"image_size": [32, 32]}


def write_data(root: Path) -> Path:
    counts = {"train": 8, "valid": 4, "test": 2}
    return write_phantoms(root, counts, PhantomConfig(size=(32, 32)), seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A small run that others start from."""
    return train("statement_unet", data, tmp_path_factory.mktemp("runs") / "first").path


def train(method, data, out, *, init=None, **settings):
    return textmask.train(
        method,
        data,
        out,
        preset="smoke",
        device="cpu",
        progress=False,
        cache_dir=out.parent / "cache",
        options=TrainOptions(init=init),
        **{**SIZE, **settings},
    )


def test_reshaped_tensors_are_listed_and_the_run_is_usable(data, trained, tmp_path, capsys):
    """Weights of a wider model: what fits is taken, the rest is named, and the new run segments."""
    run = train("statement_unet", data, tmp_path / "run", init=trained, widths=[8, 16]).path
    record = json.loads((run / "data.json").read_text())["init"]
    before, after = (load_file(folder / "weights.safetensors") for folder in (trained, run))
    assert record["reshaped"]
    assert set(record["reshaped"]) == {
        name for name in after if name in before and before[name].shape != after[name].shape
    }
    assert set(record["missing"]) == set(after) - set(before)
    assert set(record["unused"]) == set(before) - set(after)
    assert record["loaded"] == len(after) - len(record["reshaped"]) - len(record["missing"])
    assert "of another shape, new here" in capsys.readouterr().out

    image = np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)
    found = textmask.load(run, device="cpu").segment(image, "opacity")
    assert found.mask.shape == image.shape


def test_nothing_of_a_reshaped_tensor_is_taken(trained):
    """No slice, no broadcast: a tensor of another shape keeps its own values to the last bit."""
    recipe = get_method("statement_unet").recipe().smoke().override("widths=[8,16]")
    method = build_method(recipe)
    own = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    report = load_init(method, recipe, trained)
    other, now = load_file(trained / "weights.safetensors"), method.state_dict()
    for name in own:
        kept = name in report.reshaped or name in report.missing
        assert torch.equal(now[name], own[name] if kept else other[name]), name


def test_the_bundled_model_as_the_start_of_a_smaller_one():
    recipe = get_method("statement_unet").recipe().smoke()
    method = build_method(recipe)
    report = load_init(method, recipe, Path("default"))
    assert report.reshaped
    assert report.loaded + len(report.reshaped) + len(report.missing) == len(method.state_dict())
    assert f"{len(report.reshaped)} of another shape, new here" in "\n".join(report.lines())


@pytest.mark.parametrize("kind", ["cut", "not weights", "no file"])
def test_weights_that_cannot_be_read_leave_no_run(data, trained, tmp_path, kind):
    other = tmp_path / "other"
    other.mkdir()
    for file in trained.iterdir():
        if file.is_file() and not file.name.startswith("."):
            (other / file.name).write_bytes(file.read_bytes())
    weights = other / "weights.safetensors"
    if kind == "no file":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100] if kind == "cut" else b"PK\3\4" * 99)
    with pytest.raises(CheckpointError):
        train("statement_unet", data, tmp_path / "run", init=other)
    assert not (tmp_path / "run/recipe.json").exists()
    assert not (tmp_path / "run/weights.safetensors").exists()


def test_weights_of_another_method_are_refused(data, trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"no tensor of .* fits"):
        train("text_prior", data, tmp_path / "run", init=trained)


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "textmask", "train", *map(str, arguments)]


def environment() -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def killed(table: Path, run: Path) -> None:
    """Train in a process of its own and kill it when it has saved something."""
    arguments = [table, "--preset", "smoke", "--out", run, "--device", "cpu", "--quiet"]
    arguments += ["--set", "image_size=[32,32]", "--set", "stages.*.epochs=2000"]
    arguments += ["--set", "stages.*.steps=null"]
    process = subprocess.Popen(
        command("unet", *arguments),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 120
    while not (run / "last.safetensors").exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def resume(run: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command("--resume", run, "--quiet", *more),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def edit(table: Path, kind: str) -> str:
    """Change the data in place; returns what the message says."""
    manifest = read_manifest(table)
    row = next(row for row in manifest.rows if row.split == "train")
    if kind in ("image", "mask"):
        path = manifest.image_path(row) if kind == "image" else manifest.mask_path(row)
        before = path.stat()
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pixels[:16] = 255 - pixels[:16]
        cv2.imwrite(str(path), pixels)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
        return "images or masks were changed"
    lines = table.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if row.image in line)
    if kind == "row":
        del lines[at]
    else:
        lines[at] = lines[at].replace(row.text, "no finding")
    table.write_text("\n".join(lines) + "\n")
    return "rows were added, removed" if kind == "row" else "prompts differ"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "prompt"])
def test_resume_after_a_kill_with_changed_data(tmp_path, kind):
    """The machine went down; meanwhile somebody corrected a file. It is said, and nothing in the run changes."""
    table, run = write_data(tmp_path / "data"), tmp_path / "run"
    killed(table, run)
    words = edit(table, kind)
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file() and p.name[0] != "."}
    refused = resume(run)
    assert refused.returncode not in (0, 3), refused.stderr
    said = " ".join(refused.stderr.replace("│", " ").split())
    assert words in said
    assert "--accept-changes" in said
    assert "Traceback" not in refused.stderr
    assert before == {p: p.read_bytes() for p in run.iterdir() if p in before}
