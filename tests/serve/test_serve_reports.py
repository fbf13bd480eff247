"""A report over HTTP is read finding by finding, as `textmask predict --report` reads it."""

import base64

import cv2
import numpy as np
import pytest
from serving import upload

from textmask.inference.jobs import BatchItem, split_reports
from textmask.inference.predictor import Predictor
from textmask.inference.report_masks import prompts_of, segment_text
from textmask.io.images import read_image

REPORT = (
    "The left lung is clear. Patchy opacity in the right lower lobe and left upper lobe. "
    "No pleural effusion."
)
TWO = (
    "FINDINGS: Consolidation in the left upper lobe. Opacity in the right lower lobe. No effusion."
)


def decoded(text):
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


def test_both_places_of_a_report_are_found_and_nothing_contradicts(client, film):
    name = upload(client, film.read_bytes())
    body = client.post(f"/v1/images/{name}/masks", json={"sentence": REPORT}).json()
    assert body["statement"]["zones"] == [["left", "upper"], ["right", "lower"]]
    assert body["statement"]["cells"] == [["left", "upper"], ["right", "lower"]]
    assert not {one["code"] for one in body["warnings"]} & {
        "contradiction_negation",
        "contradiction_lateral",
    }
    assert [one["sentence"] for one in body["results"]] == [
        "Patchy opacity in the right lower lobe and left upper lobe"
    ]
    kinds = [(one["kind"], one["polarity"]) for one in body["statement"]["findings"]]
    assert ("effusion", "absent") in kinds


def test_every_finding_has_its_mask_and_the_whole_is_their_union(client, run, film):
    name = upload(client, film.read_bytes())
    body = client.post(
        f"/v1/images/{name}/masks", json={"sentence": TWO, "return": ["png", "rle"]}
    ).json()
    items, _ = split_reports([BatchItem(film, TWO)])
    assert [one["sentence"] for one in body["results"]] == [item.text for item in items]
    assert len(items) == 2
    opened = Predictor(run).open(read_image(film))
    masks = [opened.segment(item.text).mask for item in items]
    assert masks[0].any()
    assert masks[1].any()
    for mask, one in zip(masks, body["results"], strict=True):
        assert np.array_equal(decoded(one["png"]), mask * 255)
        assert one["foreground_px"] == mask.sum() == sum(one["rle"]["counts"][1::2])
    assert np.array_equal(decoded(body["png"]), np.maximum(*masks) * 255)
    linked = client.get(body["links"]["mask.png"]).content
    assert linked == base64.b64decode(body["png"])


def test_a_single_prompt_has_no_further_results(client, film):
    name = upload(client, film.read_bytes())
    for sentence in (
        "opacity in the lower left lung",
        "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung.",
        "Opacity in the left lower lobe, the right lung is clear.",
        "what a day",
        "No opacity. No effusion.",
    ):
        body = client.post(f"/v1/images/{name}/masks", json={"sentence": sentence}).json()
        assert body["results"] == [], sentence
        assert prompts_of(sentence) == (sentence,)


def test_a_finding_without_a_result_adds_nothing_at_any_threshold(client, film):
    name = upload(client, film.read_bytes())
    denied = {"sentence": "No opacity in the left lung. No effusion.", "threshold": 0}
    body = client.post(f"/v1/images/{name}/masks", json=denied).json()
    assert body["withheld"]
    assert body["foreground_px"] == 0


def test_the_patients_sides_are_converted_per_finding(client, film):
    name = upload(client, film.read_bytes())
    ask = {"sentence": TWO, "laterality": "patient", "view": "pa"}
    body = client.post(f"/v1/images/{name}/masks", json=ask).json()
    assert body["statement"]["zones"] == [["left", "upper"], ["right", "lower"]]
    assert body["statement"]["cells"] == [["left", "lower"], ["right", "upper"]]


def test_skipped_sections_are_named_once(run, film):
    text = "INDICATION: opacity in the left upper lobe. FINDINGS: Opacity in the right lower lobe."
    found = segment_text(Predictor(run).open(read_image(film)), text)
    assert found.whole.warnings.count("section_skipped") == 1
    assert [part.prompt for part in found.parts] == ["Opacity in the right lower lobe"]


@pytest.mark.parametrize("text", ["", " ", ".", "a.b.c.", "\x00", "The left lung. The right lung."])
def test_no_text_fails(run, film, text):
    opened = Predictor(run).open(read_image(film))
    found = segment_text(opened, text)
    assert found.whole.mask.shape == opened.loaded.pixels.shape[:2]
