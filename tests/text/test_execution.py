"""Programs over hand-made label maps: what each step selects, against masks that are drawn here."""

import numpy as np
import pytest

from textmask.errors import ConfigError, LateralityError
from textmask.statement import Laterality
from textmask.text.execution import label_set, run_program
from textmask.text.program import Everything, Find, OnSide, mirrored_program
from textmask.text.program_grammar import parse_program
from textmask.text.zones import ZONE_MAPS

SIZE = (32, 32)
PATIENT, IMAGE = Laterality.PATIENT, Laterality.IMAGE


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def run(prompt: str, masks: dict[str, np.ndarray], laterality: Laterality = PATIENT) -> np.ndarray:
    program = parse_program(prompt, laterality)
    assert not program.ignored
    return run_program(program, masks, shape=SIZE)


# the patient's right lies on the left of the image
CHEST = {
    "right lung": box(8, 28, 2, 12),
    "left lung": box(8, 28, 20, 28),
    "heart": box(18, 26, 12, 22),
    "right clavicle": box(4, 6, 4, 12),
    "left clavicle": box(4, 6, 20, 27),
}
SPINE = {f"L{i} vertebra": box(6 * i - 5, 6 * i - 1, 10 + i, 18 + i) for i in range(1, 6)}
RING = box(8, 24, 8, 24) & ~box(12, 20, 12, 20)
HEART = {
    "myocardium": RING,
    "left ventricle": box(12, 20, 12, 20),
    "right ventricle": box(8, 24, 1, 8),
}
CELLS = {
    "nucleus": box(2, 8, 20, 26) | box(20, 24, 2, 6) | box(12, 13, 14, 15),
    "cytoplasm": box(0, 10, 10, 20),
}
ABDOMEN = {
    "liver": box(2, 14, 1, 14),
    "pancreas": box(10, 14, 15, 22),
    "right kidney": box(18, 24, 4, 9),
    "left kidney": box(17, 26, 22, 28),
}  # fmt: skip
NONE = np.zeros(SIZE, dtype=bool)


def without(masks: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.any([mask for other, mask in masks.items() if other != name], axis=0)


@pytest.mark.parametrize(
    ("masks", "prompt", "want"),
    [
        (CHEST, "the left lung", CHEST["left lung"]),
        (CHEST, "both lungs", CHEST["left lung"] | CHEST["right lung"]),
        (CHEST, "the lung on the left side of the image", CHEST["right lung"]),
        (CHEST, "the collarbone above the right lung", CHEST["right clavicle"]),
        (CHEST, "the lung below the left clavicle", CHEST["left lung"]),
        (CHEST, "the lung opposite to the left clavicle", CHEST["right lung"]),
        (CHEST, "the larger of the two lungs", CHEST["right lung"]),
        (CHEST, "the smaller lung", CHEST["left lung"]),
        (CHEST, "the structure nearest to the heart", CHEST["left lung"]),
        (CHEST, "all but the heart", without(CHEST, "heart")),
        (CHEST, "the left right lung", NONE),
        (CHEST, "the pathology", NONE),
        (CHEST, "the optic disc", NONE),
        (CHEST, "the upper left lung", box(8, 15, 20, 28)),
        (SPINE, "second vertebra from the top", SPINE["L2 vertebra"]),
        (SPINE, "the lowest vertebra", SPINE["L5 vertebra"]),
        (SPINE, "the sixth vertebra", NONE),
        (SPINE, "the body directly above L3", SPINE["L2 vertebra"]),
        (SPINE, "the vertebra below L3", SPINE["L4 vertebra"]),
        (SPINE, "the vertebra below L5", NONE),
        (SPINE, "L2 to L4", SPINE["L2 vertebra"] | SPINE["L3 vertebra"] | SPINE["L4 vertebra"]),
        (SPINE, "L4 to L3", SPINE["L3 vertebra"] | SPINE["L4 vertebra"]),
        (SPINE, "the rightmost vertebra", SPINE["L5 vertebra"]),
        (SPINE, "the smallest of (L1 and (L2 and L3))", SPINE["L1 vertebra"]),
        (HEART, "what lies inside the ring of heart muscle", HEART["left ventricle"]),
        (HEART, "the left ventricle with its wall", box(8, 24, 8, 24)),
        (HEART, "the ventricle on the left of the image", HEART["right ventricle"]),
        (HEART, "what lies to the image left of the myocardium", HEART["right ventricle"]),
        (CELLS, "the leftmost nucleus", box(20, 24, 2, 6)),
        (CELLS, "the largest nucleus", box(2, 8, 20, 26)),
        (CELLS, "the whole white cell", CELLS["nucleus"] | CELLS["cytoplasm"]),
        (CELLS, "nuclei", CELLS["nucleus"]),
        (CELLS, "not the nucleus but the cytoplasm", CELLS["cytoplasm"]),
        (ABDOMEN, "The liver is unremarkable. Show only the pancreas.", ABDOMEN["pancreas"]),
        (ABDOMEN, "No pancreas is to be marked.", NONE),
        (ABDOMEN, "the kidney with the larger cross-section", ABDOMEN["left kidney"]),
        (ABDOMEN, "the right kidney and the liver", ABDOMEN["right kidney"] | ABDOMEN["liver"]),
    ],
)  # fmt: skip
def test_programs_select_what_is_drawn(
    masks: dict[str, np.ndarray], prompt: str, want: np.ndarray
) -> None:
    np.testing.assert_array_equal(run(prompt, masks), want)


def test_all_but_keeps_overlapping_structures_whole() -> None:
    """A clavicle over the lung is no hole in it; the parts of one structure without another one are."""
    masks = {"left lung": box(2, 20, 20, 30), "left clavicle": box(4, 6, 18, 28)}
    np.testing.assert_array_equal(run("all but the clavicles", masks), masks["left lung"])
    cut = run("the largest lung without the clavicle", masks)
    np.testing.assert_array_equal(cut, masks["left lung"] & ~masks["left clavicle"])


def test_one_of_a_pair_lies_on_the_side_of_its_half() -> None:
    alone = {"left kidney": ABDOMEN["left kidney"]}
    assert run("the kidney on the right of the image", alone).any()
    assert not run("the kidney on the left of the image", alone).any()
    assert not run("the right kidney", alone).any()


def test_zones_of_opacities_are_those_of_the_zone_map() -> None:
    whole = {"opacity": np.ones(SIZE, dtype=bool)}
    cuts = [round(32 * cut) for cut in ZONE_MAPS["chest"].level_cuts]
    got = run("opacity in the upper left lung", whole, IMAGE)
    assert abs(int(got.sum()) - cuts[0] * 16) <= 16
    assert got[:10, :16].all()
    np.testing.assert_array_equal(run("opacity in the upper right lung", whole, PATIENT), got)
    np.testing.assert_array_equal(
        run("opacity in the upper right lung", whole, IMAGE), got[:, ::-1]
    )


def test_a_side_needs_a_convention() -> None:
    with pytest.raises(LateralityError, match=r"unknown whether .* patient's or the image's"):
        run_program(parse_program("left lung"), CHEST)


def test_masks_have_one_size() -> None:
    with pytest.raises(ConfigError, match="must have one size H W, got none"):
        run_program(Find("heart"), {})
    with pytest.raises(ConfigError, match=r"\(2, 2\), \(32, 32\)"):
        run_program(Find("heart"), CHEST, shape=(2, 2))


def test_label_sets_are_unions_of_whole_structures() -> None:
    step = parse_program("all but the heart").step
    assert label_set(step, list(CHEST)) == CHEST.keys() - {"heart"}
    assert label_set(OnSide(parse_program("left lung").step.side, Find("lung"), PATIENT), []) == {
        "left lung"
    }
    assert label_set(parse_program("the largest lung").step, []) is None
    assert label_set(Everything(), ["heart"]) == {"heart"}


@pytest.mark.parametrize("masks", [CHEST, SPINE, HEART, CELLS, ABDOMEN])
def test_a_mirrored_image_with_mirrored_programs_is_mirrored(masks: dict[str, np.ndarray]) -> None:
    prompts = (
        "the lung on the left side of the image", "the leftmost nucleus", "what is right of the heart",
        "the vertebra above L3", "the lung opposite to the heart", "the largest kidney",
    )  # fmt: skip
    mirrored = {name: mask[:, ::-1] for name, mask in masks.items()}
    for prompt in prompts:
        step = parse_program(prompt, IMAGE).step
        got = run_program(mirrored_program(step), mirrored)
        np.testing.assert_array_equal(got, run_program(step, masks)[:, ::-1])
