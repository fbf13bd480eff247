"""Text noise: what is kept, what is changed, how much, and what is refused; all of it seeded."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import ConfigError
from textmask.statement import LUNG_ZONES, ZONES, Level, Side, Statement
from textmask.text.grammar import parse
from textmask.text.noise import DENIALS, EXTRA, TEXT_NOISE, letters, spoil
from textmask.text.render import render
from textmask.text.words import MISSPELT, TYPOS

CAPTION = "unilateral pulmonary infection, two infected areas, upper lower left lung."
REPORT = "Patchy opacity in the lower and middle left lung."
POLYP = "One colonic polyp.One small polyp on the top left."
NUCLEI = "The nuclei density in the upper left is high."
SENTENCES = {"caption": CAPTION, "report": REPORT, "polyp": POLYP, "nuclei": NUCLEI}
zones = st.frozensets(st.sampled_from(LUNG_ZONES), min_size=1)


def rng(seed=0):
    return np.random.default_rng(seed)


def changed_words(a, b):
    return sum(x != y for x, y in zip(a.split(), b.split(), strict=True))


@pytest.mark.parametrize("name", TEXT_NOISE)
@pytest.mark.parametrize("sentence", SENTENCES.values(), ids=SENTENCES)
def test_noise_is_seeded_changes_the_sentence_and_never_comes_out_empty(name, sentence):
    for severity in TEXT_NOISE[name].severities:
        for seed in range(5):
            out = spoil(sentence, name, severity, rng(seed))
            assert out == spoil(sentence, name, severity, rng(seed))
            assert out is None or (out.strip() and out != sentence)


def test_which_noise_a_caption_has_room_for():
    """Every kind and severity reaches the longest kind of sentence, so that no row of a study is empty by accident."""
    missing = {
        (name, s)
        for name, n in TEXT_NOISE.items()
        for s in n.severities
        if not spoil(CAPTION, name, s, rng())
    }
    assert missing <= {("word_order", 1)}
    assert any(spoil(CAPTION, "word_order", 1, rng(seed)) for seed in range(5))


@pytest.mark.parametrize("name", ["keyboard", "swap", "drop", "real_typos"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_asked_number_of_words_is_misspelt(name, n):
    sentence = "bilateral pulmonary infection, upper left lung and lower right lung."
    for seed in range(20):
        assert changed_words(spoil(sentence, name, n, rng(seed)), sentence) == n


def test_misspellings_are_of_the_named_kind():
    words = ["pulmonary", "infection", "happy"]
    for seed in range(20):
        for word in words:
            dropped, swapped, hit = (
                spoil(word, name, 1, rng(seed)) for name in ("drop", "swap", "keyboard")
            )
            assert len(dropped) == len(word) - 1
            assert sorted(swapped) == sorted(word)
            assert sum(a != b for a, b in zip(swapped, word, strict=True)) == 2
            assert sum(a != b for a, b in zip(hit, word, strict=True)) == 1
    assert spoil("p l m", "keyboard", 1, rng()) is None  # nothing long enough
    assert spoil("lung", "drop", 2, rng()) is None  # one word has no room for two


def test_real_typos_are_those_of_the_table_and_no_abbreviations():
    assert MISSPELT["left"] == ("leff",)
    assert set(MISSPELT["middle"]) == {"midlle", "mmiddle", "mddle", "midddle"}
    assert not {"bilateral", "unilateral", "infection"} & set(MISSPELT)
    assert all(TYPOS[wrong] == right for right, several in MISSPELT.items() for wrong in several)
    assert spoil("Left lung", "real_typos", 1, rng()) == "Leff lung"
    for seed in range(10):
        assert parse(spoil(CAPTION, "real_typos", 3, rng(seed))).zones == parse(CAPTION).zones


@given(zones, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_the_grammar_can_read_keeps_its_places(z, seed):
    """Style, free words, fewer clauses, denials of other things: the claims stay, as the parser reads them."""
    for style in ("qata", "report"):
        text = render(Statement(z), style)
        for name, severities in (("paraphrase", (1, 2)), ("missing", (1, 2)), ("word_order", (1,))):
            for severity in severities:
                out = spoil(text, name, severity, rng(seed))
                assert out is None or parse(out).zones == z, (name, severity, out)


@given(zones, st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_report_sentences_beside_it_change_no_place(z, seed, n):
    text = render(Statement(z), "report")
    for name in ("extra", "negation"):
        out = spoil(text, name, n, rng(seed))
        assert parse(out).zones == z, out
        assert not parse(out).absent


@given(st.frozensets(st.sampled_from(ZONES), min_size=1), st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_polyp_prompts_keep_their_places(z, seed, n):
    text = render(Statement(z), "polyp")
    for name in ("extra", "negation"):
        assert parse(spoil(text, name, n, rng(seed))).zones == z


def test_the_sentences_that_are_added_claim_nothing():
    for text in (*EXTRA["chest"], *DENIALS["chest"]):
        assert not parse(text).zones
        assert not parse(text).negated
    for text in (*EXTRA["polyp"], *EXTRA["nuclei"], *DENIALS["polyp"], *DENIALS["nuclei"]):
        assert not parse(text).zones
    assert not {text for subject in EXTRA for text in EXTRA[subject]} & {
        t for s in DENIALS for t in DENIALS[s]
    }
    assert not any(" no " in f" {text.lower()} " for subject in EXTRA for text in EXTRA[subject])


def test_extra_and_denying_sentences_are_as_many_as_asked():
    for n in (1, 2, 3):
        assert spoil(REPORT, "extra", n, rng(n)).count(".") == n + 1
        assert spoil(REPORT, "negation", n, rng(n)).count(".") == n + 1
    assert "The right lung is clear." in spoil(REPORT, "negation", 1, rng())
    assert spoil("a day in spring", "extra", 1, rng()) is None  # about nothing that is known


def test_abbreviations():
    assert spoil(CAPTION, "abbreviation", 1, rng()).startswith("unilat. pulmonary inf., two")
    assert spoil(CAPTION, "abbreviation", 2, rng()).endswith("LUL and LLL.")
    assert spoil("opacity in the right lower lobe", "abbreviation", 2, rng()) == "opacity in RLL"
    assert parse("opacity in RLL").zones == parse("opacity in the right lower lobe").zones
    assert [letters((side, level)) for side in (Side.LEFT, Side.RIGHT) for level in Level] == [
        *("LUL", "LMZ", "LLL"),
        *("RUL", "RML", "RLL"),
    ]
    assert spoil(POLYP, "abbreviation", 2, rng()) is None
    assert spoil("opacity in the left lung", "abbreviation", 2, rng()) is None


def test_missing_clauses_go_before_the_place_does():
    one, all_plain, place = (spoil(CAPTION, "missing", severity, rng()) for severity in (1, 2, 3))
    assert all_plain == "upper lower left lung."
    assert one in (
        "two infected areas, upper lower left lung.",
        "unilateral pulmonary infection, upper lower left lung.",
    )
    assert place == "pulmonary infection, two infected areas."
    assert spoil(REPORT, "missing", 1, rng()) is None


def test_word_order_keeps_the_words():
    for severity in (2, 3):
        for seed in range(10):
            out = spoil(CAPTION, "word_order", severity, rng(seed))
            assert out is None or sorted(out.split()) == sorted(CAPTION.split())
    assert changed_words(spoil(CAPTION, "word_order", 2, rng()), CAPTION) == 2


def test_a_denial_says_that_the_place_is_free():
    assert parse(spoil(REPORT, "denied", 1, rng())).negated == parse(REPORT).zones
    assert parse(spoil(CAPTION, "denied", 1, rng())).negated == parse(CAPTION).zones
    assert parse(spoil(POLYP, "denied", 1, rng())).absent
    assert not TEXT_NOISE["denied"].keeps
    assert spoil(NUCLEI, "denied", 1, rng()) is None


def test_unknown_noise_and_severities_are_named():
    with pytest.raises(ConfigError, match="unknown text noise 'typos'"):
        spoil(CAPTION, "typos", 1, rng())
    with pytest.raises(ConfigError, match="got severity 4, expected one of 1, 2, 3"):
        spoil(CAPTION, "drop", 4, rng())


@pytest.mark.data
def test_most_real_captions_have_room_for_all_noise(data_root):
    with (data_root / "qata-cov19-v2" / "texts.csv").open(
        encoding="utf-8-sig", newline=""
    ) as stream:
        texts = sorted({row["text"] for row in csv.DictReader(stream)})
    for name in ("keyboard", "swap", "drop", "paraphrase", "extra", "negation", "denied"):
        for severity in TEXT_NOISE[name].severities:
            assert (
                np.mean([spoil(text, name, severity, rng(1)) is not None for text in texts]) > 0.9
            ), (name, severity)


# sentences about one kind of finding each, with what the noise must not say about it
OF_ONE_KIND = [
    "Moderate left pleural effusion.",
    "Right apical pneumothorax.",
    "Cardiomegaly with a left base opacity.",
    "A 2.5 cm mass in the right upper lobe.",
    "Nodule in the left lower lobe, 4 mm.",
    "Rib fracture, opacity in the right lower lobe.",
    "Emphysema of the left upper lobe.",
    "Left lower lobe atelectasis.",
    "Scar in the right apex, degenerative changes of the spine.",
    "Gastric tube in place, left base consolidation.",
    "Granuloma in the right upper lobe.",
    "Infiltrate in the left mid lung, 12.5 mm.",
    "Left apical bulla.",
    "Right lower lobe bronchiectasis, no effusion.",
    "Pneumonia in the left lower lobe. The right lung is clear.",
    "Fibrosis at the right base, heart enlarged.",
]


def present(text):
    """Groups of the findings that are there, with their places; sizes apart."""
    found = parse(text).findings
    return {
        (finding.group, finding.zones)
        for finding in found
        if finding.present and finding.organ in ("lung", "pleura")
    }


def denied(text):
    return {finding.group for finding in parse(text).findings if not finding.present}


@pytest.mark.parametrize("sentence", OF_ONE_KIND)
@pytest.mark.parametrize("name", ["paraphrase", "extra", "negation", "missing", "word_order"])
def test_noise_that_claims_to_keep_keeps_kind_size_and_place(sentence, name):
    severities = {"missing": (1, 2), "word_order": (1,)}.get(name, TEXT_NOISE[name].severities)
    for severity in severities:
        for seed in range(6):
            out = spoil(sentence, name, severity, rng(seed))
            if out is None:
                continue
            assert present(out) == present(sentence), out
            assert not denied(out) & {group for group, _ in present(sentence)}, out
            assert parse(out).zones == parse(sentence).zones, out
            sizes = {finding.size_mm for finding in parse(out).findings} - {None}
            assert sizes <= {finding.size_mm for finding in parse(sentence).findings}, out


def test_what_is_denied_is_the_finding_of_the_sentence():
    assert (
        spoil("A mass in the right upper lobe.", "denied", 1, rng())
        == "No mass in the upper right lung."
    )
    assert spoil("Left effusion.", "denied", 1, rng()) == "No effusion in the left lung."
    assert spoil(REPORT, "denied", 1, rng()).startswith("No opacity in")


def test_every_misspelling_of_a_side_or_level_is_read():
    sentence = "Opacity in the {} {} lobe."
    for side in ("left", "right"):
        for level in ("upper", "lower", "middle"):
            expected = parse(sentence.format(side, level), "report").zones
            for kind in ("keyboard", "swap", "drop"):
                for seed in range(8):
                    wrong_side, wrong_level = (
                        spoil(word, kind, 1, rng(seed)) for word in (side, level)
                    )
                    for text in (
                        sentence.format(wrong_side, level),
                        sentence.format(side, wrong_level),
                    ):
                        statement = parse(text, "report")
                        assert statement.zones == expected, text
