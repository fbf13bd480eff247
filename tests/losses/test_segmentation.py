"""Segmentation losses against literal transcriptions of their formulas."""

import math

import pytest
import torch

from textmask.losses.segmentation import bce, dice_bce, focal, soft_dice


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 1, 5, 7, generator=generator) * 3
    mask = (torch.rand(3, 1, 5, 7, generator=generator) > 0.6).float()
    return logits, mask


def literal_dice(logits, mask, eps):
    total = 0.0
    for b in range(len(logits)):
        overlap = predicted = true = 0.0
        for x, y in zip(logits[b].flatten().tolist(), mask[b].flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            overlap, predicted, true = overlap + p * y, predicted + p, true + y
        total += 1 - (2 * overlap + eps) / (predicted + true + eps)
    return total / len(logits)


def literal_bce(logits, mask, gamma=0.0):
    terms = []
    for x, y in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_true = p if y else 1 - p
        terms.append(-((1 - p_true) ** gamma) * math.log(p_true))
    return sum(terms) / len(terms)


def test_soft_dice_is_per_image(pair):
    assert float(soft_dice(*pair)) == pytest.approx(literal_dice(*pair, 1e-5), abs=1e-6)


def test_bce_and_focal(pair):
    assert float(bce(*pair)) == pytest.approx(literal_bce(*pair), abs=1e-6)
    assert float(focal(*pair, gamma=2.0)) == pytest.approx(literal_bce(*pair, gamma=2.0), abs=1e-6)
    assert float(focal(*pair, gamma=0.0)) == pytest.approx(float(bce(*pair)), abs=1e-6)


def test_dice_bce_weights(pair):
    assert float(dice_bce(*pair)) == pytest.approx(
        0.5 * float(soft_dice(*pair)) + 0.5 * float(bce(*pair)), abs=1e-6
    )
    assert torch.equal(dice_bce(*pair, dice_weight=1.0), soft_dice(*pair))


def test_empty_masks_give_a_finite_loss_and_gradient():
    logits = torch.full((2, 1, 4, 4), -30.0, requires_grad=True)
    loss = soft_dice(logits, torch.zeros(2, 1, 4, 4)) + bce(logits, torch.zeros(2, 1, 4, 4))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_the_loss_is_the_library_formula_on_logits_not_on_probabilities(pair):
    """MONAI's DiceCELoss changed its meaning between versions; with explicit options it agrees with ours once."""
    from monai.losses import DiceLoss

    logits, mask = pair
    theirs = DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits, mask)
    assert float(soft_dice(logits, mask)) == pytest.approx(float(theirs), abs=1e-6)


def test_bf16_logits_are_summed_in_fp32():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 64, 64, generator=generator).bfloat16()
    mask = (torch.rand(2, 1, 64, 64, generator=generator) > 0.5).float()
    assert soft_dice(logits, mask).dtype == torch.float32
    assert float(soft_dice(logits, mask)) == pytest.approx(
        float(soft_dice(logits.float(), mask)), abs=1e-6
    )
