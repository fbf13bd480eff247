"""Averaging over the mirrored image and the mirrored prompt."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import textmask
from textmask.errors import ConfigError
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import BatchItem

FILM = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)


@pytest.fixture(scope="module")
def models():
    return {tta: textmask.load(device="cpu", tta=tta) for tta in ("none", "flip")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("prompt", "mirrored"),
    [("lower left lung", "lower right lung"), ("both lungs", "both lungs")],
)
def test_flip_is_the_mean_of_both_predictions(models, prompt, mirrored):
    plain = models["none"].open(FILM).segment(prompt).probability
    other = models["none"].open(FILM[:, ::-1].copy()).segment(mirrored).probability[:, ::-1]
    found = models["flip"].open(FILM).segment(prompt)
    np.testing.assert_allclose(found.probability, (plain + other) / 2, atol=2e-6)
    assert "not_mirrored" not in found.warnings
    # so that a mirrored image has the mirrored answer
    turned = models["flip"].open(FILM[:, ::-1].copy()).segment(mirrored).probability[:, ::-1]
    np.testing.assert_allclose(found.probability, turned, atol=2e-6)


def test_a_prompt_that_cannot_be_mirrored_is_predicted_once_and_says_so(models):
    prompt = "opacity in the right middle lobe"
    plain, found = (models[tta].open(FILM).segment(prompt) for tta in ("none", "flip"))
    np.testing.assert_array_equal(found.probability, plain.probability)
    assert "not_mirrored" in found.warnings
    assert "not_mirrored" not in plain.warnings


def test_results_with_and_without_flip_are_not_mixed_up(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(FILM).save(path)
    jobs = [BatchItem(path, "lower left lung")]
    predict_folder("default", jobs, tmp_path / "out", device="cpu")
    (found,) = predict_folder("default", jobs, tmp_path / "out", device="cpu", tta="flip")
    assert found.status == "skipped"
    assert "another --tta" in found.message
    with pytest.raises(ConfigError, match="Valid: none, flip"):
        textmask.load(tta="flop")


def test_the_command_takes_several_prompts_and_flip(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(FILM).save(path)
    command = [sys.executable, "-m", "textmask", "predict", str(path), "left lung"]
    command += ["--prompt", "right lung", "--tta", "flip", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 done" in done.stdout
    records = [json.loads(p.read_text()) for p in sorted((tmp_path / "out").glob("*.json"))]
    assert {record["tta"] for record in records if "tta" in record} == {"flip"}
    assert len(list((tmp_path / "out").glob("*.labels.png"))) == 1
