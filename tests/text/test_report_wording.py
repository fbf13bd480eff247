"""Wording of public reports by kind: places that are said in another way, and words that name none."""

import pytest

from textmask.text.findings import read_findings

BOTH_LUNGS = "ll lm lu rl rm ru"
RIGHT = "rl rm ru"

# sentence, kind of its first finding, where that is (side and level, one letter each)
CASES = [
    # there is one middle lobe
    ("Middle lobe calcified granulomas.", "granuloma", "rm"),
    ("Opacity in the middle lobe.", "opacity", "rm"),
    ("Right middle lobe pneumonia.", "pneumonia", "rm"),
    ("Atelectasis of the middle lobe and lingula.", "atelectasis", "lm rm"),
    ("Right upper lobe and middle lobe consolidation.", "consolidation", "rm ru"),
    # a rib behind a finding tells its side
    ("A 9 mm nodule is noted partially overlying the posterior 6th right rib.", "nodule", RIGHT),
    ("Nodular density projecting over the left fourth rib.", "nodule", "ll lm lu"),
    ("Granuloma between the right fifth and sixth ribs.", "granuloma", RIGHT),
    ("Nodule in the left apex overlying the right second rib.", "nodule", "lu"),
    ("Healed fracture of the right sixth rib.", "fracture", ""),
    # what is said in between names no place
    (
        "A ring-shaped opacity, seen on the frontal view only, projects over the right midlung.",
        "opacity",
        "rm",
    ),
    (
        "A nodule, stable since the last examination, is seen in the left upper lobe.",
        "nodule",
        "lu",
    ),
    ("An opacity, not seen before, and a clear right lung.", "opacity", ""),
    # both views are no two sides
    ("Opacity in the left upper lung is identified both on PA and lateral views.", "opacity", "lu"),
    ("A left basal nodule is seen on both views.", "nodule", "ll"),
    ("Effusion at the right base, visible on both projections.", "effusion", "rl"),
    # findings by other names
    ("A small pleural air collection is present in the right apex.", "pneumothorax", "ru"),
    ("Almost completely resolved right apical pleural air collection.", "pneumothorax", "ru"),
    (
        "Increased peripheral lung markings in the right upper and lower lung.",
        "interstitial",
        "rl ru",
    ),
    ("Coarse lung markings at the left base.", "interstitial", "ll"),
    ("Chronic changes are noted in the lung apices.", "abnormality", "lu ru"),
    ("Chronic parenchymal changes in the left lower lobe.", "abnormality", "ll"),
    ("Unchanged loculated right pleural fusion.", "effusion", RIGHT),
]


@pytest.mark.parametrize(("sentence", "kind", "zones"), CASES, ids=[case[0][:40] for case in CASES])
def test_wording(sentence, kind, zones):
    finding = read_findings(sentence).items[0]
    assert finding.kind == kind
    assert finding.present
    found = sorted(f"{side.value[0]}{level.value[0]}" for side, level in finding.zones)
    assert " ".join(found) == zones
