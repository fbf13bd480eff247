"""Reports as findings: zero, one or many, what is denied apart, odd layouts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.text.findings import MAX_REPORT, findings, read_findings
from textmask.text.grammar import parse
from textmask.text.words import MAX_LENGTH

REPORTS = {
    "The left lung is clear. Patchy opacity in the right lower lobe and left upper lobe. No effusion.": (
        ["Patchy opacity in the right lower lobe and left upper lobe"],
        ["The left lung is clear", "No effusion"],
    ),
    "Heart size is normal. The lungs are clear. No pleural effusion or pneumothorax.": (
        [],
        ["The lungs are clear", "No pleural effusion or pneumothorax"],
    ),
    "Right lower lobe consolidation, no effusion.": (
        ["Right lower lobe consolidation"],
        ["no effusion"],
    ),
    "Opacity in the left base and the right lung is clear": (
        ["Opacity in the left base"],
        ["the right lung is clear"],
    ),
    "There is a 2.5 cm nodule in the right upper lobe. Small left pleural effusion.": (
        ["There is a 2.5 cm nodule in the right upper lobe", "Small left pleural effusion"],
        [],
    ),
    "Opacity at the Rt. base. L. lung clear.": (["Opacity at the Rt. base"], ["L. lung clear"]),
    "INDICATION: Left lower lobe pneumonia?\nCOMPARISON: None.\nFINDINGS: Hazy opacity in the\nright upper lobe.\n"
    "IMPRESSION:\n1. Right upper lobe pneumonia.\n2. No pneumothorax.": (
        ["Hazy opacity in the right upper lobe", "Right upper lobe pneumonia"],
        ["No pneumothorax"],
    ),
    "Right PICC line in place. Low lung volumes. Cardiac silhouette enlarged to the left.": (
        [],
        [],
    ),
    "Left lower lobe opacity has resolved.": ([], ["Left lower lobe opacity has resolved"]),
    "": ([], []),
    "Hello World": ([], []),
}


@pytest.mark.parametrize("report", REPORTS, ids=lambda text: text[:30])
def test_reports(report):
    found = read_findings(report)
    assert (list(found.named), list(found.denied)) == REPORTS[report]
    assert findings(report) == REPORTS[report][0]


def test_every_finding_has_a_place_and_denies_none_of_it():
    for report in REPORTS:
        for sentence in findings(report):
            statement = parse(sentence)
            assert statement.has_location
            assert not statement.negated


@pytest.mark.parametrize(
    "sentence",
    [
        "Opacity in the left upper and no opacity in the lower lobe",
        "Consolidation of both lungs, the left apex clear",
        "The lungs are clear except for opacity in the left base",
    ],
)
def test_a_cut_keeps_what_the_sentence_claims(sentence):
    found = read_findings(sentence)
    parts = [parse(text) for text in found.named + found.denied]
    whole = parse(sentence)
    assert frozenset().union(*(part.zones for part in parts)) == whole.zones
    assert frozenset().union(*(part.negated for part in parts)) == whole.negated


def test_the_same_sentence_twice_is_one_finding():
    assert findings("Left lower lobe opacity. Left lower lobe opacity.") == [
        "Left lower lobe opacity"
    ]


def test_long_reports_are_capped():
    assert findings("x " * MAX_REPORT + ". Left lower lobe opacity.") == []
    assert all(len(text) <= MAX_LENGTH for text in findings("left lung opacity and " * 5000))


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from([*"., \n:?1", "no", "left lung", "opacity", "and"])).map("".join)
)
def test_any_text_is_read(report):
    found = read_findings(report)
    assert all(parse(sentence).has_location for sentence in found.named)
