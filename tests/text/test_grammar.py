"""The field's sentences parse to what they say, errors and all."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textmask.errors import ConfigError
from textmask.text.grammar import WARNINGS, explain, parse
from textmask.text.render import render
from textmask.text.statement import LUNG_ZONES, ZONES, Level, Side, Statement
from textmask.text.words import one_edit_apart, repair
from textmask.types import Laterality


def bits(sentence, grammar="auto"):
    return "".join(map(str, parse(sentence, grammar).lung_bits()))


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung.", "100001"),
        ("Bilateral pulmonary infection, two infected areas, all left lung and all right lung.", "111111"),
        ("Unilateral pulmonary infection, one infected area, middle lower left lung.", "011000"),
        # typing errors of the released table
        ("Bilateral pulmonary infection, two infected areas,lower left lung and upper right lung.", "001100"),
        ("Unilateral pulmonary infection, one infected area,lower left lung.", "001000"),
        ("Bilateral pulmonary infection,  two infected areas,  lower left lung and  lower right lung.", "001001"),
        ("Unilateral pulmonary infection, one infected area, midlle left lung.", "010000"),
        ("Unilateral pulmonary infection, one infected area, mmiddle right lung.", "000010"),
        ("Unilateral pulmonary infection, one infected area, mddle right lung.", "000010"),
        ("Unilateral pulmonary infection, one infected area, lowerl right lung.", "000001"),
        ("Unilateral pulmonary infection, one infected area, lower leff lung.", "001000"),
        ("Unilateral pulmonary infection, one infected areas, lower left lung.", "001000"),
        ("Unilateral pulmonary infection, oneinfected area, lower left lung.", "001000"),
        ("Bilateral pulmonary infection, two infected areas, upper lung and middle lower right lung.", "100011"),
        ("Bilateral pulmonary infection, two infected areas, all left lung and right lung.", "111111"),
        ("Unilateral pulmonary infection, one infected area, middle upper left lung.", "110000"),
        ("Unilateral pulmonary infection, one infected area, lower middle right lung.", "000011"),
        ("Unilateral pulmonary infection, one infected area, lower upper right lung.", "000101"),
        ("Unilateral pulmonary infection, one infected area, all lower left lung.", "001000"),
        # contradictions still name their zones
        ("Unilateral pulmonary infection, two infected areas, all left lung and all right lung.", "111111"),
        ("Bilateral pulmonary infection, two infected areas, middle left lung.", "010000"),
        ("Bilateral pulmonary infection, two infected areas, lower left lung.", "001000"),
        ("Bilateral pulmonary infection, two infected areas, upper lower left lung.", "101000"),
        ("lower left lung", "001000"),
    ],
)
def test_chest_captions(sentence, label):
    assert bits(sentence) == label
    assert parse(sentence).grammar == "qata"


@pytest.mark.parametrize(
    ("sentence", "code"),
    [
        (
            "Unilateral pulmonary infection, two infected areas, all left lung and all right lung.",
            "contradiction_lateral",
        ),
        ("Bilateral pulmonary infection, two infected areas, middle left lung.", "contradiction_lateral"),
        ("No pulmonary infection, zero infected areas, lower left lung.", "contradiction_count"),
        ("Bilateral pulmonary infection, two infected areas, upper lung and lower right lung.", "missing_side"),
        ("Bilateral pulmonary infection, two infected areas, all left lung and right lung.", "missing_level"),
        ("Unilateral pulmonary infection, one infected area, midlle left lung.", "repaired_typo"),
        ("Opacity in the left lower lobe, the left lower lobe is clear.", "contradiction_negation"),
        ("Hello World", "nothing_parsed"),
        ("unknown", "nothing_parsed"),
        ("肺部感染", "nothing_parsed"),
        ("", "empty_text"),
        ("  \t\n", "empty_text"),
        ("lower left\u200b lung", "control_characters"),
        ("\u202elower left lung", "control_characters"),
        ("lower left lung " * 700, "too_long"),
    ],
)
def test_what_is_wrong_with_a_sentence_has_a_name(sentence, code):
    assert code in parse(sentence).warnings
    assert WARNINGS[code] in explain(parse(sentence))


def test_a_clean_caption_has_no_warning():
    caption = "bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
    statement = parse(caption, laterality=Laterality.IMAGE)
    assert statement.warnings == ()
    assert (statement.count, statement.lateral, statement.laterality) == (2, "bilateral", Laterality.IMAGE)


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("No pulmonary infection, zero infected areas.", "000000"),
        ("Unilateral pulmonary infection, two infected areas, lower left lung.", "001000"),
        ("Unilateral pulmonary infection, one infected areas, left lung and all right lung..", "000111"),
        ("Bilateral pulmonary infection, nine infected areas, all left lung and upper right lung.", "111100"),
    ],
)
def test_mosmed_reads_a_bare_lung_as_healthy(sentence, label):
    assert bits(sentence, "mosmed") == label


def test_a_bare_lung_is_affected_everywhere_but_in_mosmed():
    caption = "Bilateral pulmonary infection, two infected areas, left lung and all right lung."
    assert bits(caption) == bits(caption, "qata") == "111111"
    assert bits(caption, "mosmed") == "000111"


def test_absence():
    statement = parse("No pulmonary infection, zero infected areas.")
    assert (statement.absent, statement.count, statement.zones) == (True, 0, frozenset())
    assert parse("No focal consolidation.").absent
    assert parse("Lungs are clear.").absent or parse("Lungs are clear.").negated


L, R, C = Side.LEFT, Side.RIGHT, Side.CENTER
U, M, D = Level.UPPER, Level.MIDDLE, Level.LOWER


@pytest.mark.parametrize(
    ("sentence", "zones", "negated"),
    [
        ("patchy opacity in the left lower lobe, right lung is clear", {(L, D)}, {(R, U), (R, M), (R, D)}),
        ("RLL opacity", {(R, D)}, set()),
        ("Consolidation in the RUL and LLL.", {(R, U), (L, D)}, set()),
        ("bilateral infiltrates", {(s, v) for s in (L, R) for v in Level}, set()),
        ("Bibasilar atelectasis", {(L, D), (R, D)}, set()),
        ("left upper and lower lobe opacities", {(L, U), (L, D)}, set()),
        ("opacity in the left and right lower lobes", {(L, D), (R, D)}, set()),
        ("right upper lobe and left lower lobe consolidation", {(R, U), (L, D)}, set()),
        ("Opacity at the right base without effusion.", {(R, D)}, set()),
        ("No consolidation in the left lung; nodule in the right apex.", {(R, U)}, {(L, U), (L, M), (L, D)}),
        ("lingular opacity", {(L, M)}, set()),
        ("left perihilar infiltrate", {(L, M)}, set()),
        ("No focal consolidation.", set(), set()),
    ],
)
def test_report_sentences(sentence, zones, negated):
    statement = parse(sentence)
    assert (set(statement.zones), set(statement.negated)) == (zones, negated)
    assert statement.grammar == "report"


@pytest.mark.parametrize(
    ("sentence", "zones", "count", "size"),
    [
        ("One large,irregular,ulcerated colonic polyp on the top middle.", {(C, U)}, 1, "large"),
        ("One small,elliptical,smooth colonic polyp on the center.", {(C, M)}, 1, "small"),
        ("One colonic polyp.One medium,irregular-shaped,smooth polyp on the bottom left.", {(L, D)}, 1, "medium"),
        (
            "Two colonic polyps.One small,circular,smooth colonic polyp on the bottom center."
            "One small,circular,smooth colonic polyp on the top center.",
            {(C, D), (C, U)}, 2, "small",
        ),
        ("Polyp middle left.", {(L, M)}, 1, None),
        ("Polyp top center.", {(C, U)}, 1, None),
        ("Two polyps.", set(), 2, None),
        ("Many colonic polyps.", set(), None, None),
        ("one medium yellow round polyp, located in right of the image", {(R, M)}, 1, "medium"),
        ("two medium white round polyp, located in top left, bottom of the image", {(L, U), (C, D)}, 2, "medium"),
        ("polyp", set(), 1, None),
    ],
)  # fmt: skip
def test_polyp_prompts(sentence, zones, count, size):
    statement = parse(sentence)
    assert (set(statement.zones), statement.count, statement.size) == (zones, count, size)
    assert statement.grammar == "polyp"


@pytest.mark.parametrize(
    ("sentence", "zones"),
    [
        ("The nuclei density in the upper left is high.", {(L, U)}),
        ("The nuclei density in the lower is high.", {(L, D), (C, D), (R, D)}),
        ("The nuclei density in the right is high.", {(R, U), (R, M), (R, D)}),
        ("The nuclei are evenly distributed.", set()),
        ("The nuclei density is higher around.", set()),
    ],
)
def test_nuclei_prompts(sentence, zones):
    assert set(parse(sentence).zones) == zones
    assert parse(sentence).warnings == ()


def test_unknown_grammar_lists_the_valid_ones():
    with pytest.raises(ConfigError, match="qata, mosmed"):
        parse("lower left lung", "qatta")


@given(st.text(max_size=300))
def test_parse_never_fails(sentence):
    for grammar in ("auto", "qata", "mosmed", "polyp", "nuclei", "report"):
        assert isinstance(parse(sentence, grammar), Statement)


lung_statements = st.sets(st.sampled_from(LUNG_ZONES)).map(lambda z: Statement(frozenset(z), absent=not z))


@given(lung_statements, st.sampled_from(["qata", "qata_original", "report"]))
def test_rendering_a_chest_statement_and_parsing_it_gives_its_zones(statement, style):
    again = parse(render(statement, style))
    assert again.zones == statement.zones
    assert again.absent == statement.absent
    assert again.warnings == ()


@given(st.sets(st.sampled_from(ZONES), min_size=1))
def test_rendering_a_polyp_statement_and_parsing_it_gives_its_zones(zones):
    statement = Statement(frozenset(zones))
    assert parse(render(statement, "polyp")).zones == statement.zones


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("level", [None, *Level])
def test_rendering_nuclei(side, level):
    if side is Side.CENTER and level is not None:
        return
    zones = frozenset((s, v) for s in ([side] if side is not C else Side) for v in ([level] if level else Level))
    assert parse(render(Statement(zones), "nuclei")).zones == (zones if len(zones) < 9 else frozenset())


@pytest.mark.parametrize("levels", [{U}, {M}, {D}, set(Level), set()])
def test_rendering_mosmed(levels):
    zones = frozenset((R, v) for v in levels)
    statement = Statement(zones, absent=not zones)
    assert parse(render(statement, "mosmed"), "mosmed").zones == zones


def test_styles_that_cannot_say_it_are_refused():
    with pytest.raises(ConfigError, match="centre"):
        render(Statement(frozenset({(C, M)})), "qata")
    with pytest.raises(ConfigError, match="one level a lung"):
        render(Statement(frozenset({(L, U), (L, M)})), "mosmed")
    with pytest.raises(ConfigError, match="half or quadrant"):
        render(Statement(frozenset({(L, U), (R, D)})), "nuclei")


def test_real_words_are_not_repaired():
    for word in ("light", "bright", "might", "power", "patchy", "effusion", "mass", "night", "lobe"):
        assert repair(word) == word
    assert one_edit_apart("midlde", "middle")
    assert not one_edit_apart("middle", "middle")
    assert not one_edit_apart("mdidel", "middle")


@pytest.mark.data
def test_all_real_chest_captions_have_the_published_six_zone_label(data_root):
    with (data_root / "qata-cov19-v2" / "texts.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wrong = [row["text"] for row in rows if bits(row["text"]) != row["zones"]]
    assert (len(rows), wrong) == (8217, [])
    captions = {row["text"] for row in rows}
    assert {render(parse(caption)) for caption in captions} == captions


@pytest.mark.data
def test_every_real_polyp_and_nuclei_sentence_is_understood(data_root):
    for folder, column in (
        ("kvasir-seg", "text_madapter"),
        ("cvc-clinicdb", "text_madapter"),
        ("monuseg-lvit", "text"),
    ):
        with (data_root / folder / "texts.csv").open(encoding="utf-8-sig", newline="") as stream:
            texts = {row[column] for row in csv.DictReader(stream)}
        odd = {text for text in texts if "nothing_parsed" in parse(text).warnings}
        assert odd <= {"unknown"}
