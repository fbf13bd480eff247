"""nnU-Net raw data sets of single slices (PNG, TIFF, NIfTI): dataset.json, imagesTr, labelsTr, imagesTs, labelsTs."""

from __future__ import annotations

import posixpath
import re
import warnings
from dataclasses import replace
from pathlib import Path

from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import scan_masks
from textmask.errors import DataError, DataWarning
from textmask.io.nifti import is_one_slice
from textmask.layouts.detect import nnunet_json
from textmask.layouts.entries import Found, LayoutEntry, LayoutOptions
from textmask.layouts.pairing import stem_of
from textmask.layouts.source import LayoutSource

CHANNEL = re.compile(r"_(\d{4})$")
SLICE = re.compile(r"(.+)_z\d{3,4}")  # of a volume, see `textmask.layouts.slices`
PARTS = {"imagesTr": ("train", "labelsTr"), "imagesTs": ("test", "labelsTs")}


def read_nnunet(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per image with its label map; `structures` makes one row per structure of them.

    Raises:
        DataError: an image in imagesTr has no label map, or the data set is made of volumes.
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is the name of the folder")
    options.refuse_text("the prompts are the names in dataset.json")
    base = posixpath.dirname(nnunet_json(source)[0])
    _refuse_volumes(source, base)

    # case_0000.png -> (case, 0)
    masks: dict[str, str] = {}
    images: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for path in source.tree.images:
        folder, name = posixpath.split(posixpath.relpath(path, base or "."))
        stem = stem_of(name)
        if folder in PARTS:
            channel = CHANNEL.search(stem)
            key = (folder, stem[: channel.start()] if channel else stem)
            images.setdefault(key, []).append((int(channel[1]) if channel else 0, path))
        else:
            masks[f"{folder}/{stem}"] = path

    entries = []
    several = []
    missing = []
    for (folder, case), channels in sorted(images.items()):
        split, labels = PARTS[folder]
        mask = masks.get(f"{labels}/{case}")
        image = min(channels)[1]
        if len(channels) > 1:
            several.append(image)
        if mask is None and split == "train":
            missing.append(image)
        volume = SLICE.fullmatch(case)
        entries.append(
            LayoutEntry(image, image, "", (split,), mask or "", group=volume[1] if volume else "")
        )

    if missing:
        raise DataError(
            f"{source.path}: {len(missing)} images in imagesTr have no label map in labelsTr, the first: "
            f"{missing[0]}. Add the label maps, or remove the images."
        )
    if several:
        warnings.warn(
            f"{source.path}: {len(several)} cases have several channels; only the first is read, e.g. {several[0]}.",
            DataWarning,
            stacklevel=4,
        )
    return entries, ""


def structures(source: LayoutSource, manifest: Manifest) -> Manifest:
    """One row per structure that a label map shows, with its name in dataset.json as the prompt.

    Raises:
        DataError: dataset.json names no structure, or a label map has values that it does not name.
    """
    table = nnunet_json(source)[0]
    labels, ignored = _named_structures(source.json(table), table)
    scan = scan_masks(manifest)

    rows: list[Row] = []
    blank: list[str] = []
    unknown: dict[float, str] = {}
    known = {0, *ignored}.union(*labels.values())
    for row in manifest.rows:
        if row.mask is None:
            rows.append(row)
            continue
        if row.mask not in scan.files:
            raise DataError(f"{row.image}: its label map {row.mask} cannot be read as an image.")
        values = set(scan.files[row.mask].values)
        for value in values - known:
            unknown.setdefault(value, row.mask)
        shown = [name for name, label in labels.items() if values.intersection(label)]
        rows += [replace(row, text=name, label=labels[name]) for name in shown]
        if not shown:
            blank.append(row.image)

    if unknown:
        value, mask = min(unknown.items())
        raise DataError(
            f"{source.path}: {mask} contains the value {value:g}, which {table} does not name "
            f"(labels: {', '.join(f'{name} {label}' for name, label in labels.items())}). "
            "Correct the label maps or dataset.json."
        )
    if blank:
        _remark(
            source,
            f"{len(blank)} images show none of the structures and are left out, e.g. {blank[0]}",
        )
    if ignored and any(ignored & set(found.values) for found in scan.files.values()):
        _remark(source, "pixels with the label 'ignore' count as background")
    names = {label[0]: name for name, label in labels.items() if len(label) == 1}
    return replace(manifest, rows=tuple(rows), classes=names)


def _named_structures(content: object, table: str) -> tuple[dict[str, tuple[int, ...]], set[int]]:
    """Name of each structure -> its values, and the values to ignore.

    Version 2 maps names to values (several for a region), version 1 maps values to names.
    """
    found = content.get("labels") if isinstance(content, dict) else None
    labels: dict[str, tuple[int, ...]] = {}
    ignored: set[int] = set()
    for key, value in (found if isinstance(found, dict) else {}).items():
        older = isinstance(value, str) and str(key).isdecimal()
        name, given = (value, key) if older else (key, value)
        try:
            numbers = [int(v) for v in (given if isinstance(given, list) else [given])]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{table}: label {name!r} has the value {given!r}; expected a number."
            ) from error
        if str(name).lower() == "ignore":
            ignored.update(numbers)
        elif any(numbers):
            labels[str(name)] = tuple(sorted({number for number in numbers if number}))
    if not labels:
        raise DataError(
            f'{table}: names no structure; expected "labels": {{"background": 0, "lesion": 1}}.'
        )
    return labels, ignored


def _refuse_volumes(source: LayoutSource, base: str) -> None:
    folder = source.tree.root / base / "imagesTr"
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    volumes = [name for name in files if name.endswith((".nrrd", ".mha"))]
    for name in files:
        if name.endswith((".nii.gz", ".nii")) and not is_one_slice(folder / name):
            volumes.append(name)
            break
    if volumes:
        first = "" if volumes[0].endswith((".nii.gz", ".nii")) else "Convert them to NIfTI. "
        raise DataError(
            f"{Path(source.path)}: imagesTr contains volumes ({volumes[0]}); training reads two-dimensional images. "
            f"{first}Write the slices as images: textmask data slices {source.path} --out FOLDER."
        )


def _remark(source: LayoutSource, what: str) -> None:
    warnings.warn(f"{source.path}: {what}.", DataWarning, stacklevel=4)
