"""Segmentation losses on logits, in fp32; library functions changed their meaning between versions."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from textmask.types import Logits, Mask

Counted = Bool[Tensor, " b"]


def soft_dice(
    logits: Logits, mask: Mask, counted: Counted | None = None, eps: float = 1e-5
) -> Float[Tensor, ""]:
    """1 - (2 sum p y + eps) / (sum p + sum y + eps), per image, then the mean (C2Seg Eq. 12, BiCLIP Eq. 8).

    Args:
        logits: B 1 H W.
        mask: B 1 H W, may be soft.
        counted: False for images whose loss is 0; the mean is over all images.
        eps: in numerator and denominator gives an empty prediction of an empty mask a loss of 0 instead of NaN.
    """
    p = rearrange(torch.sigmoid(logits.float()), "b 1 h w -> b (h w)")
    y = rearrange(mask.float(), "b 1 h w -> b (h w)")
    overlap = (p * y).sum(1)
    each = 1 - (2 * overlap + eps) / (p.sum(1) + y.sum(1) + eps)
    return each.mean() if counted is None else (each * counted).mean()


def bce(logits: Logits, mask: Mask, counted: Counted | None = None) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over pixels (C2Seg Eq. 11); `mask` may be soft, `counted` is that of `soft_dice`."""
    if counted is None:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), mask.float())
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), mask.float(), reduction="none"
    )
    return (each.flatten(1).mean(dim=1) * counted).mean()


def hard_label(logits: Logits) -> Mask:
    """The more likely class of each pixel, without gradient: B 1 H W -> B 1 H W, 0 or 1."""
    return (logits.detach() > 0).float()


def confident_bce(logits: Logits, label: Mask, tau: float) -> Float[Tensor, ""]:
    """Binary cross-entropy with hard labels where they are confident, 0 elsewhere; the mean is over all pixels.

    Args:
        logits: B 1 H W.
        label: probability of the foreground, B 1 H W; its hard label is whether it is above 0.5.
        tau: confidence of the more likely class, in [0.5, 1), from which a pixel counts.

    Source: FixMatch, Eq. 4, for pixels.
    """
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), (label > 0.5).float(), reduction="none"
    )
    return (each * (torch.maximum(label, 1 - label) >= tau)).mean()


def focal(logits: Logits, mask: Mask, gamma: float = 2.0) -> Float[Tensor, ""]:
    """Binary cross-entropy weighted by (1 - p_t)^gamma, mean over pixels; gamma 0 is `bce`."""
    y = mask.float()
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), y, reduction="none"
    )
    p = torch.sigmoid(logits.float())
    p_true = p * y + (1 - p) * (1 - y)
    return ((1 - p_true) ** gamma * cross_entropy).mean()


def dice_bce(logits: Logits, mask: Mask, dice_weight: float = 0.5) -> Float[Tensor, ""]:
    """`dice_weight` soft Dice + (1 - dice_weight) cross-entropy; 1.0 is the loss of LanGuideMedSeg's code."""
    loss = dice_weight * soft_dice(logits, mask)
    return loss if dice_weight == 1 else loss + (1 - dice_weight) * bce(logits, mask)
