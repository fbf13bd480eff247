"""The model inside the package: small, described, and ready to be asked."""

import json
import shutil

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import textmask
from textmask.cli.app import app
from textmask.data.manifest import write_manifest
from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.errors import ConfigError
from textmask.inference.predictor import Predictor
from textmask.io.files import file_sha256
from textmask.runs.layout import DEFAULT_RUN


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    pixels = make_phantom(PhantomConfig(size=(224, 224)), 1).image
    path = tmp_path_factory.mktemp("default") / "film.png"
    cv2.imwrite(str(path), pixels)
    return path


def test_it_is_small_and_says_what_it_is():
    weights = DEFAULT_RUN / "model.safetensors"
    assert weights.stat().st_size < 10_000_000
    config = json.loads((DEFAULT_RUN / "config.json").read_text())
    assert config["weights_sha256"] == file_sha256(weights)
    assert config["laterality"] == "image"
    card = (DEFAULT_RUN / "README.md").read_text()
    for said in (
        "Research use only",
        "The license depends",
        "limits",
        "dice_per_image",
        "95 % bootstrap",
        "shuffled text",
        "text_prior",
    ):
        assert said in card
    assert {path.name for path in DEFAULT_RUN.iterdir()} == {
        "README.md", "calibration.json", "config.json", "model.safetensors"
    }  # fmt: skip


def test_it_answers_straight_after_install(film):
    found = (
        textmask.load().set_image(film).segment("Unilateral pulmonary infection, lower left lung.")
    )
    assert found.mask.shape == (224, 224)
    assert (found.asked.said, found.asked.model) == ("image", "image")
    assert found.scores.likeness is not None
    assert found.scores.existence is not None


@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
def test_it_does_not_answer_what_is_no_sentence_for_it(film):
    model = textmask.load().set_image(film)
    for sentence in ("Hello World", "", "the quick brown fox"):
        found = model.segment(sentence)
        assert found.abstained, sentence
        assert not found.mask.any()
    assert not model.segment("no consolidation in either lung").mask.any()


@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
def test_the_patients_left_is_the_pictures_right(film):
    model = textmask.load().set_image(film, view="pa")
    ours = model.segment("opacity in the left lower lung", laterality="patient").probability
    same = model.segment("opacity in the right lower lung", laterality="image").probability
    np.testing.assert_array_equal(ours, same)


def test_the_command_needs_no_run(film, tmp_path):
    told = CliRunner().invoke(
        app, ["predict", str(film), "opacity in the left lower lung", "--out", str(tmp_path)]
    )
    assert told.exit_code == 0, told.output
    assert "1 done" in told.output
    named = CliRunner().invoke(
        app, ["predict", "default", str(film), "opacity", "--out", str(tmp_path / "named")]
    )
    assert named.exit_code == 0, named.output


def test_a_folder_called_default_is_that_folder(film, tmp_path, monkeypatch):
    shutil.copytree(DEFAULT_RUN, tmp_path / "default")
    (tmp_path / "default" / "calibration.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert Predictor("default").calibration is None
    told = CliRunner().invoke(
        app, ["predict", "default", str(film), "Hello World", "--no-abstain", "--out", "out"]
    )
    assert told.exit_code == 0, told.output
    (result,) = (tmp_path / "out").glob("*.json")
    assert json.loads(result.read_text())["scores"]["existence"] is None


def test_default_is_a_run_everywhere_and_nothing_is_written_into_the_package(
    phantom_manifest, tmp_path, monkeypatch
):
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    table = phantom_manifest.root / "default.csv"
    write_manifest(phantom_manifest, table)
    before = {path: path.stat().st_mtime_ns for path in DEFAULT_RUN.rglob("*")}

    def invoke(*words):
        return CliRunner().invoke(app, [*map(str, words)])

    few = ("--limit", 4, "--bootstrap", 20, "--zones", "phantom")
    for words in (
        ("evaluate", "default", table, "--no-surface"),
        ("calibrate", "default", table, "--split", "train"),
        ("study", "prompts", "default", table, *few),
        ("export", "default", "--target", "hf"),
        ("report", "default"),
    ):
        refused = invoke(*words)
        assert isinstance(refused.exception, ConfigError), refused.output
        assert "--out" in str(refused.exception)
    done = invoke("evaluate", "default", table, "--no-surface", "--out", "evaluation")
    assert done.exit_code == 0, done.exception
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    done = invoke("study", "prompts", "default", table, *few, "--out", "study")
    assert done.exit_code == 0, done.exception
    done = invoke("export", "default", "--target", "hf", "--out", "hub")
    assert done.exit_code == 0, done.exception
    assert before == {path: path.stat().st_mtime_ns for path in DEFAULT_RUN.rglob("*")}
