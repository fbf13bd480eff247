"""Writes the slices of an nnU-Net raw data set of volumes as images: a data set of the same kind in two dimensions."""

from __future__ import annotations

import posixpath
from pathlib import Path

import numpy as np

from textmask.errors import ConfigError, DataError
from textmask.io.files import write_json
from textmask.io.images import write_png
from textmask.io.intensity import Pixels
from textmask.io.nifti import read_nifti, refuse_other_axes, volume_values
from textmask.io.staging import staged
from textmask.layouts.detect import nnunet_json
from textmask.layouts.nnunet import CHANNEL, PARTS
from textmask.layouts.pairing import stem_of, suffix_of
from textmask.layouts.source import LayoutSource
from textmask.progress import with_progress

NIFTI = (".nii", ".nii.gz")
UNSIGNED = (np.uint8, np.uint16)  # of a label map in a PNG


def write_slices(root: Path, out: Path, axis: int | None = None) -> int:
    """Write each slice of the volumes in imagesTr, labelsTr, imagesTs and labelsTs as a PNG, and dataset.json.

    Slice 12 of `case_0000.nii.gz` becomes `case_z012_0000.png`, and that of its label map `case_z012.png`. The gray
    scale is that of the whole volume, see `read_nifti`. `read_layout` gives all slices of a volume one group.

    Args:
        root: the data set.
        out: the folder to write, which must not exist; it appears as a whole.
        axis: axis along which the slices lie, 0 to 2; None takes that of the image, see `read_nifti`.

    Returns:
        The number of images written.

    Raises:
        ConfigError: `out` exists, or nibabel is not installed.
        DataError: there is no dataset.json or no volume, a volume cannot be read or has no label map, or its label map
            has another shape, axes of other directions, or values that are not whole numbers from 0 to 65535.
    """
    if out.exists():
        raise ConfigError(f"{out} exists and is not replaced; give another --out.")
    source = LayoutSource.open(root)
    tables = nnunet_json(source)
    if not tables:
        raise DataError(
            f"{root}: expected an nnU-Net raw data set: dataset.json next to imagesTr and labelsTr."
        )
    base = posixpath.dirname(tables[0])
    volumes: list[tuple[str, str, str]] = []
    labels: dict[tuple[str, str], Path] = {}
    for path in source.tree.images:
        folder, name = posixpath.split(posixpath.relpath(path, base or "."))
        if suffix_of(name) in NIFTI and folder in PARTS:
            volumes.append((folder, stem_of(name), path))
        elif suffix_of(name) in NIFTI:
            labels[folder, stem_of(name)] = source.tree.root / path
    if not volumes:
        raise DataError(f"{root}: imagesTr contains no NIfTI volumes (.nii, .nii.gz).")

    written = 0
    with staged(out) as made:
        for folder, stem, path in with_progress(volumes, "volumes"):
            channel = CHANNEL.search(stem)
            case = stem[: channel.start()] if channel else stem
            images = read_nifti(source.tree.root / path, axis=axis)
            first = channel is None or int(channel[1]) == 0
            label = labels.get((PARTS[folder][1], case)) if first else None
            if label is None and first and folder == "imagesTr":
                raise DataError(
                    f"{root}: {path} has no label map {case} in labelsTr. Add it, or remove the image."
                )
            if label is not None:
                refuse_other_axes(label, source.tree.root / path)
            values = None if label is None else _label_slices(label, images[0].header.axis)
            if values is not None and values.shape != (len(images), *images[0].pixels.shape):
                raise DataError(
                    f"{label}: has the slices, rows and columns {values.shape}, its image {path} has "
                    f"{(len(images), *images[0].pixels.shape)}. Resample it to its image."
                )

            for i, image in enumerate(images):
                name = f"{case}_z{i:03d}"
                ending = channel[0] if channel else "_0000"
                _write_slice(made / folder / f"{name}{ending}.png", image.pixels)
                if values is not None:
                    _write_slice(made / PARTS[folder][1] / f"{name}.png", values[i])
            written += len(images)
        content = source.json(tables[0])
        write_json(made / "dataset.json", {**dict(content), "file_ending": ".png"})  # type: ignore[call-overload]
    return written


def _label_slices(path: Path, axis: int) -> Pixels:
    """The slices of a label map as unsigned integers."""
    values = volume_values(path, axis)
    for kind in UNSIGNED:
        narrow = values.astype(kind)
        if np.array_equal(narrow, values):
            return narrow
    raise DataError(
        f"{path}: has values that are not whole numbers from 0 to 65535, so that it is not a label map."
    )


def _write_slice(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(exist_ok=True)
    write_png(path, pixels)
