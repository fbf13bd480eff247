"""Denials: of one finding they are never a denial of all, and they keep to their own place."""

import pytest
from zone_words import zones

from textmask.text.findings import read_findings
from textmask.text.grammar import parse

# a finding without a place, and a denial of another one
PLACELESS = [
    "Multifocal pneumonia. No pleural effusion.",
    "Widespread interstitial markings, no effusion.",
    "Pulmonary edema. No pneumothorax or effusion.",
    "Cardiomegaly without effusion.",
    "Mild congestion, no focal consolidation.",
    "There are scattered granulomas. There is no pneumothorax.",
    "No pneumothorax. Diffuse infiltrates.",
    "Patchy airspace disease, without effusion or pneumothorax.",
    "Multiple pulmonary nodules are seen. No effusion is identified.",
    "Emphysematous changes. No acute infiltrate.",
    "No effusion. There is pulmonary fibrosis.",
    "Hyperinflation. No focal consolidation, effusion or pneumothorax.",
    "Metastatic disease is present. No evidence of pneumothorax.",
    "Moderate hiatal hernia. No acute disease.",
    "Old healed rib fractures. No effusion.",
    "Diffuse reticular opacities. The heart is normal.",
    "Interstitial edema but no effusion.",
]


@pytest.mark.parametrize("sentence", PLACELESS)
def test_a_finding_without_a_place_is_not_denied_by_the_denial_of_another(sentence):
    for grammar in ("auto", "report"):
        statement = parse(sentence, grammar)
        assert not statement.absent
        assert not statement.zones
        assert any(finding.present for finding in statement.findings)
    assert any(finding.present for finding in read_findings(sentence).items)


@pytest.mark.parametrize(
    "sentence",
    [
        "No consolidation, no effusion or pneumothorax.",
        "The lungs are clear. No pleural effusion.",
        "Heart size within normal limits. No focal airspace disease. No pneumothorax or effusion.",
        "No acute cardiopulmonary abnormality.",
        "No evidence of active disease.",
        "Neither effusion nor pneumothorax is seen.",
        "Absence of effusion.",
        "There is no pneumothorax, no effusion and no infiltrate.",
        "Both lungs are free of infiltrate.",
        "Lungs and pleural spaces are clear.",
        "Negative for pneumonia.",
        "No nodule, mass, or consolidation is identified in either lung.",
        "The lungs show no opacity.",
        "Without focal opacity.",
        "Infiltrates have resolved.",
    ],
)
def test_what_denies_everything_says_that_there_is_nothing(sentence):
    statement = parse(sentence, "report")
    assert statement.absent
    assert not statement.zones


@pytest.mark.parametrize(
    ("sentence", "affected", "free"),
    [
        # kinds that an older list of findings did not have
        ("Right basilar scarring without acute infiltrate.", "R:l", ""),
        ("Left apical granuloma with no consolidation.", "L:u", ""),
        ("Calcification in the left mid zone, no effusion.", "L:m", ""),
        ("Right upper lobe bulla without pneumothorax.", "R:u", ""),
        ("Left lower lobe bronchiectasis without infiltrate.", "L:l", ""),
        ("Cavity in the right apex, no effusion.", "R:u", ""),
        ("Fibrosis of the left base without new opacity.", "L:l", ""),
        ("Thickening of the left apical pleura, no pneumothorax.", "L:u", ""),
        ("Left base contusion with no pneumothorax.", "L:l", ""),
        ("Right lower lobe haziness without effusion.", "R:l", ""),
        ("Left upper lobe tumor without cavitation.", "L:u", ""),
        ("Reticulation at both bases with no honeycombing.", "LR:l", ""),
        ("Emphysema of the left upper lobe, no nodule.", "L:u", ""),
        ("Hazy left base without effusion.", "L:l", ""),
        ("Plaque at the right base, no mass.", "R:l", ""),
        ("Right middle lobe collapse without a mass.", "R:m", ""),
        # places that are free
        ("The left lung shows no opacity.", "", "L:uml"),
        ("Right lung: no infiltrate. Left base opacity.", "L:l", "R:uml"),
        ("Absence of infiltrate in the right lung.", "", "R:uml"),
        ("The right lung is devoid of infiltrates.", "", "R:uml"),
        ("Neither lung shows any infiltrate.", "", "LR:uml"),
        ("The right lung and left apex are clear.", "", "R:uml L:u"),
        ("Heart, lungs, and mediastinum are normal.", "", "LR:uml"),
        ("The right apex is spared.", "", "R:u"),
        ("Left lung remains clear.", "", "L:uml"),
        ("No left effusion. Left base opacity.", "L:l", "L:um"),
        ("Tiny left effusion, no right effusion.", "L:uml", "R:uml"),
        ("No right-sided pneumothorax or left lower lobe consolidation.", "", "R:uml L:l"),
        ("No pneumothorax, small left effusion.", "L:uml", ""),
        ("No focal consolidation or effusion, but left base atelectasis.", "L:l", ""),
        ("Right base opacity. The lungs are otherwise clear.", "R:l", "R:um L:uml"),
        (
            "Nodule in the left upper lobe. The remainder of the lungs are clear.",
            "L:u",
            "L:ml R:uml",
        ),
        ("The left base is not clear.", "L:l", ""),
    ],
)
def test_a_denial_keeps_to_its_own_finding_and_place(sentence, affected, free):
    statement = parse(sentence, "report")
    assert (set(statement.zones), set(statement.negated)) == (zones(affected), zones(free))


@pytest.mark.parametrize(
    ("sentence", "affected", "free"),
    [
        ("Lungs are clear except for minimal left basilar atelectasis.", "L:l", "L:um R:uml"),
        (
            "Lungs are clear with the exception of a right upper lobe granuloma.",
            "R:u",
            "R:ml L:uml",
        ),
        ("Aside from left lower lobe atelectasis, the lungs are clear.", "L:l", "L:um R:uml"),
        ("Apart from a scar in the right apex, both lungs are clear.", "R:u", "R:ml L:uml"),
        ("The lungs are clear save for a left apical nodule.", "L:u", "L:ml R:uml"),
        ("Other than a right basal opacity, the lungs are clear.", "R:l", "R:um L:uml"),
        ("The lungs are clear but for the left base.", "L:l", "L:um R:uml"),
        ("The lungs are clear excluding the right base.", "R:l", "R:um L:uml"),
        ("Lungs clear, barring a nodule at the left apex.", "L:u", "L:ml R:uml"),
        ("Besides a small right effusion, no abnormality is seen.", "R:uml", ""),
        ("No abnormality other than a left apical opacity.", "L:u", ""),
        ("No abnormality apart from a right basal opacity.", "R:l", ""),
        ("Opacities throughout both lungs sparing the apices.", "LR:ml", "LR:u"),
        ("Diffuse infiltrates sparing the left base.", "L:um R:uml", "L:l"),
        ("Consolidation of the right lung with sparing of the apex.", "R:ml", "R:u"),
        ("Infiltrates in both lungs except the right apex.", "L:uml R:ml", "R:u"),
        ("Clear lungs with exception of the left base.", "L:l", "L:um R:uml"),
    ],
)
def test_exceptions_are_the_opposite_of_the_rest(sentence, affected, free):
    statement = parse(sentence, "report")
    assert (set(statement.zones), set(statement.negated)) == (zones(affected), zones(free))


@pytest.mark.parametrize(
    ("sentence", "affected", "free"),
    [
        ("Interval clearing of the right base.", "", "R:l"),
        ("Interval resolution of the right upper lobe infiltrate.", "", "R:u"),
        ("Right lower lobe pneumonia has cleared.", "", "R:l"),
        ("Previously seen left upper lobe nodule is not visualized.", "", "L:u"),
        ("The left apical pneumothorax is no longer seen.", "", "L:u"),
        ("The left base opacity is no longer present.", "", "L:l"),
        ("The right effusion has disappeared.", "", "R:uml"),
        ("Resolution of left basal atelectasis.", "", "L:l"),
        ("Disappearance of the right apical opacity.", "", "R:u"),
        ("Resolved opacity in the left mid lung.", "", "L:m"),
        # still there
        ("Near complete resolution of left lower lobe pneumonia.", "L:l", ""),
        ("Resolving right upper lobe infiltrate.", "R:u", ""),
        ("The right upper lobe infiltrate has not resolved.", "R:u", ""),
        ("Partially resolved left base opacity.", "L:l", ""),
        ("Incomplete clearing of the right base opacity.", "R:l", ""),
        ("No progression of left base opacity.", "L:l", ""),
        ("No decrease in the right effusion.", "R:uml", ""),
        ("Without significant change in the right effusion.", "R:uml", ""),
        ("No interval change in the lingular scar.", "L:m", ""),
        ("Interval improvement in left basilar opacity.", "L:l", ""),
        ("No improvement in the right base infiltrate.", "R:l", ""),
    ],
)
def test_resolved_is_free_and_unchanged_is_there(sentence, affected, free):
    statement = parse(sentence, "report")
    assert (set(statement.zones), set(statement.negated)) == (zones(affected), zones(free))
