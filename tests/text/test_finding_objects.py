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


@pytest.mark.parametrize(
    ("sentence", "places"),
    [
        ("Opacities in the left and right lung", {"opacity": "L:uml R:uml"}),
        ("Opacities in the left and right mid lung zones", {"opacity": "L:m R:m"}),
        ("Small granulomas in the right upper lobe and left lower lobe", {"granuloma": "R:u L:l"}),
        ("Opacities in the right and left lower lobes", {"opacity": "L:l R:l"}),
        ("Opacity in the left lung and the right base", {"opacity": "L:uml R:l"}),
        ("Bibasilar and right midlung opacities", {"opacity": "L:l R:ml"}),
        ("Left base and perihilar infiltrate", {"infiltrate": "L:ml"}),
        ("Cardiomegaly with right midlung and lower lobe edema", {"edema": "R:ml"}),
        ("Left apex, right apex and right base nodules", {"nodule": "L:u R:ul"}),
        ("Nodules in the right apex, left base and left apex", {"nodule": "R:u L:ul"}),
        # what the next finding or another statement has is not taken
        ("Opacity in the left base and right effusion", {"opacity": "L:l", "effusion": "R:uml"}),
        ("Opacity in the right base and the left lung is clear", {"opacity": "R:l"}),
        ("Left base opacity and right apex and left apex nodules", {"opacity": "L:l", "nodule": "L:u R:u"}),
        ("Opacities in the left and right base and a nodule in the left apex", {"opacity": "L:l R:l", "nodule": "L:u"}),
        ("Opacity in the right base, effusion on the left", {"opacity": "R:l", "effusion": "L:uml"}),
        ("A granuloma in the right base and enlarged right hilar lymph nodes", {"granuloma": "R:l"}),
        ("No opacity in the left and right lower lobe", {"opacity": "L:l R:l"}),
        # comparisons, "either", and where another organ only helps to find the place
        ("Bibasilar, right greater than left atelectasis", {"atelectasis": "L:l R:l"}),
        ("Bibasilar disease, either atelectasis or infiltrate", {"atelectasis": "L:l R:l", "infiltrate": "L:l R:l"}),
        ("Opacity in either lung base", {"opacity": "L:l R:l"}),
        ("Granuloma in the right upper lobe underneath the second anterior rib end", {"granuloma": "R:u"}),
    ],
)  # fmt: skip
def test_a_finding_has_all_its_places(sentence, places):
    found = {item.kind: item.zones for item in parse(sentence, "report").findings}
    for kind, expected in places.items():
        assert found[kind] == zones(expected), kind


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        ("Bilateral glenohumeral degenerative joint disease", {"degeneration"}),
        ("Atherosclerotic disease of the aorta", {"atherosclerosis"}),
        ("Coronary artery disease", {"atherosclerosis"}),
        ("Chronic liver disease", {"organ disease"}),
        ("Increased retrosternal airspace", set()),
        ("Normal heart size and hilar vascular markings", set()),
        ("Prior granulomatous disease", {"granuloma"}),
        ("Chronic obstructive pulmonary disease", {"hyperinflation"}),
        ("Right upper lung lucency", {"lucency"}),
        ("Reactive airways disease", {"airway disease"}),
        ("Stable apical pleural capping", {"thickening"}),
    ],
)
def test_the_word_disease_is_not_always_one_of_the_lungs(sentence, kinds):
    statement = parse(sentence, "report")
    assert {item.kind for item in statement.findings} == kinds
    assert kinds & {"lucency", "thickening"} or not statement.zones
