"""What a mirrored image does to words: organs keep their names, verbs and idioms stay, the rest is refused."""

import pytest

from textmask.text.edit import mirror
from textmask.text.grammar import parse


@pytest.mark.parametrize(
    "sentence",
    [
        "The left ventricle looks dilated.",
        "The left ventricular cavity, seen in two-chamber view of the heart.",
        "The left atrium in a four-chamber view, cardiac ultrasound.",
        "The right and left ventricles are normal.",
        "Right atrial enlargement.",
        "The patient left the ward.",
        "She left before the second view.",
        "It will be all right.",
        "Left to right shunt.",
        "Right-to-left shunting is suspected.",
        "Leads in the right atrium and right ventricle.",
        "Right ventricular lead tip.",
        "Left heart failure.",
        "The left anterior descending artery is calcified.",
        "Myocardium of the left ventricle in short axis.",
        "The right coronary artery is normal.",
        "Both lungs are clear.",
        "He was left untreated.",
    ],
)
def test_a_side_that_is_part_of_a_name_or_no_side_at_all_stays(sentence):
    assert mirror(sentence) == sentence


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "The left ventricle is dilated. Left base opacity.",
            "The left ventricle is dilated. Right base opacity.",
        ),
        (
            "The patient left the ward; right apical scar.",
            "The patient left the ward; left apical scar.",
        ),
        (
            "Left-sided pacemaker with a right ventricular lead.",
            "Right-sided pacemaker with a right ventricular lead.",
        ),
        (
            "Right lobe of the liver, left base opacity",
            "Right lobe of the liver, right base opacity",
        ),
        ("Left shoulder fracture.", "Right shoulder fracture."),
        ("The right hemidiaphragm is flattened.", "The left hemidiaphragm is flattened."),
        ("Tube in the right main bronchus.", "Tube in the left main bronchus."),
        ("L base opacity", "R base opacity"),
        ("Opacity at the (R) base", "Opacity at the (L) base"),
        ("Basilar opacities, L>R.", "Basilar opacities, R>L."),
        ("All left lung and lower right lung", "All right lung and lower left lung"),
        ("Left chest tube, heart normal.", "Right chest tube, heart normal."),
        ("Right jugular line.", "Left jugular line."),
        ("LLL and RUL opacity", "RLL and LUL opacity"),
        ("Left greater than right effusions", "Right greater than left effusions"),
        ("Aortic arch calcified. Left base opacity.", "Aortic arch calcified. Right base opacity."),
    ],
)
def test_sides_of_lungs_and_paired_organs_are_exchanged(sentence, expected):
    assert mirror(sentence) == expected
    assert mirror(expected) == sentence


@pytest.mark.parametrize(
    "sentence",
    [
        "Dextrocardia with a left base opacity.",
        "Situs inversus.",
        "Right-sided aortic arch.",
        "The liver is on the right.",
        "Stomach bubble on the left.",
        "Spleen normal, liver on the left",
        "The spleen on the left is enlarged.",
        "Left-sided gallbladder.",
        "The aortic knob is on the left.",
        "Riht base opacity",
        "Opacity of the lft lung",
        "right middle lobe opacity",
        "lingular opacity",
        "Verschattung links",
        "opacité du lobe inférieur gauche",
        "Opacidad en la base derecha",
        "Naciek w płacie dolnym lewym",
        "左肺",
    ],
)
def test_what_cannot_stay_true_is_refused(sentence):
    assert mirror(sentence) is None


def test_a_mirrored_sentence_claims_the_mirrored_zones():
    for sentence in (
        "Left base opacity, right lung clear.",
        "Effusions, right greater than left",
        "R apex, L base",
    ):
        after = parse(mirror(sentence), "report")
        assert after.zones == parse(sentence, "report").mirrored().zones
        assert after.negated == parse(sentence, "report").mirrored().negated
