"""Content words against one medical vocabulary: what is known, what is strange, and which organ it is about."""

import numpy as np
import pytest

from textmask.inference.screening import Calibration, screen
from textmask.text.grammar import parse
from textmask.text.lexicon import ROLES, lexicon, phrases_of, read_toml
from textmask.text.vocabulary import content_words, known_share, organs

TRAINING = frozenset(
    "bilateral unilateral pulmonary infection infected areas upper lower left right lung and".split()
)
CALIBRATION = Calibration(TRAINING, 0.6, tuple(np.linspace(0.6, 0.9, 101)), 0.01, "x")
SURE = np.full((4, 4), 0.85)


def judged(sentence):
    return screen(sentence, parse(sentence), SURE, 0.5, CALIBRATION)


@pytest.mark.parametrize(
    "sentence",
    [
        "Mild stable scarring at the left base",
        "8 mm nodule measuring approximately the same in the right upper lobe",
        "Patchy opacity is again demonstrated in the left mid lung",
        "Probable atelectasis versus infiltrate at the right base",
        "Unchanged small left effusion",
        "Ill-defined haziness in the left lower lobe",
        "Interval worsening of the right perihilar consolidation",
        "Minimal blunting of the left costophrenic angle",
        "Streaky densities in the lingula, likely chronic",
        "Dense calcified granuloma in the right apex",
        "Linear scar within the left upper lobe",
        "Moderate right pneumothorax",
        "Slightly improved bibasilar opacities",
        "Severe bullous emphysema of the upper lobes",
        "2.5 cm mass in the left upper lobe, new since the prior study",
        "Focal area of increased density in the right lower lung",
    ],
)
def test_located_clauses_of_real_style_are_answered(sentence):
    found = judged(sentence)
    assert not found.abstained
    assert known_share(sentence) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "You are right.",
        "Kidney stone on the right side",
        "heart of gold",
        "the liver",
        "Fracture of the left humerus",
        "a glass of water",
        "Please turn left at the lights",
        "The left ventricle",
        "Right ovarian cyst in the pelvis",
        "The brain",
        "left knee",
        "Cardiomegaly",
        "all right",
        "in the middle of nowhere",
        "Colonic polyp",
        "skin melanoma",
        "upper class, lower class",
    ],
)
def test_nothing_and_other_organs_get_no_mask(sentence):
    assert judged(sentence).abstained


def test_other_organs_are_refused_by_name():
    assert "other_organ" in judged("Cyst in the left kidney").codes
    assert "other_organ" not in judged("Opacity at the left base, kidney normal").codes
    assert organs("Opacity at the left base, kidney normal") == {"lung", "abdomen"}


def test_content_words_are_those_that_say_what_is_meant():
    assert content_words("A mild stable opacity, measuring 8 mm, in the left lower lobe") == (
        "opacity",
        "lobe",
    )
    assert content_words("it is") == ()


def test_each_phrase_has_one_role_and_no_value_is_listed_twice():
    assert {term.role for term in lexicon().values()} <= set(ROLES)
    for organ, groups in read_toml("medical.toml")["finding"].items():
        for group, kinds in groups.items():
            listed = [phrase for text in kinds.values() for phrase in phrases_of(text)]
            assert len(listed) == len(set(listed)), (organ, group)


def test_findings_are_named_by_one_vocabulary():
    for phrase, term in lexicon().items():
        if term.role == "finding":
            assert parse(phrase, "report").findings, phrase
