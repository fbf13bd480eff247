"""Findings as objects: kind, place, polarity, certainty, change, size, span and attributes."""

import pytest
from zone_words import zones

from textmask.text.finding_lines import finding_lines
from textmask.text.findings import findings, read_findings
from textmask.text.grammar import parse


def first(sentence):
    return parse(sentence, "report").findings[0]


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("Small left effusion", "effusion"),
        ("Pleural fluid on the right", "effusion"),
        ("Ground-glass change at the left base", "opacity"),
        ("Right apical bulla", "cyst"),
        ("Left upper lobe tumor", "tumor"),
        ("5 mm nodule in the lingula", "nodule"),
        ("Bibasilar atelectases", "atelectasis"),
        ("Enlarged cardiac silhouette", "cardiomegaly"),
        ("Healing rib fracture", "fracture"),
        ("Hyperexpanded lungs", "hyperinflation"),
        ("Platelike atelectasis at the left base", "atelectasis"),
        ("Bronchopneumonia on the left", "pneumonia"),
        ("Kerley lines", "interstitial"),
        ("Left pneumothoraces", "pneumothorax"),
        ("Hilar adenopathy on the right", "lymphadenopathy"),
        ("Granulomata in the right apex", "granuloma"),
    ],
)
def test_synonyms_have_one_name(sentence, kind):
    assert first(sentence).kind == kind


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Possible left base pneumonia", {"certain": False}),
        ("Left base infiltrate cannot be excluded", {"certain": False, "present": True}),
        ("Cannot exclude right apical nodule", {"certain": False, "present": True}),
        ("R/O left base infiltrate", {"certain": False, "present": True}),
        ("Opacity in the left base, 2.4 cm", {"size_mm": None}),
        ("A 2.4 cm nodule in the left base", {"size_mm": 24.0}),
        ("A 7 mm nodule in the left base", {"size_mm": 7.0}),
        ("A 2.5 x 3.1 cm mass in the right apex", {"size_mm": 31.0}),
        ("Stable left apical scar", {"change": "stable"}),
        ("No change in the left apical scar", {"change": "stable", "present": True}),
        ("Increasing right effusion", {"change": "increased"}),
        ("Decreased right effusion", {"change": "decreased"}),
        ("New infiltrate at the left base", {"change": "new"}),
        ("The left base infiltrate has resolved", {"change": "resolved", "present": False}),
        ("No left effusion", {"present": False}),
        ("History of right upper lobe pneumonia", {"attributes": ("history",), "present": True}),
        (
            "Follow-up of the right apical nodule is recommended",
            {"attributes": ("recommendation",)},
        ),
    ],
)
def test_what_is_said_of_a_finding_is_carried(sentence, expected):
    found = first(sentence)
    assert {name: getattr(found, name) for name in expected} == expected


def test_each_finding_has_its_own_place():
    statement = parse("Left base opacity, right apical nodule, no effusion.", "report")
    found = {finding.kind: (set(finding.zones), finding.present) for finding in statement.findings}
    assert found == {
        "opacity": (zones("L:l"), True),
        "nodule": (zones("R:u"), True),
        "effusion": (set(), False),
    }


def test_a_finding_of_findings_and_impression_is_asked_once():
    report = "FINDINGS: Opacity in the left lower lobe.\nIMPRESSION: Left lower lobe opacity. Right apical scar."
    assert findings(report) == ["Opacity in the left lower lobe", "Right apical scar"]
    listed = "1. Left base opacity.\n2. Right apical nodule.\n- No effusion."
    assert findings(listed) == ["Left base opacity", "Right apical nodule"]


def test_decimals_end_no_sentence():
    report = "Left apical pneumothorax of 1.5 cm. A 0.4 cm nodule lies in the right base."
    assert findings(report) == [
        "Left apical pneumothorax of 1.5 cm",
        "A 0.4 cm nodule lies in the right base",
    ]


def test_findings_are_written_for_people_and_programs():
    statement = parse("Possible 5 mm nodule in the left apex, stable. No effusion.", "report")
    assert finding_lines(statement)[0] == "Named: possible nodule, left upper, 5 mm."
    assert finding_lines(statement)[-1] == "Named: no effusion."
    value = statement.findings[0].as_json()
    assert value["zones"] == ["left upper"]
    assert value["certainty"] == "possible"
    assert set(value) == {
        "kind",
        "zones",
        "polarity",
        "certainty",
        "change",
        "size_mm",
        "span",
        "attributes",
    }


def test_what_denies_and_what_is_found_agree_with_the_statement():
    for sentence in (
        "Right basilar scarring without acute infiltrate.",
        "Clear lungs except a left base scar.",
    ):
        statement = parse(sentence)
        placed = [finding for finding in statement.findings if finding.present and finding.zones]
        assert frozenset().union(*(finding.zones for finding in placed)) == statement.zones
        assert read_findings(sentence).named
