"""Prediction on own pictures: sizes, many sentences, folders, jobs, bad input, odd names."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from textmask.errors import DataError, PromptWarning
from textmask.method import get_method
from textmask.run.checkpoint import load_run
from textmask.run.predict import Job, Predictor, predict, read_jobs
from textmask.run.train import train


@pytest.fixture(scope="module")
def run(phantom_manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("predict")
    train(get_method("statement_unet").recipe().smoke(), phantom_manifest, out / "run", cache_dir=out, progress=False)
    return load_run(out / "run")


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    return path


def test_masks_and_probabilities_have_the_size_of_the_picture(run, film):
    found = Predictor(run).set_image(film).segment("lower left lung")
    assert found.mask.shape == found.probability.shape == (50, 70)
    assert set(np.unique(found.mask)) <= {0, 1}
    np.testing.assert_array_equal(found.mask, found.probability > run.recipe.threshold)


def test_many_sentences_decode_the_picture_once_and_order_does_not_matter(run, film, monkeypatch):
    predictor = Predictor(run).set_image(film)
    first = predictor.segment("lower left lung")
    monkeypatch.setattr("textmask.run.predict.read_image", lambda path: pytest.fail("decoded again"))
    predictor.segment("upper right lung")
    np.testing.assert_array_equal(predictor.segment("lower left lung").probability, first.probability)


def test_arrays_and_colour_pictures_are_taken(run):
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    a = Predictor(run).set_image(grey).segment("lower left lung")
    b = Predictor(run).set_image(np.repeat(grey[:, :, None], 3, 2)).segment("lower left lung")
    np.testing.assert_allclose(a.probability, b.probability, atol=1e-6)
    with pytest.raises(DataError, match="expected uint8"):
        Predictor(run).set_image(grey.astype(np.float32))
    with pytest.raises(DataError, match="set_image first"):
        Predictor(run).segment("lower left lung")


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        ("", "empty_text"),
        ("Hello World", "nothing_parsed"),
        ("lower left lung " * 700, "too_long"),
        ("\u202elower left lung", "control_characters"),
        ("Lungenentzündung links unten", "nothing_parsed"),
    ],
)
def test_odd_sentences_give_a_named_warning_and_no_crash(run, film, sentence, code):
    with pytest.warns(PromptWarning):
        found = Predictor(run).set_image(film).segment(sentence)
    assert code in found.warnings


def test_a_job_writes_mask_overlay_and_result_and_is_skipped_the_next_time(run, film, tmp_path):
    out = tmp_path / "out"
    jobs = read_jobs(film, "lower left lung")
    assert [r.status for r in predict(run, jobs, out, probability=True)] == ["done"]
    stem = jobs[0].stem
    assert {p.name for p in out.iterdir()} == {
        f"{stem}.{kind}" for kind in ("mask.png", "overlay.png", "probability.png", "json")
    }
    mask = cv2.imread(str(out / f"{stem}.mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (50, 70)
    assert set(np.unique(mask)) <= {0, 255}
    deep = cv2.imread(str(out / f"{stem}.probability.png"), cv2.IMREAD_UNCHANGED)
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep > run.recipe.threshold * 65535 + 0.5, mask > 0)
    result = json.loads((out / f"{stem}.json").read_text())
    assert result["left_means"] == "image side"
    assert result["understood"]["zones"] == ["left lower"]
    before = (out / f"{stem}.mask.png").stat().st_mtime_ns
    assert [r.status for r in predict(run, jobs, out)] == ["skipped"]
    assert (out / f"{stem}.mask.png").stat().st_mtime_ns == before
    assert [r.status for r in predict(run, jobs, out, overwrite=True)] == ["done"]


def test_a_folder_and_a_jobs_file(run, film, tmp_path):
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "b.jpg"), np.zeros((20, 20), np.uint8))
    assert len(read_jobs(tmp_path, "left lung")) == 2
    table = tmp_path / "jobs.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "text"], ["film.png", "upper left lung"], ["sub/b.jpg", "a, b"]])
    jobs = read_jobs(table, None)
    assert [(job.image.name, job.text) for job in jobs] == [("film.png", "upper left lung"), ("b.jpg", "a, b")]
    listed = tmp_path / "jobs.json"
    listed.write_text(json.dumps([{"image": "film.png", "text": "left lung", "name": "../../etc/x"}]))
    assert "/" not in read_jobs(listed, None)[0].stem
    results = predict(run, jobs, tmp_path / "out")
    assert [r.status for r in results] == ["done", "done"]


def test_a_picture_that_cannot_be_read_fails_alone(run, film, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(film.read_bytes()[:200])
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    jobs = [Job(p, "left lung") for p in (broken, film, empty, tmp_path / "missing.png")]
    results = predict(run, jobs, tmp_path / "out")
    assert [r.status for r in results] == ["failed", "done", "failed", "failed"]
    assert all(r.job.image.name in r.message for r in results if r.status == "failed")
    assert len(list((tmp_path / "out").glob("*.json"))) == 1


def test_names_of_odd_prompts_are_short_safe_and_do_not_collide(tmp_path):
    prompts = ["lung?", "lung!", "x" * 5000, "../../etc", "\u202eabc", "肺", "", "a/b\\c\0d", "=1+1"]
    stems = [Job(tmp_path / "a.png", prompt).stem for prompt in prompts]
    assert len(set(stems)) == len(prompts)
    assert all(len(stem) < 90 and not set(stem) & set("/\\\0?:=") and stem[0] != "." for stem in stems)


def test_nothing_to_do_says_so(tmp_path, film):
    with pytest.raises(DataError, match="does not exist"):
        read_jobs(tmp_path / "nope.png", "left")
    with pytest.raises(DataError, match="needs a sentence"):
        read_jobs(film, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        read_jobs(tmp_path / "empty", "left")
    for name, text in (("a.csv", "picture,sentence\nx,y\n"), ("b.json", "{"), ("c.json", "[]"), ("d.json", "[1]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError):
            read_jobs(tmp_path / name, None)


def test_a_16_bit_picture_is_read(run, tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), (np.random.default_rng(0).random((30, 30)) * 65535).astype(np.uint16))
    assert Predictor(run).set_image(path).segment("lower left lung").mask.shape == (30, 30)


def test_prediction_is_deterministic_and_leaves_no_gradient(run, film):
    a, b = (Predictor(run).set_image(film).segment("lower left lung").probability for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert torch.is_grad_enabled()
