"""Scoring conventions of published code as presets, and a check of published (Dice, IoU) pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from textmask.errors import ConfigError, DataError, choose
from textmask.metrics.overlap import (
    Counts,
    counts,
    dice_per_image,
    dice_pooled,
    iou_per_image,
    iou_pooled,
)

PairVerdict = Literal["pooled", "per_image", "impossible"]
SMOOTH = 1e-5


@dataclass(frozen=True)
class Convention:
    """How one family of published code computes two scores from masks.

    Attributes:
        name: key in `CONVENTIONS`.
        family: published code that scores in this way.
        aggregation: what is averaged, in words.
        both_empty: effect of an image with two empty masks.
        compute: (counts, batch_size) -> {metric name: value}.
    """

    name: str
    family: tuple[str, ...]
    aggregation: str
    both_empty: str
    compute: Callable[[Counts, int], dict[str, float]]


def _lvit(counts: Counts, batch_size: int) -> dict[str, float]:
    """Mean over images of 2I/(P+T+1e-5) and of the foreground Jaccard index; two empty masks score 0."""
    dice = 2 * counts.intersection / (counts.predicted + counts.true + SMOOTH)
    return {
        "dice_per_image": float(dice.mean()),
        "iou_per_image": float(iou_per_image(counts, "zero").mean()),
    }


def _languide(counts: Counts, batch_size: int) -> dict[str, float]:
    """One confusion matrix over the set; an empty set of pixels scores 0 (torchmetrics' zero_division)."""
    return {"dice_pooled": dice_pooled(counts, "zero"), "iou_pooled": iou_pooled(counts, "zero")}


def _ukan(counts: Counts, batch_size: int) -> dict[str, float]:
    """Smoothed IoU pooled inside each batch, Dice derived from it, both averaged with the batch sizes as weights."""
    starts = np.arange(0, len(counts), batch_size)
    intersection = np.add.reduceat(counts.intersection, starts)
    predicted = np.add.reduceat(counts.predicted, starts)
    true = np.add.reduceat(counts.true, starts)

    # the last batch may be smaller and weighs less
    iou = (intersection + SMOOTH) / (predicted + true - intersection + SMOOTH)
    weights = np.diff(np.append(starts, len(counts)))
    return {
        "dice_per_batch": float(np.average(2 * iou / (1 + iou), weights=weights)),
        "iou_per_batch": float(np.average(iou, weights=weights)),
    }


def _nnunet(counts: Counts, batch_size: int) -> dict[str, float]:
    """Mean over the images that have any foreground; NaN if none has (nnU-Net's nanmean)."""
    kept = ~counts.both_empty
    if not kept.any():
        return {"dice_per_image": float("nan"), "iou_per_image": float("nan")}
    dice, iou = dice_per_image(counts, "skip")[kept], iou_per_image(counts, "skip")[kept]
    return {"dice_per_image": float(dice.mean()), "iou_per_image": float(iou.mean())}


CONVENTIONS: dict[str, Convention] = {
    c.name: c
    for c in (
        Convention("lvit", ("LViT", "RecLMIS"), "mean over images", "scores 0", _lvit),
        Convention(
            "languide",
            ("LanGuideMedSeg", "MMI-UNet", "SGSeg", "EF-UNet", "BiCLIP", "Semi-MedRef"),
            "one confusion matrix over the set",
            "has no effect",
            _languide,
        ),
        Convention(
            "ukan", ("U-KAN",), "pooled inside a batch, mean over batches", "has no effect", _ukan
        ),
        Convention("nnunet", ("nnU-Net",), "mean over images", "is left out", _nnunet),
    )
}


def score(
    convention: str, prediction: npt.ArrayLike, truth: npt.ArrayLike, batch_size: int = 8
) -> dict[str, float]:
    """Score masks as published code does, to compare with its figures.

    Args:
        convention: a key of `CONVENTIONS`.
        prediction: N H W hard masks, already thresholded at 0.5 and at the size at which that code compares.
        truth: the same.
        batch_size: images per batch, in order; only `ukan` depends on it.

    Returns:
        Two scores with the aggregation in their names, and `n`.

    Raises:
        ConfigError: unknown convention or a batch size below 1.
        DataError: masks that cannot be scored, or no image.
    """
    preset = CONVENTIONS[choose("scoring convention", convention, list(CONVENTIONS))]
    if batch_size < 1:
        raise ConfigError(f"batch_size: got {batch_size}, expected at least 1.")

    counted = counts(prediction, truth)
    if not len(counted):
        raise DataError("no images to score: got 0, expected at least 1.")
    return {**preset.compute(counted, batch_size), "n": float(len(counted))}


def _dice_of(iou: float) -> float:
    """D = 2I/(1+I), exact for one confusion matrix."""
    return 2 * iou / (1 + iou)


@dataclass(frozen=True)
class PairCheck:
    """Which aggregation can have produced a published (Dice, IoU) pair.

    Attributes:
        verdict: `pooled`, `per_image`, or `impossible` if neither can have.
        gap: Dice minus 2 IoU / (1 + IoU), in points.
        tolerance: largest gap on the same side that rounding alone can cause, in points.
    """

    verdict: PairVerdict
    gap: float
    tolerance: float


def check_pair(dice: float, iou: float, decimals: tuple[int, int] = (2, 2)) -> PairCheck:
    """Which protocol can have produced a published pair, and with what margin.

    One confusion matrix gives D = 2I/(1+I). That curve is concave, so means over images lie below it, and above D = I.
    Any other pair mixes rules, runs or sources. Rounding is taken into account.

    Args:
        dice: as printed, in points (0-100) or as a fraction (0-1).
        iou: as printed, in the same unit.
        decimals: digits printed after the point of each.

    Returns:
        `pooled` if the pair lies on the curve (as it also does if all images score alike), `per_image` between the
        curve and D = I, otherwise `impossible`.

    Raises:
        DataError: a value is outside its range.
    """
    scale = 1.0 if max(dice, iou) <= 1 else 100.0
    if not (0 <= dice <= scale and 0 <= iou <= scale):
        raise DataError(
            f"verify_table: got dice {dice} and iou {iou}, expected both in 0-100 or both in 0-1."
        )

    d, i = dice / scale, iou / scale
    half_d, half_i = ((0.5 + 1e-6) * 10.0**-digits / scale for digits in decimals)
    low_i, high_i = max(i - half_i, 0.0), min(i + half_i, 1.0)

    # how far rounding of both figures can move the pair to either side of the curve
    gap = d - _dice_of(i)
    below = half_d + _dice_of(i) - _dice_of(low_i)
    above = half_d + _dice_of(high_i) - _dice_of(i)

    verdict: PairVerdict = "pooled" if -below <= gap <= above else "per_image"
    if gap > above or d + half_d < low_i:
        verdict = "impossible"
    return PairCheck(verdict, 100 * gap, 100 * (above if gap > 0 else below))


def verify_table(dice: float, iou: float, decimals: int = 2) -> PairVerdict:
    """The verdict of `check_pair` for two figures printed with the same number of digits after the point.

    Raises:
        DataError: a value is outside its range.
    """
    return check_pair(dice, iou, (decimals, decimals)).verdict
