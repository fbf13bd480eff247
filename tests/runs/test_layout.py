import json
import shutil
import subprocess
import sys

import pytest

from textmask.errors import CheckpointError, ConfigError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.inference.calibration import calibrate_run
from textmask.inference.predictor import Predictor
from textmask.methods.registry import preset_recipe
from textmask.reports.page import write_report
from textmask.runs.checkpoint import load_run
from textmask.runs.layout import DEFAULT_RUN, PACKAGE, is_run, output_folder, run_path
from textmask.runs.record import read_record
from textmask.studies.robustness.perturbations import RobustnessOptions, open_bench
from textmask.training.loop import train


@pytest.fixture(scope="module")
def package():
    """Names, sizes and times of all files of the package, which must not change."""

    def files():
        found = (path for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts)
        return {path: path.stat().st_size for path in found}

    before = files()
    yield
    assert files() == before


def test_default_is_the_bundled_model_unless_there_is_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_path("default") == DEFAULT_RUN
    assert is_run(DEFAULT_RUN)
    assert load_run("default").path == DEFAULT_RUN
    assert read_record("default").method == "statement_unet"
    (tmp_path / "default").mkdir()
    assert not is_run(run_path("default"))


def test_a_run_and_a_hub_folder_have_the_same_record(phantom_manifest, tmp_path):
    recipe = preset_recipe("text_prior", "smoke")
    train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path / "c", progress=False)
    run = read_record(tmp_path / "run")
    assert run.method == "text_prior"
    assert run.result["epoch"] >= 0
    assert "packages" in run.environment

    hub = tmp_path / "hub"
    hub.mkdir()
    config = {"recipe": run.recipe, "data": run.data, "result": run.result}
    (hub / "config.json").write_text(json.dumps(config))
    found = read_record(hub)
    assert (found.recipe, found.data, found.result) == (run.recipe, run.data, run.result)

    (hub / "config.json").write_text('{"recipe": {}}')
    with pytest.raises(CheckpointError, match="not written by textmask"):
        read_record(hub)
    with pytest.raises(CheckpointError, match=r"recipe\.json does not exist"):
        read_record(tmp_path)


def test_a_run_folder_is_described_without_torch():
    code = "import sys, textmask.runs.layout; from textmask.runs.record import read_record; "
    code += "read_record('default'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_written_into_the_package(tmp_path):
    assert output_folder(tmp_path, None, "evaluation", "test") == tmp_path / "evaluation" / "test"
    assert output_folder(DEFAULT_RUN, tmp_path) == tmp_path
    for run, out in ((DEFAULT_RUN, None), (tmp_path, DEFAULT_RUN / "x"), (tmp_path, PACKAGE)):
        with pytest.raises(ConfigError, match=r"inside the installed package.*--out"):
            output_folder(run, out, "studies")


@pytest.mark.usefixtures("package")
def test_the_bundled_model_is_a_run_everywhere_and_needs_an_output(phantom_manifest, tmp_path):
    cache = tmp_path / "cache"
    options = RobustnessOptions(cache_dir=cache)
    for call in (
        lambda: evaluate("default", phantom_manifest, "test", EvaluationOptions(cache_dir=cache)),
        lambda: calibrate_run("default", phantom_manifest, cache_dir=cache),
        lambda: open_bench("default", phantom_manifest, "test", "prompts", options),
        lambda: write_report("default"),
    ):
        with pytest.raises(ConfigError, match="inside the installed package"):
            call()

    # a baseline of the same data next to it is no reason to write into it either
    out = tmp_path / "evaluation"
    options = EvaluationOptions(
        out=out,
        beside=(shutil.copytree(DEFAULT_RUN, tmp_path / "copy"), "default"),
        surface=False,
        n_bootstrap=10,
        cache_dir=cache,
    )
    summary = evaluate("default", phantom_manifest, "test", options)
    assert next(iter(summary.rows)) == "statement_unet"
    assert "statement_unet (copy)" in summary.rows
    assert (out / "summary.json").is_file()
    report = write_report("default", tmp_path / "report.html")
    assert "statement_unet" in report.read_text()


@pytest.mark.usefixtures("package")
def test_the_bundled_model_is_calibrated_into_another_folder(phantom_manifest, tmp_path):
    found = calibrate_run(
        "default", phantom_manifest, "train", out=tmp_path / "new", cache_dir=tmp_path / "cache"
    )
    path = tmp_path / "new" / "calibration.json"
    assert json.loads(path.read_text()) == found
    used = Predictor("default", calibration=path).calibration
    assert used is not None
    assert sorted(used.vocabulary) == found["vocabulary"]
    assert Predictor("default").calibration.vocabulary != used.vocabulary
