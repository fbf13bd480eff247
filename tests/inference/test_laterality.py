"""Whose left: every case of the contract, and that no side is ever exchanged in silence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import ConfigError, LateralityError
from textmask.inference.laterality import mirrored, names_side, translate
from textmask.inference.predictor import Predictor
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run
from textmask.runs.layout import WEIGHTS
from textmask.statement import LUNG_ZONES, Laterality, Level, Side, Statement
from textmask.text.edit import mirror
from textmask.text.grammar import parse
from textmask.text.render import render
from textmask.types import Output

IMAGE, PATIENT, UNKNOWN = Laterality.IMAGE, Laterality.PATIENT, Laterality.UNKNOWN
BRIGHT = 0.5


class Obeys(Method):
    """Marks what is bright in the half and the third that the sentence names; left is the left of what it is shown."""

    def forward(self, image, text):
        b, _, h, w = image.shape
        cells = text.zones.reshape(b, 3, 3)[
            :, [0, 2]
        ]  # sides left and right, levels upper to lower
        rows = (torch.arange(h) * 3 // h).clamp(max=2)
        columns = (torch.arange(w) * 2 // w).clamp(max=1)
        place = cells[:, columns][:, :, rows].transpose(1, 2)[:, None]
        return Output(torch.where((place > 0) & (image[:, :1] > BRIGHT), 4.0, -4.0))


class ObeysThePatient(Obeys):
    """The same, having learnt the patient's sides on films in their usual view."""

    def forward(self, image, text):
        return super().forward(
            image, replace(text, zones=text.zones.reshape(-1, 3, 3).flip(1).reshape(-1, 9))
        )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Predictors that have learnt the side of the picture, that of the patient, and nobody knows."""
    made = {}
    for side, method in ((IMAGE, Obeys()), (PATIENT, ObeysThePatient()), (UNKNOWN, Obeys())):
        folder = tmp_path_factory.mktemp(str(side))
        (folder / WEIGHTS).write_bytes(b"weights")
        recipe = get_method("statement_unet").recipe().smoke().override("image_size=[60, 60]")
        made[side] = Predictor(Run(folder, recipe, method.eval(), {"laterality": str(side)}, {}))
    return made


def dicom(pixels, columns, rows):
    return LoadedImage(pixels, "dicom", Orientation(columns, rows, "PatientOrientation"))


def film(seed=0):
    """A bright picture in its usual view with a few dark places, the patient's left on the right."""
    pixels = np.full((60, 60), 255, np.uint8)
    pixels[np.random.default_rng(seed).random((60, 60)) < 0.2] = 0
    return pixels


def marked(found):
    """(left or right, upper middle or lower) of what is marked in the picture as it is stored."""
    rows, columns = np.nonzero(found.mask)
    assert rows.size
    return (
        "left" if columns.max() < 30 else "right" if columns.min() >= 30 else "both",
        rows.mean() / 60,
    )


def test_the_same_dicom_picture_tagged_the_other_way_gives_the_mirrored_mask(models):
    # a picture without dark places: what differs is the tag alone
    pixels = np.full((60, 60), 255, np.uint8)
    for model in (models[IMAGE], models[PATIENT]):
        one = model.open(dicom(pixels, "L", "F")).segment("left lower lobe")
        other = model.open(dicom(pixels, "R", "F")).segment("left lower lobe")
        assert marked(one)[0] == "right"
        assert np.array_equal(other.mask, one.mask[:, ::-1])
        assert np.array_equal(other.probability, one.probability[:, ::-1])


def test_left_lower_lobe_of_a_report_is_the_patients_left_whatever_the_model_has_learnt(models):
    for model in (models[IMAGE], models[PATIENT]):
        found = model.open(dicom(film(), "L", "F")).segment("Opacity in the left lower lobe.")
        side, height = marked(found)
        assert side == "right"  # of the picture: the patient's left
        assert height > 2 / 3
    asked = (
        models[IMAGE].open(dicom(film(), "L", "F")).segment("Opacity in the left lower lobe.").asked
    )
    assert asked.sentence == "Opacity in the right lower lobe."
    assert (asked.said, asked.model, asked.assumed) == (PATIENT, IMAGE, False)
    assert asked.view == "L\\F (PatientOrientation)"
    assert "patient side to the image side" in asked.conversion
    json.dumps(asked.as_json())


@pytest.mark.parametrize(
    ("columns", "rows"), [("L", "F"), ("R", "F"), ("L", "H"), ("R", "H"), ("F", "L"), ("H", "R")]
)
def test_however_a_film_is_stored_the_same_tissue_is_marked(models, columns, rows):
    usual = film()
    stored = Orientation(columns, rows).from_usual(usual)
    for model in (models[IMAGE], models[PATIENT]):
        expected = model.open(dicom(usual, "L", "F")).segment("left upper lobe").mask
        found = model.open(dicom(stored, columns, rows)).segment("left upper lobe").mask
        assert found.shape == stored.shape
        assert np.array_equal(Orientation(columns, rows).to_usual(found), expected)


def test_ap_is_pa_and_a_mirrored_view_is_turned(models):
    pixels = film()
    for model in (models[IMAGE], models[PATIENT]):
        masks = {
            v: model.open(pixels, v).segment("left lung", laterality="patient").mask
            for v in ("pa", "ap")
        }
        assert np.array_equal(masks["pa"], masks["ap"])
        mirrored_film = model.open(np.ascontiguousarray(pixels[:, ::-1]), "mirrored")
        assert np.array_equal(
            mirrored_film.segment("left lung", laterality="patient").mask, masks["pa"][:, ::-1]
        )


def test_an_image_side_request_means_the_picture_as_it_is_stored(models):
    pixels = film()
    for model in (models[IMAGE], models[PATIENT]):
        for view in ("pa", "mirrored"):
            found = model.open(pixels, view).segment("left lung", laterality="image")
            assert marked(found)[0] == "left", (model.laterality, view)
    turned = models[IMAGE].open(pixels, "mirrored").segment("left lung").asked
    assert turned.sentence == "right lung"
    assert "mirrored" in turned.conversion
    assert (
        models[PATIENT].open(pixels, "mirrored").segment("left lung").asked.sentence == "left lung"
    )


def test_equal_conventions_of_a_plain_picture_need_no_view(models):
    found = models[IMAGE].open(film()).segment("lower left lung")
    assert marked(found)[0] == "left"
    assert found.asked.sentence == "lower left lung"
    assert found.asked.view == ""
    found = models[PATIENT].open(film()).segment("lower left lung", laterality="patient")
    assert marked(found)[0] == "right"


def test_what_nobody_knows_is_refused_with_what_to_do(models):
    plain = models[IMAGE].open(film())
    with pytest.raises(LateralityError, match="--view pa"):
        plain.segment("left lung", laterality="patient")
    with pytest.raises(LateralityError, match="--view pa"):
        models[PATIENT].open(film()).segment("left lung")
    with pytest.raises(
        LateralityError, match=r"--laterality image or patient.*--assume image or patient"
    ):
        plain.segment("left lung", laterality="unknown")
    with pytest.raises(LateralityError, match="the model's laterality convention"):
        models[UNKNOWN].open(film()).segment("left lung")
    no_tag = models[IMAGE].open(LoadedImage(film(), "dicom"))
    with pytest.raises(LateralityError, match="unknown where the patient's left is"):
        no_tag.segment("left lung")
    with pytest.raises(LateralityError, match="unknown where"):  # an assumed convention is no view
        no_tag.segment("left lung", assume="image")
    with pytest.raises(ConfigError, match="laterality"):
        plain.segment("left lung", laterality="mine")
    with pytest.raises(ConfigError, match="assumed"):
        plain.segment("left lung", assume="unknown")
    with pytest.raises(ConfigError, match="view"):
        models[IMAGE].open(film(), "upside")


def test_an_assumption_answers_and_is_recorded(models):
    found = models[UNKNOWN].open(film()).segment("left lung", assume="image")
    assert marked(found)[0] == "left"
    assert found.asked.assumed
    assert found.asked.model is IMAGE
    found = models[IMAGE].open(film()).segment("left lung", laterality="unknown", assume="image")
    assert found.asked.assumed
    known = models[IMAGE].open(dicom(film(), "L", "F")).segment("left lung", assume="image")
    assert not known.asked.assumed  # nothing was unknown
    assert marked(known)[0] == "right"


def test_without_a_side_nothing_is_refused_or_changed(models):
    for model in models.values():
        for picture in (
            film(),
            dicom(film(), "R", "F"),
            dicom(film(), "A", "F"),
            LoadedImage(film(), "nifti"),
        ):
            for sentence in (
                "opacity in both lungs",
                "bilateral lower lobes",
                "left and right lung",
                "pneumonia",
            ):
                asked = model.open(picture).segment(sentence, laterality="unknown").asked
                assert asked.sentence == sentence
                assert "no side" in asked.conversion


def test_a_lateral_view_cannot_tell_sides(models):
    for model in (models[IMAGE], models[PATIENT]):
        for laterality in ("image", "patient"):
            with pytest.raises(LateralityError, match="both sides over each other"):
                model.open(film(), "lateral").segment("left lung", laterality=laterality)
    sentence = "one lesion, located in middle left of the image"
    assert marked(models[IMAGE].open(film(), "lateral").segment(sentence))[0] == "left"


def test_a_picture_on_its_side_has_no_left_of_its_own(models):
    stored = dicom(film(), "F", "L")
    with pytest.raises(LateralityError, match="rotated by 90 degrees"):
        models[IMAGE].open(stored).segment("left lung", laterality="image")
    upside_down = dicom(film(), "R", "H")
    assert (
        marked(models[IMAGE].open(upside_down).segment("left lung", laterality="image"))[0]
        == "left"
    )
    with pytest.raises(LateralityError, match="top or the bottom"):
        models[IMAGE].open(upside_down).segment(
            "one lesion, located in top left of the image", laterality="image"
        )


def test_a_named_view_overrules_the_file_and_says_so(models):
    found = models[IMAGE].open(dicom(film(), "R", "F"), "pa").segment("left lung")
    assert marked(found)[0] == "right"
    assert "view_overruled" in found.warnings
    assert found.asked.view == "L\\F (view pa)"
    assert models[IMAGE].open(dicom(film(), "L", "F"), "pa").segment("left lung").warnings == (
        "missing_level",
    )


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Consolidation in the right middle lobe.", "Consolidation in the left middle zone."),
        ("RML and RLL opacity", "left middle zone and LLL opacity"),
        ("lingular opacity", "right middle zone opacity"),
        ("LEft lung", "right lung"),
        ("lower leff lung", "lower right lung"),
        ("heart enlarged to the left", "heart enlarged to the right"),
    ],
)
def test_sentences_that_only_one_lung_can_have_are_rewritten_in_plain_words(sentence, expected):
    assert names_side(sentence)
    out = mirrored(sentence)
    assert out == expected
    assert parse(out).zones == parse(sentence).mirrored().zones


@pytest.mark.parametrize(
    "sentence", ["retrocardiac opacity on the left", "Verschattung links", "en la derecha", "左肺"]
)
def test_what_cannot_be_rewritten_is_refused_where_it_would_have_to_be(models, sentence):
    assert names_side(sentence)
    with pytest.raises(LateralityError, match="cannot be rewritten safely"):
        models[IMAGE].open(dicom(film(), "L", "F")).segment(sentence)
    models[IMAGE].open(film()).segment(sentence)  # nothing to exchange


@pytest.mark.parametrize(
    ("sentence", "marked_side"),
    [
        ("Opacity in the middle lobe.", "left"),
        ("Consolidation in the lingula.", "right"),
        ("Lingular opacity and right lower lobe opacity", None),
        ("Verschattung im Mittellappen", None),
    ],
)
def test_a_side_that_only_anatomy_implies_is_never_one_of_the_image(models, sentence, marked_side):
    with pytest.raises(LateralityError, match="only one lung of the patient"):
        models[IMAGE].open(film()).segment(sentence)
    with pytest.raises(LateralityError, match="only one lung of the patient"):
        models[PATIENT].open(film(), "pa").segment(sentence, laterality="image")

    # the patient's middle lobe is on the left of a usual radiograph
    if marked_side:
        found = models[IMAGE].open(film(), "pa").segment(sentence, laterality="patient")
        assert marked(found)[0] == marked_side


@pytest.mark.parametrize(
    "sentence",
    ["Opacity in the right middle lobe.", "right upper lobe and middle lobe", "RML opacity"],
)
def test_a_side_that_is_written_is_one_of_the_image(models, sentence):
    assert marked(models[IMAGE].open(film()).segment(sentence))[0] == "right"


def test_hidden_characters_do_not_smuggle_a_side(models):
    for sentence in ("le\u200bft lung", "\u202eleft lung", "ｌｅｆｔ lung\u200b"):
        found = models[IMAGE].open(dicom(film(), "L", "F")).segment(sentence)
        assert marked(found)[0] == "right"
        assert found.asked.sentence == "right lung"


@pytest.mark.parametrize(
    "glued", ["middle,anda" + "anda" * 60 + "!", "middle" + " and a" * 300, "the left " * 220]
)
def test_long_hostile_sentences_are_read_in_reasonable_time(glued):
    names_side(glued)  # a pattern that tries every cut would not come back


zones = st.frozensets(st.sampled_from(LUNG_ZONES), min_size=1)
sentences = st.tuples(zones, st.sampled_from(["qata", "qata_original", "report"])).map(
    lambda drawn: render(Statement(zones=drawn[0]), drawn[1])
)


@settings(max_examples=40, deadline=None)
@given(sentence=sentences, seed=st.integers(0, 99), side=st.sampled_from([IMAGE, PATIENT]))
def test_a_flipped_picture_with_the_swapped_sentence_gives_the_flipped_mask(
    models, sentence, seed, side
):
    pixels, model = film(seed), models[side]
    flipped = np.ascontiguousarray(pixels[:, ::-1])
    swapped = mirror(sentence)
    a = model.open(pixels).segment(sentence, laterality=str(side))
    b = model.open(flipped).segment(swapped, laterality=str(side))
    assert np.array_equal(b.mask, a.mask[:, ::-1])


@settings(max_examples=60, deadline=None)
@given(
    sentence=sentences,
    said=st.sampled_from([IMAGE, PATIENT]),
    learnt=st.sampled_from([IMAGE, PATIENT]),
    stored=st.sampled_from([("L", "F"), ("R", "F"), ("L", "H"), ("R", "H")]),
)
def test_the_mask_lies_where_the_sentence_says_in_every_case(
    models, sentence, said, learnt, stored
):
    picture = dicom(np.full((60, 60), 255, np.uint8), *stored)
    found = models[learnt].open(picture).segment(sentence, laterality=str(said))
    expected = np.zeros((60, 60), np.uint8)
    for side, level in parse(sentence).zones:
        on_the_left = (side is Side.LEFT) == (said is IMAGE or stored[0] == "R")
        row = list(Level).index(level) if stored[1] == "F" else 2 - list(Level).index(level)
        expected[row * 20 : row * 20 + 20, slice(0, 30) if on_the_left else slice(30, 60)] = 1
    assert np.array_equal(found.mask, expected)


def test_translate_never_guesses():
    for said in Laterality:
        for model in Laterality:
            for orientation in (
                None,
                Orientation("L", "F"),
                Orientation("R", "F"),
                Orientation("P", "F"),
            ):
                sagittal = orientation is not None and orientation.patient_left is None
                known = (
                    UNKNOWN not in (said, model)
                    and not sagittal
                    and (orientation is not None or said is model)
                )
                if known:
                    translate("left lung", said, model, orientation)
                else:
                    with pytest.raises(LateralityError):
                        translate("left lung", said, model, orientation)
