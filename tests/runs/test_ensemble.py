"""An ensemble predicts the mean probability of its runs and loads like a run everywhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.export.export import export
from textmask.inference.batch import predict_folder
from textmask.inference.calibration import calibrate_run
from textmask.inference.jobs import BatchItem
from textmask.inference.predictor import Predictor
from textmask.io.files import read_json, write_json
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import load_run
from textmask.runs.ensemble import make_ensemble
from textmask.runs.folder import write_names
from textmask.training.loop import train

# a few steps, so that the members differ and their masks are not empty
FINDS_SOMETHING = (
    "stages.segment.steps_per_epoch=8",
    "stages.segment.optim.lr=0.01",
    "threshold=0.05",
)


@pytest.fixture(scope="module")
def runs(phantom_manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble")
    for name, seed in (("statement_unet", 0), ("statement_unet", 1), ("unet", 2)):
        recipe = get_method(name).recipe().smoke().override(f"seed={seed}", *FINDS_SOMETHING)
        train(recipe, phantom_manifest, out / f"{name}{seed}", cache_dir=out, progress=False)
    return out


@pytest.fixture(scope="module")
def both(runs):
    return make_ensemble([runs / "statement_unet0", runs / "unet2"], runs / "both")


def probability(run: Path, image: np.ndarray) -> np.ndarray:
    return Predictor(run, device="cpu").open(image).segment("lower left lung").probability


def test_the_probability_is_the_mean_of_the_members(runs, both):
    image = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    parts = [probability(runs / name, image) for name in ("statement_unet0", "unet2")]
    assert np.abs(parts[0] - parts[1]).max() > 0.01
    np.testing.assert_allclose(probability(both, image), np.mean(parts, axis=0), atol=1e-6)


def test_two_equal_runs_give_the_result_of_one(runs, tmp_path):
    one = runs / "statement_unet1"
    twice = make_ensemble([one, one], tmp_path / "twice")
    image = np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8)
    np.testing.assert_allclose(probability(twice, image), probability(one, image), atol=1e-6)


def test_it_is_a_run_for_predict_evaluate_and_calibrate(both, phantom_manifest, tmp_path):
    image = phantom_manifest.root / phantom_manifest.rows_of("test")[0].image
    (found,) = predict_folder(both, [BatchItem(image, "left lung")], tmp_path / "out")
    assert found.status == "done"

    # the file that names the members identifies the model
    record = json.loads((tmp_path / "out" / f"{found.job.stem}.json").read_text())
    assert record["weights_sha256"] == Predictor(both).weights_sha256
    calibrate_run(both, phantom_manifest, "train", cache_dir=tmp_path)
    assert Predictor(both).calibration is not None

    options = EvaluationOptions(surface=False, n_bootstrap=50, cache_dir=tmp_path)
    summary = evaluate(both, phantom_manifest, "test", options)
    assert summary.protocol.n == 8


def test_images_of_every_member_are_refused_as_new(runs, both, phantom_manifest):
    # one member alone was trained on this image
    rows = phantom_manifest.rows
    moved = replace(
        phantom_manifest,
        rows=tuple(replace(r, split="test") if r.split == "train" else r for r in rows),
    )
    with pytest.raises(DataError, match="were trained on"):
        evaluate(both, moved, "test")


def test_lists_of_train_images_are_joined(runs, tmp_path):
    changed = tmp_path / "changed"
    make_ensemble([runs / "unet2"] * 2, tmp_path / "first")
    (tmp_path / "first" / "members" / "1").rename(changed)
    names = write_names(changed, {"train": ["other.png"]})
    write_json(changed / "data.json", {**read_json(changed / "data.json"), "names": names})
    out = make_ensemble([runs / "unet2", changed], tmp_path / "joined")
    names = (out / "splits" / "train.txt").read_text().split()
    assert "other.png" in names
    assert len(names) == 25


def test_runs_that_do_not_agree_are_refused_and_nothing_is_left(runs, tmp_path, phantom_manifest):
    recipe = get_method("unet").recipe().smoke().override("image_size=[64,64]")
    train(recipe, phantom_manifest, tmp_path / "small", cache_dir=tmp_path, progress=False)
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="differ in image_size"):
        make_ensemble([runs / "unet2", tmp_path / "small"], out)
    with pytest.raises(ConfigError, match="two or more"):
        make_ensemble([runs / "unet2"], out)
    assert not out.exists()


def test_an_ensemble_is_no_member_no_export_and_no_overwrite(runs, both, tmp_path):
    with pytest.raises(ConfigError, match="is an ensemble"):
        make_ensemble([both, runs / "unet2"], tmp_path / "nested")
    with pytest.raises(ConfigError, match="cannot be exported"):
        export(both, tmp_path / "hub", target="hf")
    with pytest.raises(ConfigError, match="exists"):
        make_ensemble([runs / "unet2"] * 2, both)


def test_a_replaced_member_is_found(runs, tmp_path):
    out = make_ensemble([runs / "statement_unet0"] * 2, tmp_path / "out")
    described = json.loads((out / "ensemble.json").read_text())
    described["members"][1]["weights_sha256"] = "0" * 64
    (out / "ensemble.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="expected 0000"):
        load_run(out)


def test_the_command(runs, tmp_path):
    names = [str(runs / name) for name in ("statement_unet0", "statement_unet1")]
    done = CliRunner().invoke(app, ["ensemble", *names, "--out", str(tmp_path / "mean")])
    assert done.exit_code == 0, done.output
    assert load_run(tmp_path / "mean").recipe.method == "statement_unet"
    assert CliRunner().invoke(app, ["ensemble", *names, "--out", str(tmp_path / "mean")]).exit_code
