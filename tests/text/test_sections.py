"""Sections of reports: what was asked is not read, what follows is not lost."""

import pytest
from zone_words import zones

from textmask.text.findings import read_findings
from textmask.text.grammar import parse
from textmask.text.sections import sections

BODY = "Patchy opacity in the left lower lobe."


@pytest.mark.parametrize(
    "report",
    [
        "REASON FOR EXAM: Shortness of breath.\n\n" + BODY,
        "INDICATION: Right upper lobe pneumonia?\n\n" + BODY,
        "Indication: right apical nodule\nFindings: " + BODY,
        "indication: right apical nodule\nfindings: " + BODY,
        "CLINICAL HISTORY: Fever.\nFINDINGS\n" + BODY,
        "**Indication**\nRight upper lobe nodule.\n**Findings**\n" + BODY,
        "**INDICATION:** Right upper lobe nodule. **FINDINGS:** " + BODY,
        "History\nRight apex opacity last year.\n\nReport\n" + BODY,
        "COMPARISON: None.\n" + "IMPRESSION: " + BODY,
        "EXAMINATION: Chest radiograph, two views. FINDINGS: " + BODY,
        "TECHNIQUE: Portable.\n\n" + BODY,
        "INDICATION: Cough. COMPARISON: Right base opacity in May. FINDINGS: " + BODY,
        "REASON FOR EXAM: Cough. " + BODY,
        "Reason: Fever. Rule out right upper lobe pneumonia. " + BODY,
        "HISTORY: Right pneumothorax.\nLungs: " + BODY,
        "CLINICAL INFORMATION: right effusion\n\nCONCLUSION\n" + BODY,
        "EXAM: Chest.\n\n\n" + BODY,
    ],
)
def test_the_finding_that_was_asked_about_is_no_answer_and_the_rest_is_read(report):
    for grammar in ("auto", "report"):
        assert set(parse(report, grammar).zones) == zones("L:l")
    assert len(read_findings(report).named) == 1


def test_what_is_dropped_is_named():
    report = "INDICATION: Right upper lobe nodule.\n\nFINDINGS: Left base opacity."
    assert "section_skipped" in parse(report).warnings
    assert read_findings(report).skipped == ("indication",)
    assert read_findings("Left base opacity.").skipped == ()
    assert "section_skipped" not in parse("FINDINGS: Left base opacity.").warnings


def test_words_with_a_colon_are_not_all_headings():
    assert set(parse("LEFT LUNG: CLEAR. RIGHT LUNG: APICAL OPACITY.", "report").zones) == zones(
        "R:u"
    )
    assert len(sections("Left lung: opacity at the base.").seen) <= 2


def test_spans_are_characters_of_the_report():
    report = "INDICATION: Cough.\n\nFINDINGS: No effusion. Left base opacity, 12 mm."
    found = [finding for finding in read_findings(report).items if finding.present]
    assert [report[finding.start : finding.end] for finding in found] == ["Left base opacity"]
