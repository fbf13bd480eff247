"""Dice and IoU per image and pooled, from one pass over the masks, under a named empty-mask policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from numba import uint64

from textmask.compiled import compiled
from textmask.errors import DataError, choose

EmptyPolicy = Literal["one", "zero", "skip"]
Kind = Literal["dice", "iou"]
EMPTY_POLICIES: tuple[EmptyPolicy, ...] = ("one", "zero", "skip")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


def as_masks(masks: npt.ArrayLike, what: str = "masks") -> Bytes:
    """Bytes N H W of hard masks, without a copy if the input is bool or uint8; not 0 means foreground.

    Args:
        masks: N H W or N 1 H W, bool or integer (or a CPU tensor); 0/1 and 0/255 are both accepted.
        what: name of the masks in error messages.

    Raises:
        DataError: another shape, floating-point values, or no pixels.
    """
    array = np.asarray(masks)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise DataError(
            f"{what}: got shape {array.shape}, expected N H W or N 1 H W with H, W > 0."
        )

    # bool and uint8 keep their memory
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).view(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            f"{what}: got {array.dtype}, expected hard masks (bool or integer); threshold them, for example `x > 0.5`."
        )
    if array.dtype != np.uint8:
        return np.ascontiguousarray(array != 0).view(np.uint8)
    return np.ascontiguousarray(array)


def as_mask_pair(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Bytes, Bytes]:
    """`as_masks` of both.

    Raises:
        DataError: their shapes differ.
    """
    a, b = as_masks(prediction, "prediction"), as_masks(truth, "truth")
    if a.shape != b.shape:
        raise DataError(
            f"prediction has shape {a.shape} and truth {b.shape}; expected the same. Resize one before scoring."
        )
    return a, b


@dataclass(frozen=True)
class Counts:
    """Foreground pixels of N images, which is all that Dice and IoU need.

    Attributes:
        intersection, predicted, true: N, pixels in both, in the prediction, in the truth.
    """

    intersection: Ints
    predicted: Ints
    true: Ints

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.intersection)

    def take(self, images: Bools | Ints) -> Counts:
        """Counts of some images (N booleans or numbers)."""
        return Counts(self.intersection[images], self.predicted[images], self.true[images])

    @property
    def both_empty(self) -> Bools:
        """N, True if neither the prediction nor the truth has a pixel."""
        empty: Bools = (self.predicted == 0) & (self.true == 0)
        return empty

    @classmethod
    def concatenate(cls, parts: Iterable[Counts]) -> Counts:
        """Join the counts of several batches."""
        listed = list(parts)
        if not listed:
            raise DataError("no counts to join: got 0 batches, expected at least 1.")
        return cls(
            np.concatenate([part.intersection for part in listed]),
            np.concatenate([part.predicted for part in listed]),
            np.concatenate([part.true for part in listed]),
        )


@compiled
def _count_words(
    prediction: npt.NDArray[np.uint64], truth: npt.NDArray[np.uint64], out: Ints
) -> None:
    """Count eight pixels at a time: a product adds the eight bytes of a word whose bytes are 0 or 1.

    Images with other bytes (0/255) are detected by their other bits and counted again, with bytes folded to one bit.
    """
    ones, top = uint64(0x0101010101010101), uint64(56)
    one, two, four = uint64(1), uint64(2), uint64(4)

    for n in range(prediction.shape[0]):
        p, t = prediction[n], truth[n]
        intersection, predicted, true, seen = uint64(0), uint64(0), uint64(0), uint64(0)
        for i in range(len(p)):
            x, y = p[i], t[i]
            seen |= x | y
            intersection += ((x & y) * ones) >> top
            predicted += (x * ones) >> top
            true += (y * ones) >> top

        # other bytes than 0 and 1: fold each into its lowest bit
        if seen & ~ones:
            intersection, predicted, true = uint64(0), uint64(0), uint64(0)
            for i in range(len(p)):
                x, y = p[i] | (p[i] >> four), t[i] | (t[i] >> four)
                x, y = x | (x >> two), y | (y >> two)
                x, y = (x | (x >> one)) & ones, (y | (y >> one)) & ones
                intersection += ((x & y) * ones) >> top
                predicted += (x * ones) >> top
                true += (y * ones) >> top

        out[0, n], out[1, n], out[2, n] = intersection, predicted, true


def _as_words(masks: Bytes) -> npt.NDArray[np.uint64]:
    """N by ceil(H W / 8) words over the same memory; a copy only if H W is not a multiple of 8."""
    flat = masks.reshape(len(masks), -1)
    if flat.shape[1] % 8 or flat.ctypes.data % 8 != 0:
        padded = np.zeros((len(flat), -(-flat.shape[1] // 8) * 8), np.uint8)
        padded[:, : flat.shape[1]] = flat
        flat = padded
    return flat.view(np.uint64)


def counts(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> Counts:
    """Count the foreground of N pairs of masks in one pass.

    Args:
        prediction: N H W (or N 1 H W), bool or integer; not 0 means foreground.
        truth: the same.

    Raises:
        DataError: shapes differ or a mask is not hard.
    """
    a, b = as_mask_pair(prediction, truth)
    out = np.zeros((3, len(a)), np.int64)
    if len(a):
        _count_words(_as_words(a), _as_words(b), out)
    return Counts(out[0], out[1], out[2])


def _ratio(
    kind: Kind, intersection: npt.NDArray[np.number], total: npt.NDArray[np.number], empty: float
) -> Floats:
    """Dice 2I/(P+T) or IoU I/(P+T-I), `empty` if P+T is 0."""
    top, bottom = intersection, total - intersection
    if kind == "dice":
        top, bottom = 2 * intersection, total
    default = np.full(np.shape(total), empty)
    ratio: Floats = np.divide(top, bottom, out=default, where=np.asarray(bottom > 0))
    return ratio


def _empty_value(empty: EmptyPolicy) -> float:
    return {"one": 1.0, "zero": 0.0, "skip": float("nan")}[
        choose("empty policy", empty, EMPTY_POLICIES)
    ]


def dice_per_image(counts: Counts, empty: EmptyPolicy = "one") -> Floats:
    """Dice 2I/(P+T) of each image.

    Args:
        counts: counts of N images.
        empty: value if prediction and truth are both empty; `skip` gives NaN, so that the array stays aligned with
            the images. The statistics of this package raise on NaN rather than drop it.
    """
    return _ratio("dice", counts.intersection, counts.predicted + counts.true, _empty_value(empty))


def iou_per_image(counts: Counts, empty: EmptyPolicy = "one") -> Floats:
    """Foreground IoU I/(P+T-I) of each image; `empty` as in `dice_per_image`."""
    return _ratio("iou", counts.intersection, counts.predicted + counts.true, _empty_value(empty))


def pooled(kind: Kind, sums: npt.NDArray[np.number], empty: float = 1.0) -> Floats:
    """Dice or IoU from summed counts; used for the whole set and for its resamples.

    Args:
        kind: `dice` or `iou`.
        sums: ... 3, summed intersection, predicted and true pixels.
        empty: value if prediction and truth are both empty.
    """
    choose("overlap", kind, ("dice", "iou"))
    return _ratio(kind, sums[..., 0], sums[..., 1] + sums[..., 2], empty)


def _sums(counts: Counts) -> Ints:
    if not len(counts):
        raise DataError("no images to score: got 0, expected at least 1.")
    return np.array([counts.intersection.sum(), counts.predicted.sum(), counts.true.sum()])


def dice_pooled(counts: Counts, empty: EmptyPolicy = "one") -> float:
    """Dice of one confusion matrix over all images ("micro"); `empty` applies if no image has any foreground."""
    return float(pooled("dice", _sums(counts), _empty_value(empty)))


def iou_pooled(counts: Counts, empty: EmptyPolicy = "one") -> float:
    """IoU of one confusion matrix over all images; equals D/(2-D) of `dice_pooled`."""
    return float(pooled("iou", _sums(counts), _empty_value(empty)))


@dataclass(frozen=True)
class Overlap:
    """Per-image and pooled scores of one set of images, with the numbers of empty masks.

    Attributes:
        dice_per_image, iou_per_image: N, NaN only at skipped images.
        dice_pooled, iou_pooled: scores of the whole set.
        empty: policy for images where both masks are empty.
        n: number of images; both_empty, prediction_empty, truth_empty: images with both, only the prediction, only the
            truth empty; n_skipped: images left out of the means.
    """

    dice_per_image: Floats
    iou_per_image: Floats
    dice_pooled: float
    iou_pooled: float
    empty: EmptyPolicy
    n: int
    both_empty: int
    prediction_empty: int
    truth_empty: int
    n_skipped: int
    kept: Bools

    @property
    def dice_per_image_mean(self) -> float:
        """Mean over the images kept; NaN if none is."""
        return float(self.dice_per_image[self.kept].mean()) if self.kept.any() else float("nan")

    @property
    def iou_per_image_mean(self) -> float:
        """Mean over the images kept; NaN if none is."""
        return float(self.iou_per_image[self.kept].mean()) if self.kept.any() else float("nan")


def overlap(counts: Counts, empty: EmptyPolicy = "one") -> Overlap:
    """Score a set of images under one empty-mask policy.

    Args:
        counts: counts of all images; join batches with `Counts.concatenate`.
        empty: `one` (a correct empty prediction scores 1), `zero` (as LViT) or `skip` (as nnU-Net).

    Raises:
        ConfigError: unknown policy.
        DataError: there are no images.
    """
    both = counts.both_empty
    kept = ~both if empty == "skip" else np.ones(len(counts), np.bool_)
    return Overlap(
        dice_per_image=dice_per_image(counts, empty),
        iou_per_image=iou_per_image(counts, empty),
        dice_pooled=dice_pooled(counts, empty),
        iou_pooled=iou_pooled(counts, empty),
        empty=empty,
        n=len(counts),
        both_empty=int(both.sum()),
        prediction_empty=int(((counts.predicted == 0) & ~both).sum()),
        truth_empty=int(((counts.true == 0) & ~both).sum()),
        n_skipped=int((~kept).sum()),
        kept=kept,
    )
