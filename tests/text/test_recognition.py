"""The grammar is chosen by all words, by the data set, or by the run; never by a single noun."""

import pytest

from textmask.statement import Level, Side
from textmask.text.grammar import parse

L, R, C = Side.LEFT, Side.RIGHT, Side.CENTER
U, M, D = Level.UPPER, Level.MIDDLE, Level.LOWER


@pytest.mark.parametrize(
    ("sentence", "zones"),
    [
        ("one huge dark oval skin melanoma, located in top left of the image", {(L, U)}),
        ("skin melanoma which is a dark spot located in center of the image", {(C, M)}),
        ("two small pink foot ulcer, located in left, bottom of the image", {(L, M), (C, D)}),
        (
            "one small white flat foot ulcer which is an open wound in foot and toes located in top right of the image",
            {(R, U)},
        ),
        (
            "Two oval benign tumors at the right, left in the breast ultrasound image.",
            {(R, M), (L, M)},
        ),
        ("One large malignant tumor at the bottom left in the breast ultrasound image.", {(L, D)}),
        (
            "Pleural Effusion of shape round, and located in bottom left of the lateral view of a Chest Xray.",
            {(L, D)},
        ),
        (
            "Support Devices of irregular shape, and located in top of the frontal view of a Chest Xray.",
            {(C, U)},
        ),
        (
            "Lung Lesion of shape oval, and located in right of the lateral view of a Chest Xray. Edema is present.",
            {(R, M)},
        ),
        ("Left ventricular cavity, dilated, in two-chamber view of the heart.", set()),
        (
            "Left atrium cavity in four-chamber view in the cardiac ultrasound with poor image quality.",
            set(),
        ),
        ("Myocardium of round shape in two-chamber view in the cardiac ultrasound.", set()),
        ("Atelectasis, as in the lateral view of a Chest Xray.", set()),
        ("three tiny brown triangle foot ulcer", set()),
        ("one small tan middle of the ear polyp", set()),
        ("pink right ear polyp", set()),
        ("There is no tumor in the breast ultrasound image.", set()),
        ("one medium yellow heart polyp, located in top right of the image", {(R, U)}),
        ("lesion in the upper left of the image", {(L, U)}),
    ],
)
def test_prompts_of_other_images_are_never_read_as_lungs(sentence, zones):
    statement = parse(sentence)
    assert set(statement.zones) == zones
    assert statement.grammar in ("lesion", "polyp")


@pytest.mark.parametrize(
    "sentence",
    [
        "kidney stone on the left",
        "left hip fracture",
        "left breast",
        "the right eye",
        "Glioma of the left hemisphere",
        "Cyst in the left kidney",
        "Right knee joint",
        "Ulcer of the left heel",
        "mass in the left lobe of the liver",
        "left optic disc",
        "right temporal lobe lesion",
        "left ovary",
        "the left iliac vein",
        "left vocal fold",
        "Right maxillary sinus opacified",
        "Left parotid tumor",
    ],
)
def test_without_a_word_of_the_chest_no_lung_is_read(sentence):
    statement = parse(sentence)
    assert not statement.zones
    assert not statement.negated


def test_a_chest_run_reads_places_without_a_word_of_the_chest():
    assert parse("mass on the left").grammar == "lesion"
    assert set(parse("mass on the left", "report").zones) == {(L, level) for level in Level}
    assert parse("upper left").grammar == "lesion"
    assert set(parse("upper left", "report").zones) == {(L, U)}


def test_the_reading_of_mosmed_is_reachable():
    caption = "Unilateral pulmonary infection, one infected area, left lung and upper right lung."
    assert set(parse(caption, "mosmed").zones) == {(R, U)}
    assert set(parse(caption).zones) == {(R, U), *((L, level) for level in Level)}


@pytest.mark.parametrize(
    "sentence",
    [
        "Frontal and lateral views of the chest. Left base opacity.",
        "Left lower lobe opacity is seen on the lateral view.",
        "Two lesions in the left lower lobe on this image.",
        "Left pleural effusion is seen best on the lateral view.",
        "Left basilar opacity, image quality is poor.",
    ],
)
def test_a_report_that_speaks_of_views_stays_a_report(sentence):
    statement = parse(sentence)
    assert statement.grammar == "report"
    assert statement.sides == {L}
