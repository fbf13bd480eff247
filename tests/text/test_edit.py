"""Edits change what they say they change and nothing else."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textmask.text.edit import blur_position, drop_position, invert, merge, mirror, paraphrase, reorder_clauses, typo
from textmask.text.grammar import parse
from textmask.text.render import render
from textmask.text.statement import LUNG_ZONES, ZONES, Statement

CAPTION = "bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
zones = st.frozensets(st.sampled_from(LUNG_ZONES), min_size=1)


@given(zones, st.sampled_from(["qata", "qata_original", "report"]))
def test_mirroring_swaps_the_sides_and_twice_is_nothing(z, style):
    text = render(Statement(z), style)
    swapped = mirror(text)
    assert swapped is not None
    assert mirror(swapped) == text
    assert parse(swapped).zones == parse(text).mirrored().zones


@given(st.frozensets(st.sampled_from(ZONES), min_size=1))
def test_polyp_prompts_mirror_and_invert(z):
    text = render(Statement(z), "polyp")
    assert parse(mirror(text)).zones == Statement(z).mirrored().zones
    assert parse(invert(text)).zones == Statement(z).inverted().zones


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Opacity in the Left lower lobe", "Opacity in the Right lower lobe"),
        ("RLL opacity", "LLL opacity"),
        ("right-sided opacity in the right lung", "left-sided opacity in the left lung"),
        ("The nuclei density in the upper left is high.", "The nuclei density in the upper right is high."),
        ("Hello World", "Hello World"),
    ],
)
def test_mirror_keeps_the_wording(text, expected):
    assert mirror(text) == expected


@pytest.mark.parametrize(
    "text", ["RML opacity", "right middle lobe opacity", "lingular infiltrate", "lower leff lung."]
)
def test_what_has_no_counterpart_refuses_the_flip(text):
    assert mirror(text) is None


def test_dropping_and_blurring_remove_every_place():
    for text in (CAPTION, "One small polyp on the top left.", "opacity in the left lower lobe"):
        for edited in (drop_position(text), blur_position(text)):
            assert not parse(edited).zones, edited
    assert drop_position(CAPTION) == "pulmonary infection, two infected areas."
    assert blur_position(CAPTION) == "pulmonary infection, two infected areas, a region of the lung."
    assert drop_position(CAPTION, "[MASK]") == "pulmonary infection, two infected areas, [MASK] and [MASK]."


def test_merging_says_the_union():
    a, b = parse("lower left lung"), parse("upper left lung")
    assert parse(merge(a, b)).zones == a.zones | b.zones
    assert parse(merge(Statement(absent=True), Statement(absent=True))).absent


def test_typos_are_seeded_and_change_the_asked_number_of_words():
    def changed(text):
        return sum(x != y for x, y in zip(text.split(), CAPTION.split(), strict=True))

    for seed in range(30):
        once = typo(CAPTION, np.random.default_rng(seed), 1)
        assert once == typo(CAPTION, np.random.default_rng(seed), 1)
        assert changed(once) == 1
        assert changed(typo(CAPTION, np.random.default_rng(seed), 3)) == 3
    assert typo("a b", np.random.default_rng(0)) == "a b"


@given(zones, st.integers(0, 1000))
def test_paraphrases_and_reordering_keep_the_zones(z, seed):
    text, rng = render(Statement(z), "qata"), np.random.default_rng(seed)
    assert paraphrase(text, rng) != text
    assert parse(paraphrase(text, rng)).zones == z
    assert parse(reorder_clauses(text, rng)).zones == z


def test_some_order_of_clauses_is_new():
    orders = {reorder_clauses(CAPTION, np.random.default_rng(seed)) for seed in range(20)}
    assert len(orders) > 2


@pytest.mark.data
def test_every_real_caption_can_be_mirrored(data_root):
    for folder, column in (("qata-cov19-v2", "text"), ("kvasir-seg", "text_madapter"), ("monuseg-lvit", "text")):
        with (data_root / folder / "texts.csv").open(encoding="utf-8-sig", newline="") as stream:
            texts = {row[column] for row in csv.DictReader(stream)}
        assert [text for text in texts if mirror(text) is None] == []
