"""The scoring habits of the field's published codes as presets, and a check of published (Dice, IoU) pairs."""

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

Verdict = Literal["pooled", "per_image", "impossible"]
SMOOTH = 1e-5


@dataclass(frozen=True)
class Convention:
    """How one family of codes turns masks into two numbers.

    Attributes:
        name: key in `CONVENTIONS`.
        family: published codes that score like this.
        aggregation: what is averaged, in words.
        both_empty: what an image with two empty masks does.
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
    """One confusion matrix over the set; nothing at all scores 0 (torchmetrics' zero_division)."""
    return {"dice_pooled": dice_pooled(counts, "zero"), "iou_pooled": iou_pooled(counts, "zero")}


def _ukan(counts: Counts, batch_size: int) -> dict[str, float]:
    """Smoothed IoU pooled inside each batch, Dice derived from it, both averaged with the batch sizes as weights."""
    starts = np.arange(0, len(counts), batch_size)
    intersection, predicted, true = (
        np.add.reduceat(x, starts) for x in (counts.intersection, counts.predicted, counts.true)
    )
    iou = (intersection + SMOOTH) / (predicted + true - intersection + SMOOTH)
    weights = np.diff(np.append(starts, len(counts)))
    return {
        "dice_per_batch": float(np.average(2 * iou / (1 + iou), weights=weights)),
        "iou_per_batch": float(np.average(iou, weights=weights)),
    }


def _nnunet(counts: Counts, batch_size: int) -> dict[str, float]:
    """Mean over the images that have any foreground; NaN where none has (nnU-Net's nanmean)."""
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
    """Score masks as a published code does, to compare with its figures.

    Args:
        convention: a key of `CONVENTIONS`.
        prediction: N H W hard masks, already thresholded at 0.5 and at the size that code compares at.
        truth: the same.
        batch_size: images in a batch, in order; only `ukan` depends on it.

    Returns:
        Two figures whose names carry the aggregation, and `n`.

    Raises:
        ConfigError: for an unknown convention or a batch size below 1.
        DataError: for masks that cannot be scored, or no image.
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
    """What a published (Dice, IoU) pair can be.

    Attributes:
        verdict: `pooled`, `per_image`, or `impossible` for neither.
        gap: Dice minus 2 IoU / (1 + IoU), in points.
        tolerance: how far from 0 on its side rounding alone can bring the gap, in points.
    """

    verdict: Verdict
    gap: float
    tolerance: float


def check_pair(dice: float, iou: float, decimals: tuple[int, int] = (2, 2)) -> PairCheck:
    """Tell from a published pair which protocol can have made it, and by how much.

    One confusion matrix gives D = 2I/(1+I). That curve is concave, so means over images lie below it, and above D = I.
    Anything else mixes rules, runs or sources. Rounding is allowed for.

    Args:
        dice: as printed, in points (0-100) or as a fraction (0-1).
        iou: as printed, in the same unit.
        decimals: digits printed after the point of each.

    Returns:
        `pooled` where the pair lies on the curve (images that all score alike also do), `per_image` between, else
        `impossible`.

    Raises:
        DataError: where a value is outside its range.
    """
    scale = 1.0 if max(dice, iou) <= 1 else 100.0
    if not (0 <= dice <= scale and 0 <= iou <= scale):
        raise DataError(
            f"verify_table: got dice {dice} and iou {iou}, expected both in 0-100 or both in 0-1."
        )
    d, i = dice / scale, iou / scale
    half_d, half_i = ((0.5 + 1e-6) * 10.0**-digits / scale for digits in decimals)
    low_i, high_i = max(i - half_i, 0.0), min(i + half_i, 1.0)
    gap, below, above = (
        d - _dice_of(i),
        half_d + _dice_of(i) - _dice_of(low_i),
        half_d + _dice_of(high_i) - _dice_of(i),
    )
    verdict: Verdict = "pooled" if -below <= gap <= above else "per_image"
    if gap > above or d + half_d < low_i:
        verdict = "impossible"
    return PairCheck(verdict, 100 * gap, 100 * (above if gap > 0 else below))


def verify_table(dice: float, iou: float, decimals: int = 2) -> Verdict:
    """The verdict of `check_pair` for two figures printed with the same number of digits after the point.

    Raises:
        DataError: where a value is outside its range.
    """
    return check_pair(dice, iou, (decimals, decimals)).verdict
