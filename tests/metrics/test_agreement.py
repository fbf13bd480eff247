"""Agreement: exact on phantoms, against slow loops, and what is not said counts nothing."""

import os
from itertools import pairwise

import numpy as np
import pytest

from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.errors import ConfigError, DataError
from textmask.metrics.agreement import agreement, location, one_sided, shown
from textmask.metrics.overlap import dice_pooled
from textmask.statement import Laterality, Level, Side
from textmask.text.grammar import parse

IMAGE = Laterality.IMAGE
LEFT = "unilateral pulmonary infection, one infected areas, lower left lung."
BOTH = "bilateral pulmonary infection, two infected areas, upper left lung and upper right lung."


def phantoms(laterality=IMAGE, n=24, **settings):
    made = [
        make_phantom(PhantomConfig(laterality=laterality, **settings), seed=seed)
        for seed in range(n)
    ]
    return np.stack([phantom.mask for phantom in made]), [phantom.statement for phantom in made]


def f1(masks, statements, table="phantom"):
    return {
        name: dice_pooled(c)
        for name, c in agreement(shown(masks, statements, table), statements).items()
    }


def box(rows, columns, size=(100, 100)):
    mask = np.zeros(size, np.uint8)
    mask[rows, columns] = 1
    return mask


@pytest.mark.parametrize("laterality", [IMAGE, Laterality.PATIENT])
def test_perfect_masks_score_1_in_every_aspect(laterality):
    masks, statements = phantoms(laterality, p_absent=0.1)
    assert f1(masks, statements) == dict.fromkeys(
        ("side", "level", "zone", "lateral", "count", "absence"), 1.0
    )
    assert dice_pooled(location(agreement(shown(masks, statements, "phantom"), statements))) == 1.0


def test_a_mask_on_the_other_side_scores_0_on_side_and_1_on_level():
    masks, statements = phantoms(n=60)
    chosen = one_sided(statements)
    assert chosen.sum() >= 10
    part = [s for s, take in zip(statements, chosen, strict=True) if take]
    found = f1(masks[chosen][:, :, ::-1], part)
    assert found["side"] == found["zone"] == 0.0
    assert found["level"] == 1.0


def test_noise_lowers_the_score_step_by_step():
    masks, statements = phantoms(n=40)
    rng = np.random.default_rng(0)
    order = rng.permutation(40)
    scores = []
    for wrong in (0, 10, 20, 40):  # ever more phantoms show another phantom's mask
        changed = masks.copy()
        changed[order[:wrong]] = np.roll(masks, 7, axis=0)[order[:wrong]]
        scores.append(f1(changed, statements)["zone"])
    assert scores[0] == 1.0
    assert all(a > b for a, b in pairwise(scores))
    blots = masks.copy()
    blots[:, 150:170, :60] = 1  # lesion that no prompt names
    assert f1(blots, statements)["zone"] < 1.0


def test_against_slow_loops():
    rng = np.random.default_rng(1)
    masks = (rng.random((12, 20, 30)) < 0.02).astype(np.uint8)
    statements = [parse(p, laterality=IMAGE) for p in (LEFT, BOTH, "Hello World") * 4]
    found = shown(masks, statements)
    for i, mask in enumerate(masks):
        area = np.zeros((3, 3))
        for y in range(20):
            for x in range(30):
                side = 0 if (x + 0.5) / 30 < 0.5 else 2
                level = int((y + 0.5) / 20 >= 0.34) + int((y + 0.5) / 20 >= 0.46)
                area[side, level] += mask[y, x]
        for side in range(3):
            for level in range(3):
                part = area[side].sum()
                expected = (
                    area[side, level] > 0
                    and part >= 0.03 * area.sum()
                    and area[side, level] >= 0.1 * part
                )
                assert bool(found.zones[i, side, level]) is bool(expected)
    counts = agreement(found, statements)
    for i, statement in enumerate(statements):
        seen = {s for s, side in enumerate(Side) if found.zones[i, s].any()}
        claimed = {s for s, side in enumerate(Side) if side in statement.sides}
        expected = (len(seen & claimed), len(seen), len(claimed)) if statement.zones else (0, 0, 0)
        assert (
            tuple(int(getattr(counts["side"], k)[i]) for k in ("intersection", "predicted", "true"))
            == expected
        )


def test_the_convention_decides_which_side_is_meant():
    mask = box(slice(50, 70), slice(10, 40))[None]
    for laterality, expected in ((IMAGE, 1.0), (Laterality.PATIENT, 0.0)):
        statements = [parse(LEFT, laterality=laterality)]
        assert f1(mask, statements, None)["side"] == expected
    unknown = [parse(LEFT, laterality=Laterality.UNKNOWN)]
    counts = agreement(shown(mask, unknown), unknown)
    assert counts["side"].true.sum() == counts["zone"].true.sum() == 0  # says nothing
    assert dice_pooled(counts["level"]) == 1.0


def test_polyps_are_placed_by_the_centre_of_each_piece():
    statement = parse("one large polyp, located in top right of the image", laterality=IMAGE)
    big = box(slice(0, 45), slice(60, 100))  # reaches into other thirds, its centre does not
    found = shown(big[None], [statement])
    assert {(s, v) for s, v in zip(*np.nonzero(found.zones[0]), strict=True)} == {(2, 0)}
    assert f1(big[None], [statement], None)["zone"] == 1.0
    two = np.maximum(big, box(slice(80, 90), slice(5, 15)))
    assert shown(two[None], [statement]).pieces.tolist() == [2]
    speck = np.maximum(big, box(slice(90, 93), slice(5, 8)))
    assert shown(speck[None], [statement]).pieces.tolist() == [1]


def test_nuclei_are_told_by_halves():
    statement = parse("The nuclei density in the upper left is high.", laterality=IMAGE)
    mask = np.maximum(box(slice(0, 50), slice(0, 50)), box(slice(60, 70), slice(60, 70)))
    zones = shown(mask[None], [statement]).zones[0]
    assert [(list(Side)[s], list(Level)[v]) for s, v in zip(*np.nonzero(zones), strict=True)] == [
        (Side.LEFT, Level.UPPER)
    ]


def test_empty_masks_absent_findings_and_sentences_that_say_nothing():
    statements = [
        parse(p, laterality=IMAGE)
        for p in (LEFT, "no pulmonary infection, zero infected areas.", "Hello World")
    ]
    counts = agreement(shown(np.zeros((3, 8, 8), np.uint8), statements), statements)
    assert counts["absence"].predicted.tolist() == [1, 1, 0]
    assert counts["absence"].true.tolist() == [0, 1, 0]
    assert counts["side"].predicted.tolist() == [0, 0, 0]
    assert counts["side"].true.tolist() == [1, 0, 0]


def test_counts_agree_by_the_smaller_number():
    statements = [parse(BOTH, laterality=IMAGE)] * 2 + [parse("lower left lung", laterality=IMAGE)]
    one = box(slice(10, 20), slice(10, 20))
    three = np.maximum.reduce(
        [one, box(slice(10, 20), slice(60, 70)), box(slice(60, 70), slice(60, 70))]
    )
    counts = agreement(shown(np.stack([one, three, one]), statements), statements)["count"]
    assert counts.intersection.tolist() == [1, 2, 0]
    assert counts.predicted.tolist() == [1, 3, 0]
    assert counts.true.tolist() == [2, 2, 0]


def test_bad_input_is_named():
    with pytest.raises(DataError, match="2 masks and 1 statements"):
        shown(np.zeros((2, 4, 4), np.uint8), [parse(LEFT)])
    with pytest.raises(ConfigError, match="unknown zone map"):
        shown(np.zeros((1, 4, 4), np.uint8), [parse(LEFT)], "chests")
    with pytest.raises(DataError, match="threshold them"):
        shown(np.zeros((1, 4, 4)), [parse(LEFT)])


@pytest.mark.data
def test_the_true_masks_of_qata_reach_their_ceiling(data_root, tmp_path):
    """What the rule can reach on real captions: it bounds every model."""
    from textmask.data.loaders import open_split
    from textmask.layouts.read import read_layout

    manifest = read_layout(data_root / "qata-cov19-v2")
    cache = os.environ.get("TEXTMASK_CACHE")
    data = open_split(manifest, "test", (224, 224), None if cache else tmp_path)
    found = f1(np.asarray(data.masks), list(data.statements), None)
    assert found["side"] > 0.99
    assert found["level"] > 0.89
    assert found["zone"] > 0.87
