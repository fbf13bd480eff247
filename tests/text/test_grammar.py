"""The field's sentences parse to what they say, errors and all."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from textmask.errors import ConfigError
from textmask.statement import LUNG_ZONES, ZONES, Laterality, Level, Side, Statement
from textmask.text.grammar import GRAMMARS, WARNINGS, explain, parse
from textmask.text.render import render
from textmask.text.words import one_edit_apart, repair

L, R, C = Side.LEFT, Side.RIGHT, Side.CENTER
U, M, D = Level.UPPER, Level.MIDDLE, Level.LOWER


def bits(sentence, grammar="auto"):
    return "".join(map(str, parse(sentence, grammar).lung_bits()))


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        (
            "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung.",
            "100001",
        ),
        (
            "Bilateral pulmonary infection, two infected areas, all left lung and all right lung.",
            "111111",
        ),
        ("Unilateral pulmonary infection, one infected area, middle lower left lung.", "011000"),
        # typing errors of the released table
        (
            "Bilateral pulmonary infection, two infected areas,lower left lung and upper right lung.",
            "001100",
        ),
        ("Unilateral pulmonary infection, one infected area,lower left lung.", "001000"),
        (
            "Bilateral pulmonary infection,  two infected areas,  lower left lung and  lower right lung.",
            "001001",
        ),
        ("Unilateral pulmonary infection, one infected area, midlle left lung.", "010000"),
        ("Unilateral pulmonary infection, one infected area, mmiddle right lung.", "000010"),
        ("Unilateral pulmonary infection, one infected area, mddle right lung.", "000010"),
        ("Unilateral pulmonary infection, one infected area, lowerl right lung.", "000001"),
        ("Unilateral pulmonary infection, one infected area, lower leff lung.", "001000"),
        ("Unilateral pulmonary infection, one infected areas, lower left lung.", "001000"),
        ("Unilateral pulmonary infection, oneinfected area, lower left lung.", "001000"),
        (
            "Bilateral pulmonary infection, two infected areas, upper lung and middle lower right lung.",
            "100011",
        ),
        (
            "Bilateral pulmonary infection, two infected areas, all left lung and right lung.",
            "111111",
        ),
        ("Unilateral pulmonary infection, one infected area, middle upper left lung.", "110000"),
        ("Unilateral pulmonary infection, one infected area, lower middle right lung.", "000011"),
        ("Unilateral pulmonary infection, one infected area, lower upper right lung.", "000101"),
        ("Unilateral pulmonary infection, one infected area, all lower left lung.", "001000"),
        # contradictions still name their zones
        (
            "Unilateral pulmonary infection, two infected areas, all left lung and all right lung.",
            "111111",
        ),
        ("Bilateral pulmonary infection, two infected areas, middle left lung.", "010000"),
        ("Bilateral pulmonary infection, two infected areas, lower left lung.", "001000"),
        ("Bilateral pulmonary infection, two infected areas, upper lower left lung.", "101000"),
        ("lower left lung", "001000"),
        # one noun for both sides, and spaces that were lost elsewhere
        ("Bilateral pulmonary infection, two infected areas, lower left and right lung.", "001001"),
        ("Bilateral pulmonary infection, two infected areas, left and right upper lung.", "100100"),
        ("Unilateral pulmonary infection, one infected area, lowerleft lung.", "001000"),
        ("Unilateral pulmonary infection, one infected area, lower leftlung.", "001000"),
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
        (
            "Bilateral pulmonary infection, two infected areas, middle left lung.",
            "contradiction_lateral",
        ),
        ("No pulmonary infection, zero infected areas, lower left lung.", "contradiction_count"),
        (
            "Bilateral pulmonary infection, one infected area, lower left lung and lower right lung.",
            "contradiction_count",
        ),
        (
            "Bilateral pulmonary infection, two infected areas, upper lung and lower right lung.",
            "missing_side",
        ),
        (
            "Bilateral pulmonary infection, two infected areas, all left lung and right lung.",
            "missing_level",
        ),
        ("Unilateral pulmonary infection, one infected area, midlle left lung.", "repaired_typo"),
        ("rigth lower lobe opacity", "repaired_typo"),
        ("Polyp botom left.", "repaired_typo"),
        ("basal opacity", "missing_side"),
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
    caption = (
        "bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
    )
    statement = parse(caption, laterality=Laterality.IMAGE)
    assert statement.warnings == ()
    assert (statement.count, statement.lateral, statement.laterality) == (
        2,
        "bilateral",
        Laterality.IMAGE,
    )


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("No pulmonary infection, zero infected areas.", "000000"),
        ("Unilateral pulmonary infection, two infected areas, lower left lung.", "001000"),
        (
            "Unilateral pulmonary infection, one infected areas, left lung and all right lung..",
            "000111",
        ),
        (
            "Bilateral pulmonary infection, nine infected areas, all left lung and upper right lung.",
            "111100",
        ),
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
    polyp = parse("No polyp.")
    assert (polyp.absent, polyp.count, polyp.zones) == (True, 0, frozenset())
    for sentence in (
        "No focal consolidation.",
        "Lungs are clear.",
        "No pleural effusion.",
        "No opacity in either lung.",
    ):
        assert parse(sentence).absent, sentence


@pytest.mark.parametrize(
    "sentence",
    [
        "No left lower lobe opacity.",
        "One polyp on the top left, no bleeding.",
        "Normal heart size.",
        "No change in the left lower lobe opacity.",
        "Clear lungs apart from a right basal opacity.",
    ],
)
def test_what_is_denied_in_part_is_not_absence(sentence):
    assert not parse(sentence).absent


@pytest.mark.parametrize(
    ("sentence", "zones"),
    [
        ("Bilateral pulmonary infection, two infected areas, LLL and RLL.", {(L, D), (R, D)}),
        ("bilat. pulm. inf., two inf. areas, LLL and RUL", {(L, D), (R, U)}),
        ("Unilateral pulmonary infection, one infected area, RMZ.", {(R, M)}),
    ],
)
def test_a_caption_names_its_places_by_letters(sentence, zones):
    statement = parse(sentence)
    assert (statement.zones, statement.grammar, statement.warnings) == (zones, "qata", ())


@pytest.mark.parametrize(
    "extra", ["No pleural effusion.", "Heart size is normal.", "The lungs are well inflated."]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_report_sentence_beside_a_caption_takes_nothing_from_it(extra, first):
    caption = "Bilateral pulmonary infection, two infected areas, lower left lung and RML."
    statement = parse(f"{extra} {caption}" if first else f"{caption} {extra}")
    assert (statement.count, statement.lateral, statement.warnings) == (2, "bilateral", ())
    assert statement.zones >= {(L, D), (R, M)}
    if "lungs" not in extra:  # "the lungs are ..." without a denial names both lungs
        assert statement.zones == {(L, D), (R, M)}


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("There are infected areas in the lower left lung.", None),
        ("There are 12 infected areas in the lower left lung.", 12),
        ("twoinfected areas, lower left lung", 2),
        ("tow infected areas, lower left lung", None),
    ],
)
def test_only_a_number_counts(sentence, count):
    assert parse(sentence).count == count


@pytest.mark.parametrize(
    ("sentence", "zones", "negated"),
    [
        (
            "patchy opacity in the left lower lobe, right lung is clear",
            {(L, D)},
            {(R, U), (R, M), (R, D)},
        ),
        ("RLL opacity", {(R, D)}, set()),
        ("Consolidation in the RUL and LLL.", {(R, U), (L, D)}, set()),
        ("bilateral infiltrates", {(s, v) for s in (L, R) for v in Level}, set()),
        ("Bibasilar atelectasis", {(L, D), (R, D)}, set()),
        ("left upper and lower lobe opacities", {(L, U), (L, D)}, set()),
        ("opacity in the left and right lower lobes", {(L, D), (R, D)}, set()),
        ("right upper lobe and left lower lobe consolidation", {(R, U), (L, D)}, set()),
        ("Opacity at the right base without effusion.", {(R, D)}, set()),
        (
            "No consolidation in the left lung; nodule in the right apex.",
            {(R, U)},
            {(L, U), (L, M), (L, D)},
        ),
        ("lingular opacity", {(L, M)}, set()),
        ("LLZ and RMZ shadowing", {(L, D), (R, M)}, set()),
        ("Lt. base and R upper lobe opacities", {(L, D), (R, U)}, set()),
        ("bilat. inf. opacities", {(s, v) for s in (L, R) for v in Level}, set()),
        ("opacity in the inf. lobe on the right", {(R, D)}, set()),
        ("rigth lower lobe opacity", {(R, D)}, set()),
        ("perihilar opacities", {(L, M), (R, M)}, set()),
        (
            "patchy opacities in the mid and lower zones bilaterally",
            {(s, v) for s in (L, R) for v in (M, D)},
            set(),
        ),
        ("midlung opacity on the right", {(R, M)}, set()),
        ("blunted left costophrenic angle", {(L, D)}, set()),
        # what is said of one place is not said of the other
        (
            "Right lung is clear. Opacity in left lung.",
            {(L, v) for v in Level},
            {(R, v) for v in Level},
        ),
        (
            "Pulmonary infection in the left lower lobe, right lung is clear",
            {(L, D)},
            {(R, v) for v in Level},
        ),
        ("opacity in the left base and the right lung is clear", {(L, D)}, {(R, v) for v in Level}),
        ("Clear right lung with opacity in the left base", {(L, D)}, {(R, v) for v in Level}),
        ("Left lung: no opacity. RLL consolidation.", {(R, D)}, {(L, v) for v in Level}),
        ("Right lung has no infiltrates, left base opacity", {(L, D)}, {(R, v) for v in Level}),
        ("Right lung, clear.", set(), {(R, v) for v in Level}),
        ("The left lung is free of consolidation.", set(), {(L, v) for v in Level}),
        ("left lower lobe opacity has resolved", set(), {(L, D)}),
        ("RLL opacity is not resolved", {(R, D)}, set()),
        ("no significant change in the RLL consolidation", {(R, D)}, set()),
        ("Right lower lobe opacity. No right effusion.", {(R, D)}, {(R, U), (R, M)}),
        # exceptions
        (
            "Lungs clear except for left basal opacity",
            {(L, D)},
            {(s, v) for s, v in LUNG_ZONES if (s, v) != (L, D)},
        ),
        ("Infiltrate in the left lung, sparing the apex.", {(L, M), (L, D)}, {(L, U)}),
        # other anatomy
        ("left PICC line, opacity in the right base", {(R, D)}, set()),
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
        ("polyp which is a small lump in the lining of colon", set(), 1, None),
        ("one medium polyp which is a small lump located in top of the image", {(C, U)}, 1, "medium"),
        ("One polyp on the top left, no bleeding.", {(L, U)}, 1, None),
        ("Polyp botom rigth.", {(R, D)}, 1, None),
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
        ("The nuclei density in the upper left and lower right is high.", {(L, U), (R, D)}),
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
    for grammar in ("auto", *GRAMMARS):
        assert isinstance(parse(sentence, grammar), Statement)


lung_statements = st.sets(st.sampled_from(LUNG_ZONES)).map(
    lambda z: Statement(frozenset(z), absent=not z)
)


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


@pytest.mark.parametrize(
    ("sentence", "zones", "count", "grammar"),
    [
        (
            "two small lesions, located in top left, bottom of the image",
            {(L, U), (C, D)},
            2,
            "lesion",
        ),
        ("lesion in the right of the image", {(R, M)}, 1, "lesion"),
        ("no lesion in the image.", set(), 0, "lesion"),
        ("many lesions in the image.", set(), None, "lesion"),
        # of a lung, whatever else is said: a report
        ("Two lesions in the left lower lobe on this image.", {(L, D)}, 2, "report"),
        ("Lesion in the left base.", {(L, D)}, None, "report"),
    ],
)
def test_lesions_of_any_organ(sentence, zones, count, grammar):
    statement = parse(sentence)
    assert (set(statement.zones), statement.count, statement.grammar) == (zones, count, grammar)
    assert statement.absent is (count == 0)
    assert statement.warnings == ()


@given(st.sets(st.sampled_from(ZONES)), st.integers(0, 120))
def test_rendering_a_lesion_statement_and_parsing_it_gives_its_claims(zones, count):
    again = parse(render(Statement(frozenset(zones), count or None), "lesion"))
    assert (again.zones, again.count, again.warnings) == (zones, count or len(zones) or None, ())


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("level", [None, *Level])
def test_rendering_nuclei(side, level):
    if side is Side.CENTER and level is not None:
        return
    zones = frozenset(
        (s, v) for s in ([side] if side is not C else Side) for v in ([level] if level else Level)
    )
    assert parse(render(Statement(zones), "nuclei")).zones == (
        zones if len(zones) < 9 else frozenset()
    )


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
    for word in (
        "light",
        "bright",
        "might",
        "power",
        "patchy",
        "effusion",
        "mass",
        "night",
        "lobe",
    ):
        assert repair(word) == word
    assert one_edit_apart("midlde", "middle")
    assert not one_edit_apart("middle", "middle")
    assert not one_edit_apart("mdidel", "middle")


@pytest.mark.data
def test_all_real_chest_captions_have_the_published_six_zone_label(data_root):
    with (data_root / "qata-cov19-v2" / "texts.csv").open(
        encoding="utf-8-sig", newline=""
    ) as stream:
        rows = list(csv.DictReader(stream))
    wrong = [row["text"] for row in rows if bits(row["text"]) != row["zones"]]
    assert (len(rows), wrong) == (8217, [])
    captions = {row["text"] for row in rows}
    assert {render(parse(caption)) for caption in captions} == captions


@pytest.mark.data
def test_every_real_polyp_and_nuclei_sentence_is_understood_without_a_warning(data_root):
    polyps = ["text_madapter", *(f"medvlsm_p{k}" for k in (1, 2, 3, 4, 5, 6, 9))]
    for folder, columns in (
        ("kvasir-seg", polyps),
        ("cvc-clinicdb", polyps),
        ("monuseg-lvit", ["text"]),
    ):
        with (data_root / folder / "texts.csv").open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
        texts = {text for row in rows for column in columns for text in row[column].split(" | ")}
        assert {text for text in texts if parse(text).warnings} <= {"unknown"}


@pytest.mark.data
def test_a_polyp_side_alone_means_its_middle_height(data_root):
    folder = data_root / "kvasir-seg"
    with (folder / "texts.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if parse(row["medvlsm_p6"]).count == 1]
    heights = []
    for row in rows:
        if parse(row["medvlsm_p6"]).zones in ({(L, M)}, {(R, M)}):
            occupied = np.flatnonzero(
                np.asarray(Image.open(folder / row["mask"]).convert("L")).any(axis=1)
            )
            heights.append((occupied[0] + occupied[-1] + 1) / 2 / int(row["h"]))
    assert len(heights) > 250
    assert np.mean([1 / 3 <= height < 2 / 3 for height in heights]) > 0.95
