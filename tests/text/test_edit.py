"""Edits change what they say they change and nothing else."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import ConfigError, DataError
from textmask.statement import LUNG_ZONES, ZONES, Laterality, Statement
from textmask.text.edit import (
    KEYBOARD,
    UNRELATED,
    absent,
    blur_position,
    contradict,
    deny,
    drop_position,
    invert,
    merge,
    mirror,
    paraphrase,
    reorder_clauses,
    swap_levels,
    swap_sides,
    typo,
)
from textmask.text.grammar import parse
from textmask.text.render import render

CAPTION = "bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
zones = st.frozensets(st.sampled_from(LUNG_ZONES), min_size=1)
# any order of these words, sense or nonsense
WORDS = (
    "left right Left RIGHT center upper middle mid lower top bottom all lung lungs lobe lobes zones base apex basal "
    "perihilar RUL RML RLL LLL LLZ lingula bibasilar bilateral both bilat. Lt. rt L R leff rigth midlle lowerleft "
    "leftlung left-sided rightmost opacity infected areas infection pulmonary two clear no without free of and , . "
    "with except sparing in the is polyp nuclei normal retrocardiac not unilateral inf. costophrenic"
).split()
jumbles = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


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


@settings(max_examples=400)
@given(jumbles)
def test_a_mirrored_sentence_is_true_of_the_mirrored_picture_or_refused(text):
    for edit, change in ((mirror, Statement.mirrored), (invert, Statement.inverted)):
        edited = edit(text)
        if edited is not None:
            assert edit(edited) == text
            assert parse(edited).zones == change(parse(text)).zones
            assert parse(edited).negated == change(parse(text)).negated


@settings(max_examples=200)
@given(jumbles)
def test_no_place_survives_dropping_or_blurring(text):
    assert not parse(drop_position(text)).zones
    assert not parse(blur_position(text)).zones


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Opacity in the Left lower lobe", "Opacity in the Right lower lobe"),
        ("RLL opacity", "LLL opacity"),
        ("right-sided opacity in the right lung", "left-sided opacity in the left lung"),
        (
            "The nuclei density in the upper left is high.",
            "The nuclei density in the upper right is high.",
        ),
        ("Hello World", "Hello World"),
        ("Upright film, Lt. base opacity", "Upright film, Rt. base opacity"),
        ("L lower lobe and R apex", "R lower lobe and L apex"),
        ("LLZ shadowing", "RLZ shadowing"),
        ("left upper lobe: LUL/RLL", "right upper lobe: RUL/LLL"),
        ("rightmost polyp, top-left", "leftmost polyp, top-right"),
    ],
)
def test_mirror_keeps_the_wording(text, expected):
    assert mirror(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "RML opacity",
        "right middle lobe opacity",
        "right middle and lower lobes",
        "lingular infiltrate",
        "retrocardiac opacity",
        "polyp at 3 o'clock",
        "lower leff lung.",
        "rigth lower lobe opacity",
        "lower leftlung",
        "LEft lung",
        "opacité du lobe inférieur gauche",
        "左肺",
    ],
)
def test_what_has_no_counterpart_refuses_the_flip(text):
    assert mirror(text) is None


def test_dropping_and_blurring_remove_every_place():
    assert drop_position("One small polyp on the top left.") == "One small polyp."
    assert (
        drop_position("The nuclei density in the upper left is high.")
        == "The nuclei density is high."
    )
    assert (
        drop_position("one round polyp, located in top left, bottom of the image")
        == "one round polyp"
    )
    assert blur_position("opacity in the left lower lobe") == "opacity in a region of the lung"
    assert blur_position("Polyp in the top left.") == "Polyp in a region of the image."
    assert drop_position(CAPTION) == "pulmonary infection, two infected areas."
    assert (
        blur_position(CAPTION) == "pulmonary infection, two infected areas, a region of the lung."
    )
    assert drop_position("lower leff lung and mid R rigth. lobe") == ""
    assert drop_position("left lung", "the upper left lung, lower") == "the upper left lung, lower"
    assert (
        drop_position(CAPTION, "[MASK]")
        == "pulmonary infection, two infected areas, [MASK] and [MASK]."
    )


def test_merging_says_the_union():
    a, b = parse("lower left lung"), parse("upper left lung")
    assert parse(merge(a, b)).zones == a.zones | b.zones
    assert parse(merge(Statement(absent=True), Statement(absent=True))).absent


def test_sentences_of_opposite_conventions_are_not_merged():
    a, b = (
        parse("lower left lung", laterality=side) for side in (Laterality.IMAGE, Laterality.PATIENT)
    )
    with pytest.raises(DataError, match="not the same side"):
        merge(a, b)
    assert merge(a, a) == "unilateral pulmonary infection, one infected area, lower left lung."


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


def test_a_paraphrase_stays_in_its_subject():
    rng = np.random.default_rng(0)
    nuclei = "The nuclei density in the upper left is high."
    assert paraphrase(nuclei, rng) == nuclei
    assert (
        paraphrase("Polyp middle left.", rng)
        == "One colonic polyp.One colonic polyp on the middle left."
    )
    kept = (
        "opacity in the left lower lobe, right lung is clear"  # no style says that a lung is clear
    )
    assert paraphrase(kept, rng) == kept


def test_some_order_of_clauses_is_new():
    orders = {reorder_clauses(CAPTION, np.random.default_rng(seed)) for seed in range(20)}
    assert len(orders) > 2


@pytest.mark.data
def test_every_real_caption_can_be_mirrored_and_back(data_root):
    for folder, columns in (
        ("qata-cov19-v2", ["text"]),
        ("kvasir-seg", ["text_madapter", "medvlsm_p6"]),
        ("cvc-clinicdb", ["text_madapter", "medvlsm_p6"]),
        ("monuseg-lvit", ["text"]),
    ):
        with (data_root / folder / "texts.csv").open(encoding="utf-8-sig", newline="") as stream:
            texts = {row[column] for row in csv.DictReader(stream) for column in columns}
        wrong = [t for t in texts if parse(mirror(t) or "").zones != parse(t).mirrored().zones]
        assert (wrong, [t for t in texts if mirror(mirror(t) or "") != t]) == ([], [])


@settings(max_examples=60, deadline=None)
@given(zones, st.sampled_from(["qata", "qata_original", "report"]))
def test_a_false_place_is_claimed_or_the_sentence_refused(z, style):
    text, own = render(Statement(z), style), Statement(z)
    for edit, change in ((swap_sides, Statement.mirrored), (swap_levels, Statement.inverted)):
        out, expected = edit(text), change(own).zones
        assert (out is None) == (expected == z)
        assert out is None or parse(out).zones == expected


def test_misspelt_places_are_swapped_too():
    assert parse(swap_sides("lower leff lung.")).zones == parse("lower right lung.").zones
    assert swap_sides("no place at all") is None
    assert swap_levels("middle left lung") is None


@settings(max_examples=60, deadline=None)
@given(zones, st.sampled_from(["qata", "report"]))
def test_a_contradiction_says_both(z, style):
    text = render(Statement(z), style)
    assert parse(deny(text)).negated == z
    assert not parse(deny(text)).zones
    assert contradict(text).startswith(text.rstrip("."))
    assert "contradiction_negation" in parse(contradict(text)).warnings


def test_denials_and_absence_follow_the_style():
    polyp = "One colonic polyp.One small polyp on the top left."
    assert deny(polyp) == "No polyp on the top left."
    assert absent(polyp) == "No polyp."
    assert absent(CAPTION) == "no pulmonary infection, zero infected areas."
    assert absent(CAPTION.capitalize()) == "No pulmonary infection, zero infected areas."
    assert absent("Patchy opacity in the left lung.") == "No focal opacity."
    for nothing in (
        "No focal opacity.",
        "The nuclei density in the upper left is high.",
        "Hello World",
    ):
        assert absent(nothing) is None
    assert deny("The nuclei density in the upper left is high.") is None
    assert contradict("Hello World") is None
    assert all(
        parse(absent(text)).absent for text in (polyp, CAPTION, "Patchy opacity in the left lung.")
    )


def test_unrelated_sentences_are_understood_as_nothing():
    for text in UNRELATED:
        assert parse(text).warnings == ("nothing_parsed",)
        assert not parse(text).has_location


def test_keys_lie_beside_each_other():
    rows = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    assert len(KEYBOARD) == 26
    for a, b in KEYBOARD.items():
        (row,) = [row for row in rows if a in row]
        assert abs(row.index(a) - row.index(b)) == 1


def test_an_unknown_misspelling_is_refused():
    with pytest.raises(ConfigError, match="unknown misspelling 'dropp'"):
        typo(CAPTION, np.random.default_rng(0), 1, "dropp")
