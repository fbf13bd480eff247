"""Generated prompts: every kind, with the mask that is drawn here, and wordings that the parser understands."""

import numpy as np
import pytest

from textmask.statement import Laterality
from textmask.text.execution import run_program
from textmask.text.program import Find, Unknown, steps_of
from textmask.text.program_grammar import parse_program
from textmask.text.referring import KINDS, draw_expressions, expressions, is_held_out
from textmask.text.referring_templates import TEMPLATES
from textmask.text.structures import structure_list

SIZE = (40, 40)


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


CHEST = {
    "right lung": box(10, 34, 2, 14),
    "left lung": box(10, 34, 25, 34),
    "heart": box(22, 32, 15, 25),
    "right clavicle": box(4, 7, 4, 14),
    "left clavicle": box(4, 7, 25, 36),
}
SPINE = {f"L{i} vertebra": box(7 * i - 6, 7 * i - 1, 12, 22) for i in range(1, 6)}
HEART = {
    "right ventricle": box(8, 24, 1, 7),
    "myocardium": box(8, 28, 8, 28) & ~box(12, 24, 12, 24),
    "left ventricle": box(12, 24, 12, 24),
}
RETINA = {
    "artery": box(2, 12, 2, 4) | box(20, 24, 20, 24),
    "vein": box(5, 30, 30, 33) | box(2, 5, 10, 12),
}
LARYNX = {
    "vocal folds": box(2, 12, 2, 12),
    "glottal space": box(20, 30, 20, 30),
    "other tissue": box(32, 40, 0, 40),
}
SCENES = {
    "chest": (CHEST, list(CHEST)),
    "spine": (SPINE, list(SPINE)),
    "heart": (HEART, list(HEART)),
    "retina": (RETINA, [*RETINA, "crossing or uncertain"]),
    "larynx": (LARYNX, [*LARYNX, "pathology", "surgical tool", "intubation"]),
}
NONE = np.zeros(SIZE, dtype=bool)


def made(name: str, seed: int = 0, **options):
    masks, labels = SCENES[name]
    return expressions(
        masks, labels, np.random.default_rng(seed), **{"held_out": "with", **options}
    )


def test_every_kind_is_made() -> None:
    kinds = {expression.kind for name in SCENES for expression in made(name)}
    assert kinds == set(KINDS)
    for name in SCENES:
        order = [KINDS.index(expression.kind) for expression in made(name)]
        assert order == sorted(order)


@pytest.mark.parametrize("wording", ["training", "unseen"])
@pytest.mark.parametrize("laterality", [Laterality.PATIENT, Laterality.IMAGE])
@pytest.mark.parametrize("name", SCENES)
def test_the_parser_reads_every_prompt_as_it_was_meant(name: str, wording: str, laterality) -> None:
    masks, _ = SCENES[name]
    for seed in range(4):
        for one in made(name, seed, wording=wording, laterality=laterality):
            program = parse_program(one.prompt, laterality)
            got = run_program(program, masks)
            np.testing.assert_array_equal(got, run_program(one.step, masks), one.prompt)
            assert not program.ignored, one.prompt
            assert bool(program.refused) == (one.kind == "foreign"), one.prompt
            assert ("contradiction_side" in program.warnings) == (one.kind == "contradictory"), (
                one.prompt
            )


def want(name: str, kind: str, *words: str) -> np.ndarray:
    """The mask of the first prompt of a kind that contains some words."""
    for seed in range(20):
        for one in made(name, seed):
            if one.kind == kind and all(word in one.prompt for word in words):
                return run_program(one.step, SCENES[name][0])
    raise AssertionError(f"no {kind} prompt with {words}")


@pytest.mark.parametrize(
    ("name", "kind", "words", "mask"),
    [
        ("chest", "name", ("left lung",), CHEST["left lung"]),
        ("chest", "synonym", ("right", "collar"), CHEST["right clavicle"]),
        ("chest", "side", ("lung", "left", "image"), CHEST["right lung"]),
        ("chest", "side", ("lung", "patient's left"), CHEST["left lung"]),
        ("spine", "level", ("second", "from the bottom"), SPINE["L4 vertebra"]),
        ("spine", "level", ("L2 vertebra to L4",), SPINE["L2 vertebra"] | SPINE["L3 vertebra"] | SPINE["L4 vertebra"]),
        ("spine", "relation", ("above the L3",), SPINE["L2 vertebra"]),
        ("spine", "relation", ("below the L3",), SPINE["L4 vertebra"]),
        ("chest", "relation", ("clavicle above the right lung",), CHEST["right clavicle"]),
        ("chest", "relation", ("lung opposite to the left clavicle",), CHEST["right lung"]),
        ("heart", "relation", ("inside the myocardium",), HEART["left ventricle"]),
        ("chest", "comparison", ("larger", "lung"), CHEST["right lung"]),
        ("chest", "comparison", ("smaller", "lung"), CHEST["left lung"]),
        ("retina", "instance", ("largest", "vein"), box(5, 30, 30, 33)),
        ("retina", "instance", ("leftmost", "artery"), box(2, 12, 2, 4)),
        ("chest", "union", ("both clavicles",), CHEST["left clavicle"] | CHEST["right clavicle"]),
        ("heart", "union", ("left ventricle", "myocardium"), box(8, 28, 8, 28)),
        ("heart", "all-but", ("right ventricle",), box(8, 28, 8, 28)),
        ("retina", "distractor", ("vein is", "artery"), RETINA["artery"]),
        ("retina", "negation", ("not the artery but the vein",), RETINA["vein"]),
        ("retina", "negated finding", ("vein",), NONE),
        ("larynx", "absent", ("pathology",), NONE),
        ("larynx", "foreign", (), NONE),
        ("chest", "contradictory", ("lung",), NONE),
        ("heart", "report", ("left ventricle", "myocardium"), None),
        ("heart", "implicit", ("pumps blood into the body",), HEART["left ventricle"]),
    ],
)  # fmt: skip
def test_the_mask_of_each_kind(name: str, kind: str, words: tuple[str, ...], mask) -> None:
    got = want(name, kind, *words)
    if mask is not None:
        np.testing.assert_array_equal(got, mask)
    else:
        assert got.any()


def test_training_never_has_what_is_held_out() -> None:
    combinations = 0
    for name in SCENES:
        assert not any(is_held_out(one.step) for one in made(name, held_out="without"))
        only = made(name, held_out="only")
        combinations += len(only)
        assert all(is_held_out(one.step) for one in only)
        # every structure of a held-out combination is trained in another one
        names = {s.name for one in only for s in steps_of(one.step) if isinstance(s, Find)}
        seen = made(name, held_out="without")
        assert names <= {s.name for one in seen for s in steps_of(one.step) if isinstance(s, Find)}
    assert combinations > 4
    for prompt in (
        "the left clavicle",
        "the vertebra below L3",
        "the larger kidney",
        "all but the heart",
    ):
        assert is_held_out(parse_program(prompt, Laterality.PATIENT).step)
    for prompt in (
        "the right clavicle",
        "the left lung",
        "the vertebra above L3",
        "all but the left lung",
    ):
        assert not is_held_out(parse_program(prompt, Laterality.PATIENT).step)


def test_unseen_wordings_share_nothing_with_training() -> None:
    for seen, unseen in TEMPLATES.values():
        assert seen
        assert unseen
        assert not set(seen) & set(unseen)
    for structure in structure_list().structures.values():
        others = {p for kind, ps in structure.phrases.items() if kind != "unseen" for p in ps}
        assert not others & set(structure.phrases["unseen"])


def test_the_seed_decides() -> None:
    assert made("chest", 3) == made("chest", 3)
    assert made("chest", 3) != made("chest", 4)
    drawn = draw_expressions(made("chest"), 6, np.random.default_rng(1))
    assert drawn == draw_expressions(made("chest"), 6, np.random.default_rng(1))
    assert len({one.prompt for one in drawn}) == 6
    everything = made("larynx")
    assert len(draw_expressions(everything, 999, np.random.default_rng(1))) == len(everything)


def test_unclear_questions_are_not_asked() -> None:
    equal = {"right kidney": box(10, 20, 2, 8), "left kidney": box(10, 20, 30, 36)}
    found = expressions(equal, list(equal), np.random.default_rng(0), held_out="with")
    assert not any(one.kind == "comparison" for one in found)
    near = {"right kidney": box(10, 20, 10, 20), "left kidney": box(20, 30, 11, 21)}
    found = expressions(near, list(near), np.random.default_rng(0), held_out="with")
    assert not any("of the image" in one.prompt for one in found)


def test_labels_outside_of_the_vocabulary_are_left_out() -> None:
    masks = {"gizmo": box(0, 4, 0, 4), "liver": box(10, 20, 10, 20)}
    found = expressions(masks, ["gizmo", "liver"], np.random.default_rng(0))
    assert any(one.step == Find("liver") for one in found)
    assert not any("gizmo" in one.prompt for one in found)
    assert not expressions({}, [], np.random.default_rng(0)) or all(
        isinstance(one.step, Unknown) for one in expressions({}, [], np.random.default_rng(0))
    )
