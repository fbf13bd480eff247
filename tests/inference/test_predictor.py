"""Prediction on own pictures: sizes, many sentences, folders, jobs, bad input, odd names."""

import csv
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from textmask.cluster import Launcher
from textmask.config import Recipe
from textmask.errors import CheckpointError, ConfigError, DataError, PromptWarning, TextMaskError
from textmask.inference import batch as jobs_module
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import BatchItem, read_jobs, split_reports
from textmask.inference.predictor import Predictor
from textmask.io.images import read_image
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import WEIGHTS
from textmask.training.loop import train
from textmask.types import Output


@pytest.fixture(scope="module")
def run(phantom_manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("predict")
    train(
        get_method("statement_unet").recipe().smoke(),
        phantom_manifest,
        out / "run",
        cache_dir=out,
        progress=False,
    )
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
    monkeypatch.setattr("textmask.io.read.read_image", lambda path: pytest.fail("decoded again"))
    predictor.segment("upper right lung")
    np.testing.assert_array_equal(
        predictor.segment("lower left lung").probability, first.probability
    )


def test_arrays_and_colour_pictures_are_taken(run):
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    a = Predictor(run).set_image(grey).segment("lower left lung")
    b = Predictor(run).set_image(np.repeat(grey[:, :, None], 3, 2)).segment("lower left lung")
    np.testing.assert_allclose(a.probability, b.probability, atol=1e-6)
    c = Predictor(run).set_image(grey.astype(np.float32)).segment("lower left lung")
    np.testing.assert_allclose(a.probability, c.probability, atol=1e-6)
    with pytest.raises(DataError, match="expected uint8"):
        Predictor(run).set_image(grey[None, None])
    with pytest.raises(DataError, match="set_image first"):
        Predictor(run).segment("lower left lung")


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        ("", "empty_text"),
        ("Hello World", "nothing_parsed"),
        ("lower left lung " * 700, "too_long"),
        ("\u202elower left lung", "control_characters"),
        ("Zapalenie płuc po lewej stronie", "nothing_parsed"),
    ],
)
def test_odd_sentences_give_a_named_warning_and_no_crash(run, film, sentence, code):
    with pytest.warns(PromptWarning):
        found = Predictor(run).set_image(film).segment(sentence)
    assert code in found.warnings


def test_a_job_writes_mask_overlay_and_result_and_is_skipped_the_next_time(run, film, tmp_path):
    out = tmp_path / "out"
    jobs = read_jobs(film, "lower left lung")
    assert [r.status for r in predict_folder(run, jobs, out, probability=True)] == ["done"]
    stem = jobs[0].stem
    assert {p.name for p in out.iterdir()} == {
        *(f"{stem}.{kind}" for kind in ("mask.png", "overlay.png", "probability.png", "json")),
        "predictions.csv",
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
    assert [r.status for r in predict_folder(run, jobs, out)] == ["skipped"]
    assert (out / f"{stem}.mask.png").stat().st_mtime_ns == before
    assert [r.status for r in predict_folder(run, jobs, out, overwrite=True)] == ["done"]


def test_a_folder_and_a_jobs_file(run, film, tmp_path):
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "b.jpg"), np.zeros((20, 20), np.uint8))
    assert len(read_jobs(tmp_path, "left lung")) == 2
    table = tmp_path / "jobs.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["image", "text"], ["film.png", "upper left lung"], ["sub/b.jpg", "a, b"]]
        )
    jobs = read_jobs(table, None)
    assert [(job.image.name, job.text) for job in jobs] == [
        ("film.png", "upper left lung"),
        ("b.jpg", "a, b"),
    ]
    listed = tmp_path / "jobs.json"
    listed.write_text(
        json.dumps([{"image": "film.png", "text": "left lung", "name": "../../etc/x"}])
    )
    assert "/" not in read_jobs(listed, None)[0].stem
    results = predict_folder(run, jobs, tmp_path / "out")
    assert [r.status for r in results] == ["done", "done"]


def test_a_picture_that_cannot_be_read_fails_alone(run, film, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(film.read_bytes()[:200])
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    jobs = [BatchItem(p, "left lung") for p in (broken, film, empty, tmp_path / "missing.png")]
    results = predict_folder(run, jobs, tmp_path / "out")
    assert [r.status for r in results] == ["failed", "done", "failed", "failed"]
    assert all(r.job.image.name in r.message for r in results if r.status == "failed")
    assert len(list((tmp_path / "out").glob("*.json"))) == 1


def test_names_of_odd_prompts_are_short_safe_and_do_not_collide(tmp_path):
    prompts = [
        "lung?",
        "lung!",
        "x" * 5000,
        "../../etc",
        "\u202eabc",
        "肺",
        "",
        "a/b\\c\0d",
        "=1+1",
    ]
    stems = [BatchItem(tmp_path / "a.png", prompt).stem for prompt in prompts]
    assert len(set(stems)) == len(prompts)
    assert all(
        len(stem) < 90 and not set(stem) & set("/\\\0?:=") and stem[0] != "." for stem in stems
    )


def test_nothing_to_do_says_so(tmp_path, film):
    with pytest.raises(DataError, match="does not exist"):
        read_jobs(tmp_path / "nope.png", "left")
    with pytest.raises(DataError, match="needs a prompt"):
        read_jobs(film, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no image"):
        read_jobs(tmp_path / "empty", "left")
    for name, text in (
        ("a.csv", "picture,sentence\nx,y\n"),
        ("b.json", "{"),
        ("c.json", "[]"),
        ("d.json", "[1]"),
    ):
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


class MarksTheSide(Method):
    """Marks the half that the sentence names: left third of the zones -> left half of the picture."""

    def forward(self, image, text):
        logits = torch.full((len(text), 1, *image.shape[-2:]), -4.0)
        half = image.shape[-1] // 2
        logits[text.zones[:, 0:3].any(1), :, :, :half] = 4.0
        logits[text.zones[:, 6:9].any(1), :, :, half:] = 4.0
        return Output(logits)


def make_run(folder, weights=b"model one", **data) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    recipe: Recipe = get_method("unet").recipe().smoke()
    return Run(folder, recipe, MarksTheSide().eval(), {"laterality": "image"} | data, {})


@pytest.fixture
def half(tmp_path):
    """A run whose answers are known: it marks the side that the sentence names."""
    return make_run(tmp_path / "run")


def result_of(out, job):
    return json.loads((out / f"{job.stem}.json").read_text())


def test_the_named_half_is_marked_in_the_size_of_the_picture(half, film):
    predictor = Predictor(half).set_image(film)
    left, right = predictor.segment("lower left lung"), predictor.segment("lower right lung")
    for found in (left, right):
        assert found.mask.shape == found.probability.shape == (50, 70)
        assert found.mask.dtype == np.uint8
        assert found.probability.dtype == np.float32
        assert found.warnings == ()
    expected = np.zeros((50, 70), np.uint8)
    expected[:, :35] = 1
    assert np.array_equal(left.mask, expected)
    assert np.array_equal(right.mask, 1 - expected)
    assert left.statement.laterality == "image"
    assert np.array_equal(predictor.segment("lower left lung").probability, left.probability)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (4, 4, 1), (0, 4), (1, 4, 4, 3)])
def test_arrays_that_are_no_picture_are_refused(half, shape):
    with pytest.raises(DataError, match="expected uint8 H W or H W 3"):
        Predictor(half).set_image(np.zeros(shape, np.uint8))


def test_a_picture_that_fails_does_not_leave_the_one_before_in_its_place(half, film, tmp_path):
    predictor = Predictor(half)
    with pytest.raises(DataError, match="no image is set"):
        predictor.segment("left lung")
    predictor.set_image(film)
    with pytest.raises(DataError, match="no such file"):
        predictor.set_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="no image is set"):
        predictor.segment("left lung")


def test_what_is_written(half, film, tmp_path):
    out, job = tmp_path / "out", BatchItem(film, "lower left lung")
    predict_folder(half, [job], out, probability=True)
    found = Predictor(half).set_image(film).segment(job.text)
    mask = cv2.imread(str(out / f"{job.stem}.mask.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, found.mask * 255)
    probability = cv2.imread(str(out / f"{job.stem}.probability.png"), cv2.IMREAD_UNCHANGED)
    assert probability.dtype == np.uint16
    assert np.abs(probability / 65535 - found.probability).max() <= 0.51 / 65535
    assert cv2.imread(str(out / f"{job.stem}.overlay.png")).shape == (50, 70, 3)
    assert len(list(out.iterdir())) == 5
    result = result_of(out, job)
    assert result["left_means"] == "image side"
    assert result["text"] == "lower left lung"
    assert (result["rows"], result["columns"], result["foreground_px"]) == (50, 70, 50 * 35)
    assert result["weights_sha256"] == Predictor(half).weights_sha256
    assert len(result["weights_sha256"]) == 64
    assert result["understood"]["zones"] == ["left lower"]


def test_the_laterality_of_the_model_is_stated(tmp_path, film):
    for side in ("patient", "unknown"):
        job, run = BatchItem(film, "both lungs"), make_run(tmp_path / side, laterality=side)
        predict_folder(run, [job], tmp_path / f"out-{side}")
        result = result_of(tmp_path / f"out-{side}", job)
        assert result["asked"]["model"] == side
        assert result["left_means"] == "image side"  # a plain picture, and nothing else was said
        (refused,) = predict_folder(run, [BatchItem(film, "left lung")], tmp_path / f"out-{side}")
        assert refused.status == "failed"
        assert "--laterality" in refused.message
        meant = BatchItem(film, "left lung", laterality="patient")
        (answered,) = predict_folder(run, [meant], tmp_path / f"out-{side}", assume="patient")
        assert answered.status == "done"
        result = result_of(tmp_path / f"out-{side}", meant)
        assert result["left_means"] == "patient side"
        assert result["asked"]["assumed"] == (side == "unknown")
    with pytest.raises(ConfigError, match="unknown laterality"):
        _ = Predictor(make_run(tmp_path / "odd", laterality="upside")).laterality


ODD = (
    "lung?",
    "lung!",
    "LUNG?",
    "../../outside",
    "/etc/passwd",
    "left lung " * 400,
    "left lung " * 400 + "x",
    "רֵאָה שְׂמָאלִית",
    "\u202eleft\u202c",
    "a\nb\tc\x00d",
    "left \ud800 lung",
    "",
    ".",
    "-rf",
    "con:nul*?<>|",
)


def test_output_names_are_safe_short_and_different(half, film, tmp_path):
    out = tmp_path / "deep" / "out"
    jobs = [BatchItem(film, text) for text in ODD] + [
        BatchItem(film, text, "../" + text) for text in ODD if "passwd" in text
    ]
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    results = predict_folder(half, jobs, out)
    assert {result.status for result in results} == {"done"}
    assert len({job.stem.casefold() for job in jobs}) == len(jobs)
    for job in jobs:
        assert len(job.stem) <= 80
        assert len(f"{job.stem}.probability.png".encode()) < 255
        assert not set(job.stem) & set('/\\\0?:=*<>|"\n\t ')
        assert not job.stem.startswith((".", "-"))
        assert (out / f"{job.stem}.mask.png").is_file()
    outside = {path for path in tmp_path.rglob("*") if out not in path.parents} - before
    assert outside == {out, out.parent}


def test_two_jobs_of_one_name_do_not_hide_each_other(half, film, tmp_path):
    jobs = [BatchItem(film, "left lung", "case"), BatchItem(film, "right lung", "case")]
    results = predict_folder(half, jobs, tmp_path / "out")
    assert [result.status for result in results] == ["done", "done"]
    assert jobs[0].stem != jobs[1].stem
    assert all(job.stem.startswith("case-") for job in jobs)


def test_a_picture_is_decoded_once_for_many_sentences(half, film, tmp_path, monkeypatch):
    reads = []

    def counting(path):
        reads.append(path)
        return read_image(path)

    monkeypatch.setattr("textmask.io.read.read_image", counting)
    predict_folder(
        half,
        [BatchItem(film, f"{level} left lung") for level in ("lower", "middle", "upper")],
        tmp_path / "out",
    )
    assert reads == [film]


def test_what_exists_is_skipped_unless_told(half, film, tmp_path):
    out, job = tmp_path / "out", BatchItem(film, "left lung")

    def status(**options):
        (result,) = predict_folder(half, [job], out, **options)
        return result.status

    assert status() == "done"
    mask = out / f"{job.stem}.mask.png"
    mask.write_bytes(b"mine")
    assert status() == "skipped"
    assert mask.read_bytes() == b"mine"
    assert status(overwrite=True) == "done"
    assert mask.read_bytes() != b"mine"
    assert status(probability=True) == "done"  # asked for later, so it is not all there yet
    assert status(probability=True) == "skipped"
    mask.unlink()
    assert status() == "done"


def test_an_image_that_was_replaced_under_its_name_is_predicted_again(half, film, tmp_path):
    # the old mask would be that of another patient
    image, out = tmp_path / "scan.png", tmp_path / "out"
    image.write_bytes(film.read_bytes())
    jobs = [BatchItem(image, "left lung"), BatchItem(image, "right lung")]
    assert [r.status for r in predict_folder(half, jobs, out)] == ["done", "done"]
    first = json.loads((out / f"{jobs[0].stem}.json").read_text())
    assert first["image_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()

    cv2.imwrite(str(image), np.full((40, 60), 90, np.uint8))
    again = predict_folder(half, jobs, out)
    assert [r.status for r in again] == ["done", "done"]
    assert "image has changed" in again[0].message
    mask = cv2.imread(str(out / f"{jobs[0].stem}.mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 60)

    # the same content is not made twice, whatever its date
    os.utime(image, (1, 1))
    assert [r.status for r in predict_folder(half, jobs, out)] == ["skipped", "skipped"]


def test_the_same_relative_path_in_two_folders_is_two_images(half, film, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for name, value in (("one", 20), ("two", 200)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.full((50, 70), value, np.uint8))
        monkeypatch.chdir(tmp_path / name)
        (found,) = predict_folder(half, [BatchItem(Path("a.png"), "left lung")], out)
        assert found.status == "done"


def test_a_result_that_does_not_say_its_image_is_skipped_with_a_word(half, film, tmp_path):
    out, job = tmp_path / "out", BatchItem(film, "left lung")
    predict_folder(half, [job], out)
    path = out / f"{job.stem}.json"
    record = json.loads(path.read_text())
    del record["image_sha256"]
    path.write_text(json.dumps(record))
    (found,) = predict_folder(half, [job], out)
    assert found.status == "skipped"
    assert "--overwrite" in found.message


def test_another_models_result_is_not_passed_off_as_this_ones(half, film, tmp_path):
    out, job = tmp_path / "out", BatchItem(film, "left lung")
    predict_folder(half, [job], out)
    (same,) = predict_folder(half, [job], out)
    assert same.message == ""
    (other,) = predict_folder(make_run(tmp_path / "other", b"model two"), [job], out)
    assert other.status == "skipped"
    assert "made by another model" in other.message


def test_a_full_disk_fails_the_job_and_leaves_no_result(half, film, tmp_path, monkeypatch):
    out, job = tmp_path / "out", BatchItem(film, "left lung")
    predict_folder(half, [job], out)

    def full(path, value):
        raise DataError("No space left on device")

    monkeypatch.setattr("textmask.inference.results.write_json", full)
    (result,) = predict_folder(half, [job], out, overwrite=True)
    assert result.status == "failed"
    assert "No space left" in result.message
    assert not (out / f"{job.stem}.json").exists()


def test_out_that_is_a_file_is_a_clear_error(half, film):
    with pytest.raises(DataError, match=r"film\.png: cannot be written"):
        predict_folder(half, [BatchItem(film, "left lung")], film)


def test_no_run_folder_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="run folder"):
        Predictor(tmp_path)


def test_hidden_files_and_earlier_results_are_no_pictures(half, film, tmp_path):
    folder = tmp_path / "films"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "deeper/c.tif", "._a.jpg", "notes.txt"):
        (folder / name).write_bytes(film.read_bytes())
    expected = [folder / "a.jpg", folder / "b.PNG", folder / "deeper" / "c.tif"]
    for _ in range(2):
        jobs = read_jobs(folder, "left lung")
        assert [job.image for job in jobs] == expected
        predict_folder(half, jobs, folder, probability=True)


@pytest.mark.parametrize(
    "content",
    [
        "image,text\nfilm.png,lower left lung\n",
        "\ufeffImage,Text,other\r\nfilm.png,lower left lung,1\r\n",
        "text;image\nlower left lung;film.png\n",
    ],
)
def test_jobs_of_a_csv(film, content):
    path = film.with_name("jobs.csv")
    path.write_text(content, encoding="utf-8")
    assert read_jobs(path, None) == [BatchItem(film, "lower left lung")]


def test_jobs_keep_the_sentence_as_it_is(film):
    path = film.with_name("jobs.csv")
    path.write_text(
        'image,text,name\nfilm.png,"one, two\nthree\u2028",n\nfilm.png,,\n', encoding="utf-8"
    )
    assert read_jobs(path, None) == [
        BatchItem(film, "one, two\nthree\u2028", "n"),
        BatchItem(film, ""),
    ]
    path = film.with_name("jobs.json")
    path.write_text('[{"image": "film.png", "text": "left lung"}]')
    assert read_jobs(path, None) == [BatchItem(film, "left lung")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "picture,sentence\nfilm.png,x\n", "expected the columns image and text"),
        ("a.csv", "image,text\n", "contains no items"),
        ("a.csv", "", "is empty"),
        ("a.csv", "image,text\n,left lung\n", "row 2: image is ''"),
        ("a.csv", "image,text\nfilm.png,left, lung\n", "row 2: 3 cells"),
        ("a.csv", f'image,text\nfilm.png,"{"x" * 200_000}"\n', "cannot be read as CSV"),
        ("a.json", "{}", "expected a list"),
        ("a.json", "[1]", "expected a list"),
        ("a.json", "[", "cannot be read as JSON"),
        ("a.json", "[" * 100_000, "cannot be read as JSON"),
        ("a.json", '[{"image": "film.png", "text": null}]', "item 1: text is None"),
        ("a.json", '[{"image": 3, "text": "x"}]', "item 1: image is 3"),
        ("a.json", '[{"image": "a\\u0000b", "text": "x"}]', "expected the path of an image"),
        ("a.json", '[{"image": "film.png", "text": "x", "name": [1]}]', "expected texts"),
        ("a.json", "[]", "contains no items"),
    ],
)
def test_jobs_files_that_are_wrong_say_where(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_jobs(tmp_path / name, None)


@pytest.fixture(scope="module")
def reading_run(phantom_manifest, tmp_path_factory):
    """A run whose frozen text encoder reads every new sentence once."""
    out = tmp_path_factory.mktemp("threads")
    train(
        get_method("guide_decoder").recipe().smoke(),
        phantom_manifest,
        out / "run",
        cache_dir=out,
        progress=False,
    )
    return load_run(out / "run")


def test_eight_threads_get_the_answers_that_one_gets(reading_run):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40 + i, 50), dtype=np.uint8) for i in range(8)]
    levels, sides = ("upper", "middle", "lower", "upper and lower"), ("left", "right")
    sentences = [
        f"{n} opacity in the {level} {side} lung"
        for level in levels
        for side in sides
        for n in ("an", "no")
    ]
    requests = [(i % 8, sentence) for i, sentence in enumerate(sentences * 6)]

    def answers(predictor, workers):
        opened = [predictor.open(picture) for picture in pictures]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda request: opened[request[0]].segment(request[1]), requests))

    together = answers(
        Predictor(reading_run), 8
    )  # first: the text encoder knows none of the sentences yet
    alone = answers(Predictor(load_run(reading_run.path)), 1)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.probability, b.probability, atol=1e-6)
        assert a.warnings == b.warnings
        assert a.asked == b.asked


def test_threads_share_a_text_table_that_starts_again(reading_run, monkeypatch):
    monkeypatch.setattr("textmask.nn.text_cache.MAX_CACHED_SENTENCES", 5)
    opened = Predictor(reading_run).open(np.zeros((40, 40), np.uint8))
    sentences = [f"{i} opacities in the lower left lung" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(opened.segment, sentences))
    assert len(found) == 40


def test_a_picture_is_encoded_once_where_the_method_can(half, film):
    calls = []

    class Apart(MarksTheSide):
        def image_features(self, image):
            calls.append(image.shape)
            return (image.mean(dim=1, keepdim=True),)

        def decode(self, features, image, text):
            assert features is not None
            return self(image, text)

    predictor = Predictor(replace(half, method=Apart().eval())).set_image(film)
    for sentence in ("lower left lung", "lower right lung", "upper left lung"):
        predictor.segment(sentence)
    assert len(calls) == 1


def test_a_long_sentence_is_counted_and_not_warned_about_in_python(reading_run):
    found = (
        Predictor(reading_run)
        .open(np.zeros((40, 40), np.uint8))
        .segment("opacity in the left lung " * 40)
    )
    assert "longer_than_window" in found.warnings


def test_a_picture_that_was_opened_does_not_change(half, film):
    predictor = Predictor(half)
    first = predictor.open(film)
    predictor.set_image(np.zeros((9, 9), np.uint8)).segment("lower left lung")
    assert first.segment("lower left lung").mask.shape == (50, 70)
    with pytest.raises(FrozenInstanceError):
        first.loaded = None


def test_the_result_records_what_the_contract_and_the_check_did(half, tmp_path, film):
    out = tmp_path / "out"
    jobs = [
        BatchItem(film, "lower left lung", view="mirrored"),
        BatchItem(film, "Hello World"),
        BatchItem(film, "no consolidation"),
    ]
    assert [r.status for r in predict_folder(half, jobs, out)] == ["done"] * 3
    turned, nothing, denied = (result_of(out, job) for job in jobs)
    assert turned["asked"] == {
        "said": "image",
        "model": "image",
        "view": "R\\F (view mirrored)",
        "sentence": "lower right lung",
        "conversion": turned["asked"]["conversion"],
        "assumed": False,
    }
    assert turned["abstained"] is False
    assert turned["foreground_px"] == 50 * 35
    assert nothing["abstained"] is True
    assert nothing["foreground_px"] == 0
    assert "no_medical_word" in nothing["warnings"]
    assert denied["warnings"] == ["absent_finding"]
    (kept,) = predict_folder(half, jobs[1:2], tmp_path / "kept", abstain=False)
    assert result_of(tmp_path / "kept", kept.job)["abstained"] is True


def test_a_sentence_whose_side_is_unknown_fails_alone(half, film, tmp_path):
    jobs = [
        BatchItem(film, "left lung", laterality="patient"),
        BatchItem(film, "left lung"),
        BatchItem(film, "left lung", view="sideways"),
    ]
    results = predict_folder(half, jobs, tmp_path / "out")
    assert [r.status for r in results] == ["failed", "done", "failed"]
    assert "--view pa" in results[0].message
    assert "unknown view" in results[2].message


def test_jobs_say_side_view_and_slice_for_themselves(film):
    path = film.with_name("jobs.csv")
    path.write_text(
        "image,text,laterality,view,index\nfilm.png,left lung,patient,pa,\nfilm.png,left lung,,,3\n"
    )
    jobs = read_jobs(path, None, laterality="image", view="mirrored")
    assert jobs == [
        BatchItem(film, "left lung", "", "patient", "pa"),
        BatchItem(film, "left lung", "", "image", "mirrored", 3),
    ]
    assert len({job.stem for job in [*jobs, BatchItem(film, "left lung")]}) == 3
    path = film.with_name("jobs.json")
    path.write_text('[{"image": "film.png", "text": "left lung", "index": 0}]')
    assert read_jobs(path, None)[0].index == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text,laterality\nfilm.png,x,mine\n", "unknown laterality 'mine'"),
        ("image,text,view\nfilm.png,x,upside\n", "unknown view 'upside'"),
        ("image,text,index\nfilm.png,x,-1\n", "index is '-1'"),
    ],
)
def test_jobs_with_a_wrong_side_view_or_slice_say_so_before_anything_is_done(
    tmp_path, content, message
):
    (tmp_path / "jobs.csv").write_text(content)
    with pytest.raises(TextMaskError, match=message):
        read_jobs(tmp_path / "jobs.csv", None)


def test_medical_files_of_a_folder_are_pictures(tmp_path):
    for name in ("a.dcm", "b.nii.gz", "c.nii", "d.nii.gz.txt", "e.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [job.image.name for job in read_jobs(tmp_path, "x")] == ["a.dcm", "b.nii.gz", "c.nii"]


def test_a_report_gives_a_job_for_each_finding(film):
    report = "The left lung is clear. Opacity in the right lower lobe. Nodule in the left upper lobe. No effusion."
    jobs, notes = split_reports([BatchItem(film, report), BatchItem(film, "The lungs are clear.")])
    assert [job.text for job in jobs] == [
        "Opacity in the right lower lobe",
        "Nodule in the left upper lobe",
    ]
    assert "2 findings" in notes[0]
    assert "denied: The left lung is clear; No effusion" in notes[0]
    assert "0 findings" in notes[1]
    assert len({job.stem for job in jobs}) == 2


def test_jobs_that_are_shared_among_processes_come_back_in_order(half, film, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "PART", 2)
    monkeypatch.setattr(jobs_module, "_loaded", lambda path, *how: Predictor(half))
    handed = []

    def backwards(engine, function, tasks, device):
        handed.extend(tasks)
        assert device == "auto"
        for i in reversed(range(len(tasks))):
            yield (i, None, "the machine went away") if i == 1 else (i, function(*tasks[i]), "")

    monkeypatch.setattr("textmask.cluster.run_tasks", backwards)
    # the prompts of one image stay together, because they share a label map
    films = [film.with_name(f"{level}.png") for level in ("upper", "lower", "whole")]
    for path in films:
        path.write_bytes(film.read_bytes())
    jobs = [
        BatchItem(path, f"{path.stem} {side} lung")
        for path in films[:2]
        for side in ("left", "right")
    ]
    seen = []
    results = predict_folder(
        half,
        [*jobs, BatchItem(films[2], "left lung")],
        tmp_path / "out",
        engine=Launcher("ray"),
        progress=lambda *n: seen.append(n),
    )
    assert [r.status for r in results] == ["done", "done", "failed", "failed", "done"]
    assert [r.job.text for r in results] == [job.text for job in jobs] + ["left lung"]
    assert results[2].message == "the machine went away"
    assert len(handed) == 3
    assert seen[-1] == ("images", 5, 5)
    assert [r.status for r in predict_folder(half, jobs, tmp_path / "out")] == [
        "skipped",
        "skipped",
        "done",
        "done",
    ]


def test_slurm_runs_no_pictures(half, film, tmp_path):
    with pytest.raises(ConfigError, match="--engine local or ray"):
        predict_folder(
            half, [BatchItem(film, "left lung")], tmp_path / "out", engine=Launcher("slurm")
        )
