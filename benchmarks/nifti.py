"""Slices of NIfTI volumes: time compared with nibabel, which only reads the numbers, in one process, turn by turn.

    python benchmarks/nifti.py

The volume has the size and the noise of a CT: 512 x 512 x 300 voxels of int16, 157 MB, with and without gzip. Images
are more work than numbers: they are 8-bit, on the gray scale of the whole volume, and NaN is refused.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from timing import Goals, interleave

from textmask.io.nifti import NiftiVolume, read_nifti

SLOWER = 3.0  # than nibabel, at most
SPACING = (0.7, 0.7, 2.5)


def write_volume(folder: Path, slices: int) -> tuple[Path, Path]:
    """A body of soft tissue with noise in air, as .nii and .nii.gz."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:512j, -1:1:512j]
    body = (rows**2 + columns**2) < 0.6
    volume = np.full((512, 512, slices), -1024, np.int16)
    for i in range(slices):
        volume[body, i] = rng.normal(40, 25, np.count_nonzero(body)).astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.diag([*SPACING, 1.0]))
    plain, packed = folder / "ct.nii", folder / "ct.nii.gz"
    for path in (plain, packed):
        nibabel.save(image, path)
    return plain, packed


def numbers_of_all(path: Path) -> list[np.ndarray]:
    """Every slice with nibabel, as float32; stored numbers would only be mapped, and not read."""
    volume = np.asarray(nibabel.load(path).dataobj)
    return [volume[..., i].T.astype(np.float32) for i in range(volume.shape[2])]


def numbers_of_one(path: Path, index: int) -> np.ndarray:
    """One slice with nibabel."""
    return np.asarray(nibabel.load(path).dataobj[..., index])


def main() -> int:
    """Print the figures and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    goals = Goals()
    with tempfile.TemporaryDirectory() as scratch:
        plain, packed = write_volume(Path(scratch), options.slices)
        middle = options.slices // 2
        opened, kept = nibabel.load(plain), NiftiVolume(packed)
        pairs = {
            "all slices of .nii": (lambda: numbers_of_all(plain), lambda: read_nifti(plain)),
            "all slices of .nii.gz": (lambda: numbers_of_all(packed), lambda: read_nifti(packed)),
            "the middle slice of .nii.gz": (
                lambda: numbers_of_one(packed, middle),
                lambda: NiftiVolume(packed).image(middle),
            ),
            "a further slice": (
                lambda: opened.dataobj[..., middle].T.astype(np.float32),
                lambda: kept.image(middle),
            ),
        }
        jobs = {}
        for what, (theirs, ours) in pairs.items():
            jobs[f"{what}, nibabel"], jobs[f"{what}, textmask"] = theirs, ours
        seconds = interleave(jobs, options.repeats)

        print(f"512 x 512 x {options.slices} int16, milliseconds, median of {options.repeats}")
        for what in pairs:
            theirs, ours = (seconds[f"{what}, {who}"] for who in ("nibabel", "textmask"))
            print(
                f"  {what:<30}nibabel {1000 * theirs:9.2f}  textmask {1000 * ours:9.2f}  {ours / theirs:6.2f}"
            )
            goals.at_least(f"nifti {what}, 3x nibabel over measured", SLOWER * theirs / ours, 1.0)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
