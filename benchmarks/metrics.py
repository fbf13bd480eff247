"""Overlap and surface metrics compared with MONAI: `python benchmarks/metrics.py`, one process, one thread."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)
from scipy import ndimage
from timing import Goals, interleave

from textmask.metrics.overlap import (
    Bytes,
    counts,
    dice_per_image,
    dice_pooled,
    iou_per_image,
    iou_pooled,
)
from textmask.metrics.surface import surface_distances

PAIRS, SIZE, BLOBS = 100, 224, 6


def lesion_pair(rng: np.random.Generator) -> tuple[Bytes, Bytes]:
    """A truth of about six blobs on 11 % of the image, and a prediction that moves and reshapes each of them."""
    pair = np.zeros((2, SIZE, SIZE), np.uint8)
    for _ in range(BLOBS):
        centre, axes, angle = (
            rng.integers(30, SIZE - 30, 2),
            rng.uniform(8, 27, 2),
            rng.uniform(0, 180),
        )
        for mask in pair:
            place = tuple(int(x) for x in centre + rng.normal(0, 3, 2).round())
            size = tuple(int(x) for x in axes * rng.uniform(0.8, 1.2, 2))
            cv2.ellipse(mask, place, size, angle + rng.normal(0, 10), 0, 360, 1, -1)
    noise = (
        cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), 3)
        for _ in pair
    )
    rough = [
        cv2.GaussianBlur(m.astype(np.float32), (0, 0), 3) + 1.5 * n > 0.5
        for m, n in zip(pair, noise, strict=True)
    ]
    return rough[0].astype(np.uint8), rough[1].astype(np.uint8)


def scipy_surface(prediction: Bytes, truth: Bytes) -> tuple[float, float, float]:
    """Pooled HD95, max directed HD95 and ASSD by definition."""
    s, g = (m.astype(bool) & ~ndimage.binary_erosion(m) for m in (prediction, truth))
    forth, back = ndimage.distance_transform_edt(~g)[s], ndimage.distance_transform_edt(~s)[g]
    directed = max(np.percentile(forth, 95), np.percentile(back, 95))
    return (
        float(np.percentile(np.concatenate([forth, back]), 95)),
        float(directed),
        (forth.mean() + back.mean()) / 2,
    )


def check_equal(prediction: Bytes, truth: Bytes, p: torch.Tensor, t: torch.Tensor) -> None:
    """Stop unless both sides give the same answer."""
    counted, ours = counts(prediction, truth), surface_distances(prediction, truth)
    np.testing.assert_allclose(dice_per_image(counted), compute_dice(p, t)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(iou_per_image(counted), compute_iou(p, t)[:, 0], rtol=1e-6)
    monai = compute_hausdorff_distance(p, t, include_background=True, percentile=95)[:, 0]
    np.testing.assert_allclose(ours.hd95_max_directed, monai, atol=1e-3)
    direct = np.array([scipy_surface(a, b) for a, b in zip(prediction, truth, strict=True)])
    np.testing.assert_allclose(
        np.stack([ours.hd95_pooled, ours.hd95_max_directed, ours.assd], 1),
        direct,
        atol=1e-6,
        rtol=0,
    )
    boundary = np.mean([ndimage.binary_erosion(m).sum() for m in truth])
    blobs = np.mean([cv2.connectedComponents(m)[0] - 1 for m in truth])
    print(
        f"{len(truth)} pairs {SIZE}x{SIZE}: foreground {truth.mean():.1%}, {blobs:.1f} blobs, "
        f"{truth.sum() / len(truth) - boundary:.0f} surface pixels; equal to SciPy within 1e-6, to MONAI in float32"
    )
    print(
        f"mean HD95 pooled {ours.hd95_mean:.2f} px, max_directed {ours.hd95_max_directed.mean():.2f} px"
    )


def main() -> int:
    """Print the table and the goal lines; 0 only if every goal is met."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore", FutureWarning)  # MONAI deprecates an argument it passes itself
    rng = np.random.default_rng(0)
    prediction, truth = (
        np.stack(x) for x in zip(*(lesion_pair(rng) for _ in range(PAIRS)), strict=True)
    )
    p, t = (
        torch.from_numpy(x)[:, None].float() for x in (prediction, truth)
    )  # float is MONAI's fastest input
    check_equal(prediction, truth, p, t)

    def our_overlap() -> None:
        counted = counts(prediction, truth)
        dice_per_image(counted), iou_per_image(counted), dice_pooled(counted), iou_pooled(counted)

    def monai_overlap() -> None:
        compute_dice(p, t), compute_iou(p, t)

    def monai_surface() -> None:
        compute_hausdorff_distance(p, t, include_background=True, percentile=95)
        compute_average_surface_distance(p, t, include_background=True, symmetric=True)

    overlap = interleave({"textmask": our_overlap, "monai": monai_overlap}, repeats=15)
    surface = interleave(
        {"textmask": lambda: surface_distances(prediction, truth), "monai": monai_surface},
        repeats=7,
    )
    goals = Goals()
    rows = (("overlap", "Dice + IoU", overlap), ("surface", "HD95 + ASSD", surface))
    print(f"{'ms for all pairs, median':<28}{'textmask':>10}{'MONAI':>10}{'times':>8}")
    for name, title, seconds in rows:
        ratio = seconds["monai"] / seconds["textmask"]
        print(
            f"{title:<28}{1e3 * seconds['textmask']:>10.2f}{1e3 * seconds['monai']:>10.1f}{ratio:>8.1f}"
        )
        goals.at_least(f"metrics_{name}_vs_monai", ratio, 30.0)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
