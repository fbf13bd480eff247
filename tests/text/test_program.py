"""Prompts as programs: parsing undoes rendering, mirrored prompts are mirrored programs, nothing ever fails."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.statement import Laterality, Level, Side
from textmask.text.mirroring import mirrored_words
from textmask.text.program import (
    Above,
    AtLevel,
    Below,
    Everything,
    Except,
    Find,
    Inside,
    Largest,
    LeftOf,
    Nearest,
    Nothing,
    Nth,
    OnSide,
    Opposite,
    Range,
    RightOf,
    Smallest,
    Step,
    Union,
    Unknown,
    children,
    mirrored_program,
    render_program,
    steps_of,
    with_laterality,
)
from textmask.text.program_grammar import PROGRAM_WARNINGS, parse_program
from textmask.text.structures import read_structures, structure_list

LEFT, RIGHT, IMAGE, PATIENT = Side.LEFT, Side.RIGHT, Laterality.IMAGE, Laterality.PATIENT
SHORT = {
    "the lung on the patient's right side": OnSide(RIGHT, Find("lung"), PATIENT),
    "Left kidney": OnSide(LEFT, Find("kidney")),
    "both collarbones": Find("clavicle"),
    "the lung on the left side of the image": OnSide(LEFT, Find("lung"), IMAGE),
    "RV": Find("right ventricle"),
    "second vertebral body from the top": Nth(2, "top", Find("vertebra")),
    "the 2nd lowest vertebra": Nth(2, "bottom", Find("vertebra")),
    "the last vertebra": Nth(1, "bottom", Find("vertebra")),
    "the lowest of the vertebrae": Nth(1, "bottom", Find("vertebra")),
    "L2-L4": Range(Find("L2 vertebra"), Find("L4 vertebra")),
    "from L2 through L4": Range(Find("L2 vertebra"), Find("L4 vertebra")),
    "what lies inside the ring of heart muscle": Inside(Everything(), Find("myocardium")),
    "the body directly above L3": Above(Find("vertebra"), Find("L3 vertebra")),
    "the collarbone above the right lung": Above(Find("clavicle"), OnSide(RIGHT, Find("lung"))),
    "the lung opposite to the left clavicle": Opposite(Find("lung"), OnSide(LEFT, Find("clavicle"))),
    "the vertebra above the vertebra below L2": Above(
        Find("vertebra"), Below(Find("vertebra"), Find("L2 vertebra"))
    ),
    "to the left of the heart": LeftOf(Everything(), Find("heart")),
    "the larger of the two lungs": Largest(Find("lung")),
    "the kidney with the larger cross-section": Largest(Find("kidney")),
    "the smaller of L3 and L4": Smallest(Union((Find("L3 vertebra"), Find("L4 vertebra")))),
    "the largest vein": Largest(Find("vein")),
    "the leftmost nucleus": Nth(1, "left", Find("nucleus")),
    "the left ventricle with its wall": Union((Find("left ventricle"), Find("myocardium"))),
    "every structure except the heart": Except(Everything(), Find("heart")),
    "all but the heart and the lungs": Except(Everything(), Union((Find("heart"), Find("lung")))),
    "all vertebrae but L3": Except(Find("vertebra"), Find("L3 vertebra")),
    "lungs and heart without the clavicles": Except(
        Union((Find("lung"), Find("heart"))), Find("clavicle")
    ),
    "The liver is unremarkable. Show only the pancreas.": Find("pancreas"),
    "Show the pancreas, the liver is normal.": Find("pancreas"),
    "not the artery but the vein": Find("vein"),
    "the vein, not the artery": Except(Find("vein"), Find("artery")),
    "nothing but the heart": Find("heart"),
    "No pancreas is to be marked.": Nothing(),
    "Do not mark the pancreas.": Nothing(),
    "The liver is unremarkable.": Nothing(),
    "Mark every structure. Do not mark the heart.": Except(Everything(), Find("heart")),
    "left and right lung": Find("lung"),
    "right and left lung": Find("lung"),
    "the part that pumps blood into the body": Find("left ventricle"),
    "Segment the lungs, please": Find("lung"),
    "the nucleus of the white blood cell": Find("nucleus"),
    "the vessel nearest to the crossing": Nearest(Find("vessel"), Find("crossing or uncertain")),
    "upper left lung": AtLevel(Level.UPPER, OnSide(LEFT, Find("lung"))),
    "left upper lung": AtLevel(Level.UPPER, OnSide(LEFT, Find("lung"))),
}  # fmt: skip


@pytest.mark.parametrize("prompt", SHORT, ids=str)
def test_what_prompts_ask_for(prompt: str) -> None:
    program = parse_program(prompt)
    assert program.step == SHORT[prompt]
    assert not program.ignored
    assert not program.warnings


def test_opacities_have_the_zones_that_their_caption_names() -> None:
    caption = (
        "bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
    )
    opacity = Find("opacity")
    want = Union(
        (
            AtLevel(Level.UPPER, OnSide(LEFT, opacity, IMAGE)),
            AtLevel(Level.LOWER, OnSide(RIGHT, opacity, IMAGE)),
        )
    )
    assert parse_program(caption, IMAGE).step == want
    assert parse_program("opacity in the left lung", PATIENT).step == OnSide(LEFT, opacity, PATIENT)
    assert parse_program("no pulmonary infection, zero infected areas.").step == Nothing()
    polyp = parse_program("One small colonic polyp on the top left of the image").step
    assert polyp == AtLevel(Level.UPPER, OnSide(LEFT, Find("polyp"), IMAGE))


def test_the_declared_convention_decides_what_left_of_means() -> None:
    assert isinstance(parse_program("what is left of the heart", PATIENT).step, RightOf)
    assert isinstance(parse_program("what is left of the heart", IMAGE).step, LeftOf)
    assert isinstance(parse_program("what is to the image left of the heart", PATIENT).step, LeftOf)


def test_a_report_has_one_target_per_sentence() -> None:
    program = parse_program("Outline the liver. The pancreas is normal. Mark the left kidney.")
    assert program.parts == (Find("liver"), OnSide(LEFT, Find("kidney")))
    assert program.step == Union(program.parts)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("outline the optic disc", ("optic", "disc")),
        ("Hello World", ("hello", "world")),
        ("kidney stone", ("kidney", "stone")),
        ("the stone of the kidney", ("stone",)),
        ("the stone in the left kidney", ("stone",)),
    ],
)
def test_foreign_names_are_refused_with_the_three_nearest_ones(
    prompt: str, words: tuple[str, ...]
) -> None:
    program = parse_program(prompt)
    assert program.step == Unknown(words)
    assert program.warnings == ("unknown_name",)
    (refused,) = program.refused
    assert len(refused.nearest) == 3
    assert set(refused.nearest) <= structure_list().structures.keys()
    if "kidney" in prompt.split()[0]:
        assert refused.nearest[0] == "kidney"


@pytest.mark.parametrize(
    ("prompt", "warning"),
    [
        ("", "empty_text"),
        ("the left right lung", "contradiction_side"),
        ("the left pancreas", "unpaired_side"),
        ("the left heart liver", "two_structures"),
        ("the fluffy lung", "unknown_words"),
        ("the heart above", "missing_anchor"),
        ("the pancraes", "repaired_typo"),
        ("heart " * 2000, "too_long"),
    ],
)
def test_questionable_prompts_have_a_named_warning(prompt: str, warning: str) -> None:
    program = parse_program(prompt)
    assert warning in program.warnings
    assert set(program.warnings) <= PROGRAM_WARNINGS.keys()


def test_unknown_words_are_kept_with_their_place() -> None:
    prompt = "Outline the fluffy lung."
    (ignored,) = parse_program(prompt).ignored
    assert prompt[slice(*ignored.span)] == "fluffy"
    find = next(step for step in steps_of(parse_program(prompt).step) if isinstance(step, Find))
    assert prompt[slice(*find.span)] == "lung"


def test_a_vocabulary_of_ones_own(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[structure.adrenal]\nregions = "belly"\npaired = true\n')
    own = read_structures(path)
    assert parse_program("left adrenal", structures=own).step == OnSide(LEFT, Find("adrenal"))
    assert isinstance(parse_program("left lung", structures=own).step, OnSide)
    assert parse_program("left lung", structures=own).refused


# ---- generated programs --------------------------------------------------------------------------------------

NAMES = sorted(structure_list().structures)
VERTEBRAE = [f"L{i} vertebra" for i in range(1, 6)]
LEAVES = st.one_of(
    st.sampled_from(NAMES).map(Find),
    st.just(Everything()),
    st.just(Nothing()),
    st.tuples(st.sampled_from(VERTEBRAE), st.sampled_from(VERTEBRAE)).map(
        lambda pair: Range(Find(pair[0]), Find(pair[1]))
    ),
    st.sampled_from([("zorkmid",), ("wibble", "quux")]).map(Unknown),
)


def grown(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
    sides = st.sampled_from([LEFT, RIGHT])
    return st.one_of(
        st.builds(OnSide, sides, steps, st.sampled_from(list(Laterality))),
        st.builds(AtLevel, st.sampled_from(list(Level)), steps),
        st.builds(
            Nth, st.integers(1, 30), st.sampled_from(["top", "bottom", "left", "right"]), steps
        ),
        st.lists(steps, min_size=2, max_size=3).map(lambda parts: Union(tuple(parts))),
        st.builds(Except, steps, steps),
        *(st.builds(kind, steps) for kind in (Largest, Smallest)),
        *(
            st.builds(kind, steps, steps)
            for kind in (Nearest, Above, Below, LeftOf, RightOf, Inside, Opposite)
        ),
    )


WORDS = (
    "left lung above ( ) and except of the not but L3 to no larger of , . zork from the top".split()
)
PROGRAMS = st.recursive(LEAVES, grown, max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_parsing_a_rendered_program_gives_the_program(step: Step) -> None:
    assert parse_program(render_program(step)).step == step


@settings(max_examples=40, deadline=None)
@given(PROGRAMS)
def test_a_mirrored_prompt_is_the_mirrored_program(step: Step) -> None:
    prompt = mirrored_words(render_program(step))
    if prompt is not None:  # of an organ on one side, or with words that cannot be mirrored
        assert parse_program(prompt).step == mirrored_program(step)
    assert mirrored_program(mirrored_program(step)) == step


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_nothing_fails(prompt: str) -> None:
    program = parse_program(prompt)
    for step in steps_of(program.step):
        assert isinstance(children(step), tuple)
    assert isinstance(program.as_json(), dict)
    assert set(program.warnings) <= PROGRAM_WARNINGS.keys()


@pytest.mark.parametrize(
    "word",
    ["heart ", "(", "above ", "zork ", "larger of ", "left ", "not ", "a" * 9 + " ", "L2 to "],
)
def test_long_prompts_are_bounded(word: str) -> None:
    begin = time.perf_counter()
    program = parse_program(word * (10_000 // len(word)))
    assert time.perf_counter() - begin < 2
    assert "too_long" in program.warnings


def test_conventions_can_be_declared_afterwards() -> None:
    step = parse_program("the clavicle above the left lung").step
    assert with_laterality(step, PATIENT) == parse_program(str(step_text(step)), PATIENT).step


def step_text(step: Step) -> str:
    return render_program(step)
