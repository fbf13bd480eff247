"""Codes of odd requests, and when no mask is given: unrelated text, denied findings, and what a calibration adds."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.inference.calibration import calibrate_run, vocabulary
from textmask.inference.predictor import Predictor
from textmask.inference.screening import CODES, Calibration, Scores, confidence, screen
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import CALIBRATION, WEIGHTS
from textmask.statement import Laterality
from textmask.text.edit import UNRELATED
from textmask.text.grammar import WARNINGS, parse
from textmask.training.loop import train
from textmask.types import Output

PIXELS = np.full((40, 40), 128, np.uint8)


class Eager(Method):
    """Marks everything, surer where the picture is bright: without a check every sentence would get a mask."""

    def forward(self, image, text):
        return Output(image[:, :1] * 4 + 0.1)


@pytest.fixture
def predictor(tmp_path):
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    recipe = get_method("statement_unet").recipe().smoke()
    return Predictor(Run(tmp_path, recipe, Eager().eval(), {"laterality": "image"}, {}))


@pytest.mark.parametrize(
    "sentence", [*UNRELATED, "", "   ", "the", "asdf qwerty", "\u200b", "肺炎", "Wie spät ist es?"]
)
def test_a_sentence_about_nothing_gets_no_mask(predictor, sentence):
    opened = predictor.open(PIXELS)
    found = opened.segment(sentence)
    assert found.abstained
    assert not found.mask.any()
    assert {"abstained", "no_medical_word"} <= set(found.warnings)
    assert (found.probability > 0.5).all()  # what the network said is kept
    kept = opened.segment(sentence, abstain=False)
    assert kept.mask.all()
    assert kept.warnings == found.warnings


@pytest.mark.parametrize(
    "sentence",
    [
        "pneumonia",
        "lower left lung",
        "left",
        "Benign tumour",
        "hepatic lesion",
        "glioblastoma",
        "pulmonary infection",
    ],
)
def test_a_medical_sentence_is_answered(predictor, sentence):
    found = predictor.open(PIXELS).segment(sentence)
    assert not found.abstained
    assert found.mask.all()
    assert found.scores.likeness is None
    assert found.scores.existence is None


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        ("no consolidation", "absent_finding"),
        ("No focal opacity.", "absent_finding"),
        ("No polyp on the left.", "absent_finding"),
        ("no pulmonary infection, zero infected areas.", "absent_finding"),
        ("The left lung is clear.", "negated"),
        ("No opacity in the lower left lung", "negated"),
    ],
)
def test_a_denied_finding_gets_an_empty_mask_and_is_no_abstention(predictor, sentence, code):
    found = predictor.open(PIXELS).segment(sentence)
    assert not found.mask.any()
    assert code in found.warnings
    assert not found.abstained


def test_what_is_partly_denied_is_answered_with_a_code(predictor):
    found = predictor.open(PIXELS).segment("Opacity in the left base, the right lung is clear.")
    assert found.mask.any()
    assert "negated" in found.warnings


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        (
            "unilateral pulmonary infection, lower left lung and upper right lung",
            "contradiction_lateral",
        ),
        ("Opacity in the left lung. No opacity in the left lung.", "contradiction_negation"),
        ("\u202elower left lung", "control_characters"),
        ("lower\u200b left lung", "control_characters"),
        ("lower left lung " * 700, "too_long"),
        ("lower left lung, 肺炎", "other_script"),
        ("lower leff lung", "repaired_typo"),
    ],
)
def test_each_odd_sentence_has_its_code(predictor, sentence, code):
    assert code in predictor.open(PIXELS).segment(sentence).warnings


def test_a_sentence_of_ten_thousand_letters_is_cut_before_the_network_reads_it(predictor):
    found = predictor.open(PIXELS).segment("lower left lung " * 700)
    assert len(found.asked.sentence) == 2000


def test_every_code_has_one_explanation_in_words():
    assert set(WARNINGS) < set(CODES)
    assert all(" " in text and not text.endswith(".") for text in CODES.values())


def test_confidence_is_the_mean_within_the_mask():
    assert confidence(np.array([[0.2, 0.6], [0.8, 0.1]]), 0.5) == pytest.approx(0.7)
    assert confidence(np.zeros((2, 2)), 0.5) is None


def made(**changes):
    found = Calibration(
        frozenset({"pulmonary", "lung"}), 0.6, tuple(np.linspace(0.6, 0.9, 101)), 0.01, "x"
    )
    return replace(found, **changes)


def test_a_calibration_withholds_strange_words_and_unsure_masks():
    sure, unsure = np.full((4, 4), 0.8), np.full((4, 4), 0.55)
    sentence = "pulmonary lung"
    good = screen(sentence, parse(sentence), sure, 0.5, made())
    assert not good.abstained
    assert good.scores == Scores(existence=pytest.approx(0.67, abs=0.02))
    bad = screen(sentence, parse(sentence), unsure, 0.5, made())
    assert bad.abstained
    assert "unlike_validation_masks" in bad.codes
    assert bad.scores.existence == 0
    strange = "the lung of a dog that likes cake"
    found = screen(strange, parse(strange), sure, 0.5, made())
    assert found.abstained
    assert "unlike_training_text" in found.codes
    assert found.unknown_words == ("dog", "likes", "cake")
    nothing_marked = screen(sentence, parse(sentence), np.zeros((4, 4)), 0.5, made())
    assert not nothing_marked.abstained  # an empty mask is an answer


def test_words_that_neither_the_training_nor_medicine_knows_are_listed():
    sure = np.full((4, 4), 0.8)
    for sentence in ("opacity in the lower left lobe", "opacity in the lower left lung"):
        found = screen(sentence, parse(sentence), sure, 0.5, made())
        assert (found.codes, found.unknown_words) == ((), ())
    sentence = "frobnicated opacity in the lower left lung"
    found = screen(sentence, parse(sentence), sure, 0.5, made())
    assert not found.abstained
    assert found.codes == ("out_of_vocabulary",)
    assert found.unknown_words == ("frobnicated",)


def test_a_finding_that_is_hardly_seen_may_be_absent():
    sentence = "opacity in both lungs"
    for sure, expected, doubtful in ((0.89, 0.97, False), (0.605, 0.02, True)):
        found = screen(sentence, parse(sentence), np.full((4, 4), sure), 0.5, made())
        assert found.scores.existence == pytest.approx(expected, abs=0.02)
        assert ("may_be_absent" in found.codes) == doubtful
        assert not found.abstained
    nothing = np.zeros((4, 4))
    assert screen(sentence, parse(sentence), nothing, 0.5, made()).scores.existence == 0
    denied = "no opacity in either lung"
    assert screen(denied, parse(denied), nothing, 0.5, made()).scores.existence is None


def test_a_mask_beside_the_place_that_was_asked_is_named():
    sentence = "opacity in the lower left lung"
    image = parse(sentence, "auto", Laterality.IMAGE)
    probability = np.zeros((60, 60))
    probability[40:50, 10:20] = 0.9
    here = screen(sentence, image, probability, 0.5)
    there = screen(sentence, image, probability[:, ::-1], 0.5)
    assert (here.scores.agreement, here.codes) == (1.0, ())
    assert (there.scores.agreement, there.codes) == (0.0, ("mask_elsewhere",))
    # the mask is compared with what the network read, in its view
    read = parse("opacity in the lower right lung", "auto", Laterality.IMAGE)
    assert screen(sentence, image, probability[:, ::-1], 0.5, read=read).scores.agreement == 1.0
    for nothing in ("opacity", "no opacity in the left lung"):
        assert screen(nothing, parse(nothing), probability, 0.5).scores.agreement is None
    assert screen(sentence, image, np.zeros((60, 60)), 0.5).scores.agreement is None


def test_doubts_about_the_result_raise_no_warning_about_the_prompt(predictor):
    """The mask covers the whole image, most of it elsewhere."""
    predictor.set_image(PIXELS)
    found = predictor.segment("opacity in the upper left lung")
    assert found.warnings == ("mask_elsewhere",)
    assert found.scores.agreement < 0.5


def test_an_image_unlike_the_training_images_is_named():
    sentence = "opacity in both lungs"
    for likeness, expected in ((0.5, ()), (0.0, ("unlike_training_images",))):
        found = screen(
            sentence, parse(sentence), np.full((4, 4), 0.8), 0.5, made(), likeness=likeness
        )
        assert found.codes == expected
        assert found.scores.likeness == likeness


def test_the_vocabulary_holds_words_of_two_rows_and_no_sentence():
    words = vocabulary(["lower left lung, 3 areas", "upper left lung", "Smith"])
    assert words == ["left", "lung"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A small run on films that are easy to mark, and its calibration."""
    root = tmp_path_factory.mktemp("calibrate")
    config = PhantomConfig(size=(32, 32), difficulty=0.0)
    manifest = read_manifest(
        write_phantoms(root / "films", {"train": 24, "valid": 60, "test": 2}, config, 0)
    )
    recipe = get_method("text_prior").recipe().smoke()
    train(recipe, manifest, root / "run", cache_dir=root, progress=False)
    return root / "run", manifest, calibrate_run(root / "run", manifest, cache_dir=root), root


def warnings_of(run, manifest):
    """The codes of the first image of the test split."""
    row = manifest.rows_of("test")[0]
    return Predictor(run).open(manifest.root / row.image).segment(row.text).warnings


def test_calibrate_writes_what_predict_reads(calibrated):
    run, manifest, value, _ = calibrated
    assert json.loads((run / CALIBRATION).read_text()) == value
    assert value["n"] == 60
    assert value["data"] == manifest.hash()
    assert len(value["confidence_quantiles"]) == 101
    assert 0 <= value["withheld_own_sentence"] <= 0.1
    assert 0 < value["share_needed"] < 1
    text = (run / CALIBRATION).read_text()
    assert not any(row.text in text for row in manifest.rows)
    opened = Predictor(run).open(PIXELS)
    row = manifest.rows_of("valid")[0]
    found = opened.segment(row.text)
    assert not found.abstained
    assert found.scores.likeness is not None
    assert found.scores.existence is not None
    assert 0 < found.scores.existence <= 1
    assert "unlike_training_images" in found.warnings  # an image of one gray level
    assert "unlike_training_images" not in warnings_of(run, manifest)
    assert opened.segment("She tuned the violin before the concert.").abstained


def test_a_calibration_of_other_weights_or_a_damaged_one_is_refused(calibrated, tmp_path):
    run, _, value, _ = calibrated
    loaded = load_run(run)
    for name, text, message in (
        ("other", json.dumps(value | {"weights_sha256": "0" * 64}), "different weights"),
        ("damaged", json.dumps({"n": 3}), "Run textmask calibrate again"),
        ("odd", json.dumps(value | {"confidence_quantiles": [0.9, 0.1]}), "ascending"),
        ("known", json.dumps(value | {"known_images": {"layout": {}}}), "known_images"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes())
        (folder / CALIBRATION).write_text(text)
        with pytest.raises(CheckpointError, match=message):
            Predictor(replace(loaded, path=folder)).open(PIXELS).segment("lower left lung")


def test_images_alone_can_be_described_anew(calibrated, tmp_path):
    run, manifest, value, root = calibrated
    old = {name: kept for name, kept in value.items() if name != "known_images"}
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / CALIBRATION).write_text(json.dumps(old))
    assert Predictor(copy).open(PIXELS).segment("opacity").scores.likeness is None
    found = calibrate_run(copy, manifest, cache_dir=root, images_only=True)
    assert found == value == json.loads((copy / CALIBRATION).read_text())
    (copy / CALIBRATION).write_text(json.dumps(old | {"weights_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="different weights"):
        calibrate_run(copy, manifest, cache_dir=root, images_only=True)
    (copy / CALIBRATION).unlink()
    with pytest.raises(CheckpointError):
        calibrate_run(copy, manifest, cache_dir=root, images_only=True)


def test_calibrate_says_what_is_missing(calibrated):
    run, manifest, _, root = calibrated
    with pytest.raises(DataError, match="expected at least 20"):
        calibrate_run(run, manifest, "test", cache_dir=root)
    with pytest.raises(ConfigError, match="level"):
        calibrate_run(run, manifest, level=0.7, cache_dir=root)
    assert torch.is_grad_enabled()
