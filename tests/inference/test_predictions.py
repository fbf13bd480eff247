"""What an output folder holds next to the single masks: predictions.csv, and one label map per image."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from textmask.errors import ConfigError, DataError
from textmask.inference import batch
from textmask.inference.jobs import BatchItem
from textmask.inference.label_map import LabelMap
from textmask.inference.predictions import read_predictions
from textmask.inference.predictor import Predictor, Segmentation
from textmask.runs.checkpoint import load_run
from textmask.runs.layout import DEFAULT_RUN
from textmask.statement import Statement

SIDES = ("left lung", "right lung", "lower left lung")


@pytest.fixture(scope="module")
def run():
    found = load_run(DEFAULT_RUN)
    return replace(found, recipe=found.recipe.model_copy(update={"threshold": 1e-5}))


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    return path


def predict_folder(run, jobs, out):
    """Noise is no radiograph, so that the model would abstain."""
    return batch.predict_folder(run, jobs, out, abstain=False)


def lines_of(out):
    with (out / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_one_line_per_image_and_prompt(run, film, tmp_path):
    out = tmp_path / "out"
    jobs = [BatchItem(film, side, laterality="image") for side in SIDES]
    jobs.append(BatchItem(tmp_path / "missing.png", "left lung"))
    predict_folder(run, jobs, out)
    lines = lines_of(out)
    assert [(line["image"], line["text"]) for line in lines] == [
        (str(j.image), j.text) for j in jobs
    ]
    assert [line["status"] for line in lines] == ["done", "done", "done", "failed"]
    assert "no such file" in lines[3]["message"]
    for job, line in zip(jobs[:3], lines, strict=False):
        mask = cv2.imread(str(out / line["mask_file"]), cv2.IMREAD_UNCHANGED)
        assert int(line["foreground_px"]) == (mask > 0).sum() > 0
        assert float(line["foreground_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-6)
        found = Predictor(run).open(film).segment(job.text, job.laterality, abstain=False)
        inside = found.probability[found.mask > 0].mean()
        assert float(line["mean_probability"]) == pytest.approx(inside, abs=1e-5)

    # another call adds its lines, the same call replaces its own
    predict_folder(run, [BatchItem(film, "both lungs")], out)
    predict_folder(run, jobs[:1], out)
    lines = lines_of(out)
    assert [line["text"] for line in lines] == [*SIDES, "left lung", "both lungs"]
    assert lines[0]["status"] == "skipped"
    assert lines[0]["foreground_px"]


def test_cells_are_no_formulas_and_a_file_of_another_program_stays(run, film, tmp_path):
    out = tmp_path / "out"
    predict_folder(run, [BatchItem(film, "=1+1 left lung", laterality="image")], out)
    assert lines_of(out)[0]["text"] == "'=1+1 left lung"
    (out / "predictions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a file of textmask predict"):
        predict_folder(run, [BatchItem(film, "left lung")], out)


def test_several_prompts_give_one_label_map_with_a_legend(run, film, tmp_path):
    out = tmp_path / "out"
    jobs = [BatchItem(film, side, laterality="image") for side in SIDES]
    predict_folder(run, jobs, out)
    (legend_path,) = out.glob("*.labels.json")
    legend = json.loads(legend_path.read_text())
    labels = cv2.imread(str(legend_path.with_suffix(".png")), cv2.IMREAD_UNCHANGED)

    # each pixel belongs to the prompt that is surest of it
    opened = Predictor(run).open(film)
    found = [opened.segment(side, "image", abstain=False) for side in SIDES]
    scores = np.stack([np.where(one.mask > 0, one.probability, 0) for one in found])
    expected = np.where(scores.max(0) > 0, scores.argmax(0) + 1, 0)
    np.testing.assert_array_equal(labels, expected)
    assert len(np.unique(labels)) > 1
    assert [entry["text"] for entry in legend["labels"]] == list(SIDES)
    assert [entry["value"] for entry in legend["labels"]] == [1, 2, 3]
    assert legend["overlap_px"] == int((np.stack([f.mask for f in found]).sum(0) > 1).sum())

    # made again from results that exist, and not touched otherwise
    before = legend_path.with_suffix(".png").read_bytes()
    legend_path.unlink()
    assert {result.status for result in predict_folder(run, jobs, out)} == {"skipped"}
    assert legend_path.with_suffix(".png").read_bytes() == before
    assert legend_path.is_file()


def test_a_single_prompt_has_no_label_map(run, film, tmp_path):
    predict_folder(run, [BatchItem(film, "left lung", laterality="image")], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.labels.*"))


def test_prompts_of_an_image_need_not_follow_each_other(run, film, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(film.read_bytes())
    jobs = [BatchItem(path, side, laterality="image") for side in SIDES for path in (film, other)]
    results = predict_folder(run, jobs, tmp_path / "out")
    assert [result.job for result in results] == jobs
    assert len(list((tmp_path / "out").glob("*.labels.png"))) == 2


def test_more_than_255_prompts_need_16_bits(tmp_path):
    jobs = [BatchItem(Path("a.png"), f"structure {i}") for i in range(300)]
    labels = LabelMap(jobs)
    for job in jobs[-2:]:
        mask = np.eye(4, dtype=np.uint8) if job is jobs[-1] else 1 - np.eye(4, dtype=np.uint8)
        labels.add(job, Segmentation(mask, mask * np.float32(0.9), Statement(), ()))
    labels.write(tmp_path)
    found = cv2.imread(str(tmp_path / f"{labels.stem}.labels.png"), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    assert np.unique(found).tolist() == [299, 300]


def test_the_predictions_of_a_folder_as_a_data_frame(run, film, tmp_path):
    pytest.importorskip("pandas")
    predict_folder(run, [BatchItem(film, "left lung", laterality="image")], tmp_path / "out")
    frame = read_predictions(tmp_path / "out")
    assert frame["text"].tolist() == ["left lung"]
    assert frame["foreground_px"].sum() > 0


def test_without_pandas_the_error_says_what_to_install(run, film, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    predict_folder(run, [BatchItem(film, "left lung", laterality="image")], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"pip install 'textmask\[pandas\]'"):
        read_predictions(tmp_path / "out")
