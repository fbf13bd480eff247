"""Dice and IoU against hand-computed cases, MONAI and torchmetrics' rules; presets; published tables."""

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_dice, compute_iou

from textmask.errors import ConfigError, DataError
from textmask.metrics.overlap import (
    Counts,
    counts,
    dice_per_image,
    dice_pooled,
    iou_per_image,
    iou_pooled,
    overlap,
)
from textmask.metrics.protocols import CONVENTIONS, score, verify_table

# four images of four pixels: I, P, T = (1, 2, 2), (3, 3, 4), (0, 0, 0), (0, 0, 2)
PREDICTION = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8).reshape(
    4, 2, 2
)
TRUTH = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], np.uint8).reshape(
    4, 2, 2
)


def random_masks(n: int = 12, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unequal images: the share of foreground and the agreement differ from one to the next."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, size, size)) < np.linspace(0.1, 0.6, n)[:, None, None]
    flips = rng.random(truth.shape) < np.linspace(0.02, 0.3, n)[:, None, None]
    return truth ^ flips, truth


def test_counts_by_hand():
    c = counts(PREDICTION, TRUTH)
    assert c.intersection.tolist() == [1, 3, 0, 0]
    assert c.predicted.tolist() == [2, 3, 0, 0]
    assert c.true.tolist() == [2, 4, 0, 2]
    assert c.intersection.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 11), st.integers(1, 11))
def test_counts_equal_plain_numpy(data, n, h, w):
    pair = [
        data.draw(
            hnp.arrays(np.uint8, (n, h, w), elements=st.sampled_from([0, 1, 2, 16, 128, 255]))
        )
        for _ in "ab"
    ]
    p, t = (x != 0 for x in pair)
    c = counts(*pair)
    np.testing.assert_array_equal(c.intersection, (p & t).sum((1, 2)))
    np.testing.assert_array_equal(c.predicted, p.sum((1, 2)))
    np.testing.assert_array_equal(c.true, t.sum((1, 2)))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(bool),
        lambda x: x * 255,
        lambda x: x.astype(np.int64),
        lambda x: x[:, None],
        torch.from_numpy,
        lambda x: np.asfortranarray(x),
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    ],
    ids=["bool", "255", "int64", "N1HW", "tensor", "fortran", "read-only"],
)
def test_every_kind_of_hard_mask_counts_alike(change):
    p, t = (x.astype(np.uint8) for x in random_masks(3, 16))
    want, got = counts(p, t), counts(change(p), change(t))
    np.testing.assert_array_equal(
        [got.intersection, got.predicted, got.true], [want.intersection, want.predicted, want.true]
    )


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (TRUTH.astype(np.float32), "threshold"),
        (TRUTH[:3], "shape"),
        (TRUTH[0], "N H W"),
        (np.zeros((4, 0, 2), bool), "N H W"),
    ],
)
def test_masks_that_cannot_be_scored(prediction, message):
    with pytest.raises(DataError, match=message):
        counts(prediction, TRUTH)


def test_per_image_and_pooled_by_hand():
    c = counts(PREDICTION, TRUTH)
    np.testing.assert_allclose(dice_per_image(c), [1 / 2, 6 / 7, 1, 0])
    np.testing.assert_allclose(iou_per_image(c), [1 / 3, 3 / 4, 1, 0])
    assert dice_pooled(c) == pytest.approx(8 / 13)
    assert iou_pooled(c) == pytest.approx(4 / 9)


def test_empty_policies_are_counted_and_never_hidden():
    c = counts(PREDICTION, TRUTH)
    one, zero, skip = (overlap(c, policy) for policy in ("one", "zero", "skip"))
    assert (one.both_empty, one.prediction_empty, one.truth_empty, one.n) == (1, 1, 0, 4)
    assert one.dice_per_image_mean == pytest.approx((1 / 2 + 6 / 7 + 1 + 0) / 4)
    assert zero.dice_per_image_mean == pytest.approx((1 / 2 + 6 / 7) / 4)
    assert skip.dice_per_image_mean == pytest.approx((1 / 2 + 6 / 7) / 3)
    assert skip.iou_per_image_mean == pytest.approx((1 / 3 + 3 / 4) / 3)
    assert (one.n_skipped, zero.n_skipped, skip.n_skipped) == (0, 0, 1)
    assert np.isnan(skip.dice_per_image).tolist() == [False, False, True, False]
    assert one.dice_pooled == zero.dice_pooled == skip.dice_pooled


def test_all_images_empty():
    c = counts(np.zeros((2, 3, 3), bool), np.zeros((2, 3, 3), bool))
    assert (overlap(c, "one").dice_pooled, overlap(c, "zero").dice_pooled) == (1, 0)
    skipped = overlap(c, "skip")
    assert np.isnan(
        [skipped.dice_per_image_mean, skipped.iou_per_image_mean, skipped.dice_pooled]
    ).all()
    assert skipped.n_skipped == 2


def test_unknown_policy_and_no_images():
    with pytest.raises(ConfigError, match="one, zero, skip"):
        overlap(counts(PREDICTION, TRUTH), "ones")
    with pytest.raises(DataError, match="no images"):
        dice_pooled(counts(PREDICTION[:0], TRUTH[:0]))
    with pytest.raises(DataError, match="0 batches"):
        Counts.concatenate([])


def test_batches_join_to_the_whole_set():
    p, t = random_masks()
    whole, parts = (
        counts(p, t),
        Counts.concatenate(counts(p[i : i + 5], t[i : i + 5]) for i in range(0, 12, 5)),
    )
    assert dice_pooled(parts) == dice_pooled(whole)
    np.testing.assert_array_equal(iou_per_image(parts), iou_per_image(whole))


@pytest.mark.parametrize("seed", range(5))
def test_pooled_lies_on_the_curve_and_unequal_images_below_it(seed):
    c = counts(*random_masks(seed=seed))
    assert dice_pooled(c) == pytest.approx(2 * iou_pooled(c) / (1 + iou_pooled(c)), abs=1e-14)
    dice, iou = dice_per_image(c).mean(), iou_per_image(c).mean()
    assert iou < dice < 2 * iou / (1 + iou) - 1e-4


def test_monai_agrees_where_both_masks_have_foreground():
    p, t = random_masks()
    a, b = (torch.from_numpy(x)[:, None].float() for x in (p, t))
    c = counts(p, t)
    np.testing.assert_allclose(dice_per_image(c), compute_dice(a, b)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(iou_per_image(c), compute_iou(a, b)[:, 0], rtol=1e-6)


def test_surface_distance_package_agrees():
    p, t = random_masks(4)
    want = [surface_distance.compute_dice_coefficient(a, b) for a, b in zip(t, p, strict=True)]
    np.testing.assert_allclose(dice_per_image(counts(p, t)), want, rtol=1e-12)


def test_one_empty_mask_scores_zero_where_libraries_say_nan():
    empty, full = np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)
    to_tensor = lambda x: torch.from_numpy(x)[:, None].float()  # noqa: E731
    assert torch.isnan(compute_dice(to_tensor(full), to_tensor(empty))).all()
    for p, t in ((empty, full), (full, empty)):
        c = counts(p, t)
        assert dice_per_image(c, "skip").tolist() == [0] == iou_per_image(c, "skip").tolist()
    assert overlap(counts(full, empty)).truth_empty == 1


def test_lvit_by_hand():
    got = score("lvit", PREDICTION, TRUTH)
    assert got["dice_per_image"] == pytest.approx((2 / (4 + 1e-5) + 6 / (7 + 1e-5)) / 4, abs=1e-12)
    assert got["iou_per_image"] == pytest.approx((1 / 3 + 3 / 4) / 4)
    assert got["n"] == 4


def test_languide_by_hand_ignores_true_negatives():
    got = score("languide", PREDICTION, TRUTH)
    assert got == score("languide", PREDICTION[[0, 1, 3]], TRUTH[[0, 1, 3]]) | {"n": 4}
    assert got["dice_pooled"] == pytest.approx(8 / 13)
    assert got["iou_pooled"] == pytest.approx(4 / 9)
    assert score("languide", PREDICTION[2:3], TRUTH[2:3])["dice_pooled"] == 0


def test_ukan_by_hand_depends_on_the_batches():
    s = 1e-5
    first, second, last = (4 + s) / (7 + s), s / (2 + s), (4 + s) / (9 + s)
    pairs = score("ukan", PREDICTION, TRUTH, batch_size=2)
    assert pairs["iou_per_batch"] == pytest.approx((first + second) / 2, abs=1e-12)
    assert pairs["dice_per_batch"] == pytest.approx(
        (2 * first / (1 + first) + 2 * second / (1 + second)) / 2, abs=1e-12
    )
    assert score("ukan", PREDICTION, TRUTH)["iou_per_batch"] == pytest.approx(last, abs=1e-12)
    three = score("ukan", PREDICTION, TRUTH, batch_size=3)["iou_per_batch"]
    assert three == pytest.approx(
        (3 * first + s / (2 + s)) / 4, abs=1e-12
    )  # the short batch weighs less
    assert score("ukan", PREDICTION[2:3], TRUTH[2:3])["iou_per_batch"] == 1


def test_nnunet_by_hand_leaves_empty_cases_out():
    got = score("nnunet", PREDICTION, TRUTH)
    assert got["dice_per_image"] == pytest.approx((1 / 2 + 6 / 7) / 3)
    assert got["iou_per_image"] == pytest.approx((1 / 3 + 3 / 4) / 3)
    assert np.isnan(score("nnunet", PREDICTION[2:3], TRUTH[2:3])["dice_per_image"])


def test_same_masks_score_apart_under_the_conventions():
    p, t = random_masks()
    dice = {
        name: next(v for k, v in score(name, p, t).items() if k.startswith("dice"))
        for name in CONVENTIONS
    }
    assert dice["lvit"] == pytest.approx(dice["nnunet"], abs=1e-6)  # no empty image here
    assert abs(dice["languide"] - dice["lvit"]) > 0.01


def test_unknown_convention_names_the_valid_ones():
    with pytest.raises(ConfigError, match=r"Did you mean 'lvit'.*languide"):
        score("lvitt", PREDICTION, TRUTH)
    with pytest.raises(ConfigError, match="batch_size"):
        score("ukan", PREDICTION, TRUTH, batch_size=0)
    with pytest.raises(DataError, match="no images"):
        score("lvit", PREDICTION[:0], TRUTH[:0])


@pytest.mark.parametrize(
    ("dice", "iou", "want"),
    [
        (
            83.52,
            71.71,
            "pooled",
        ),  # SSA table 1: U-Net, Swin UNETR, GuideDecoder, MMI-UNet, SSA, then MosMedData+
        (80.42, 67.25, "pooled"),
        (89.78, 81.45, "pooled"),
        (90.88, 83.28, "pooled"),
        (91.65, 84.60, "pooled"),
        (80.37, 67.19, "pooled"),
        (83.66, 75.11, "per_image"),  # LViT in the same table, copied from its paper
        (74.57, 61.33, "per_image"),
        (84.39, 72.35, "impossible"),  # nnU-Net in the same table, +0.43 and +0.42
        (69.30, 52.53, "impossible"),
        (90.46, 82.58, "pooled"),  # BiCLIP table 1: EF-UNet, BiCLIP
        (90.59, 82.81, "pooled"),
        (80.80, 67.79, "pooled"),
        (78.07, 68.34, "per_image"),  # Swin-Unet, -3.12
        (84.09, 72.64, "per_image"),  # ARSeg, -0.06
        (78.70, 64.17, "impossible"),  # SMF-net, +0.52
        (85.25, 76.97, "per_image"),  # C2Seg: QaTa, MosMedData+, Kvasir (-0.13)
        (77.81, 65.17, "per_image"),
        (91.92, 85.27, "per_image"),
        (80.48, 67.01, "impossible"),  # C2Seg table: LAVT +0.23, LViT +0.12
        (81.52, 68.63, "impossible"),
        (58.44, 40.23, "impossible"),  # Semi-MedRef: LAVT 2 %, +1.06
        (76.51, 58.08, "impossible"),  # DuSSS MoNuSeg 25 %, +3.03
        (72.80, 56.70, "impossible"),  # its mean teacher, +0.43
    ],
)
def test_published_rows(dice, iou, want):
    assert verify_table(dice, iou) == want
    assert verify_table(dice / 100, iou / 100, decimals=4) == want


@pytest.mark.parametrize("seed", range(5))
def test_own_figures_are_recognised_after_rounding(seed):
    c = counts(*random_masks(seed=seed))
    assert verify_table(round(100 * dice_pooled(c), 2), round(100 * iou_pooled(c), 2)) == "pooled"
    means = dice_per_image(c).mean(), iou_per_image(c).mean()
    assert verify_table(*(round(100 * x, 2) for x in means)) == "per_image"


def test_verify_table_limits():
    assert verify_table(0, 0) == verify_table(100, 100) == "pooled"
    assert verify_table(50, 60) == "impossible"  # Dice is never below IoU
    assert verify_table(89.8, 81.4, decimals=1) == "pooled"
    with pytest.raises(DataError, match="0-100"):
        verify_table(101, 90)
