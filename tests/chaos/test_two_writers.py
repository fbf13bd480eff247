"""Two commands that would write the same files: the second is refused, and nothing of the first is touched."""

import contextvars
import shutil

import pytest

from textmask.data.manifest import read_manifest
from textmask.errors import BusyError
from textmask.evaluation.evaluate import evaluate
from textmask.inference.calibration import calibrate_run
from textmask.io.locks import only_replacer, only_writer
from textmask.methods.registry import preset_recipe
from textmask.reports.page import write_report
from textmask.training.loop import train


@pytest.mark.parametrize("command", ["train", "evaluate", "report", "calibrate"])
def test_the_second_of_two_commands_is_refused_and_names_the_first(
    command, pristine, data, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(pristine / "run", run)
    manifest = read_manifest(data)
    recipe = preset_recipe("unet", "smoke").override("image_size=[32,32]", "threshold=0.05")
    locked, call = {
        "train": (only_writer(run), lambda: train(recipe, manifest, run, resume=True)),
        "evaluate": (only_replacer(run / "evaluation/test"), lambda: evaluate(run, manifest)),
        "report": (only_replacer(run / "report.html"), lambda: write_report(run)),
        "calibrate": (
            only_replacer(run / "calibration.json"),
            lambda: calibrate_run(run, manifest, device="cpu"),
        ),
    }[command]

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with locked, pytest.raises(BusyError, match=rf"{run}.* by `.*` \(process \d+ on .*, since 20"):
        # a lock within the same context would be that of the same writer
        contextvars.Context().run(call)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    call()
