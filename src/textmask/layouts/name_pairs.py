"""Masks in the file of their image (.npz), or beside it under another name: case_mask.png, mask_case.png."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from textmask.errors import DataWarning
from textmask.layouts.detect import mask_pairs, npz_files
from textmask.layouts.entries import Found, LayoutEntry, LayoutOptions
from textmask.layouts.pairing import split_of
from textmask.layouts.source import LayoutSource


def read_name_pairs(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per mask whose name is that of an image in the same folder and a word such as mask or seg.

    Raises:
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is the name of the folder")
    options.refuse_text("it has no prompts")
    pairs = mask_pairs(source)
    _no_split_named(source, set(pairs.values()))

    # images without a mask are unlabelled, not forgotten
    entries = []
    used = set(pairs.values())
    for mask, image in pairs.items():
        entries.append(LayoutEntry(mask, image, "", (split_of(image) or "train",), mask))
    for image in source.tree.images:
        if image not in used and image not in pairs:
            entries.append(LayoutEntry(image, image, "", (split_of(image) or "train",), ""))

    return entries, ""


def read_npz(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per .npz with an image and its mask (MedSAM, BiomedParse: imgs and gts).

    Raises:
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is the name of the folder")
    options.refuse_text("it has no prompts; --classes names the values of the masks")
    found = npz_files(source)
    _no_split_named(source, found)
    return [LayoutEntry(path, path, "", (split_of(path) or "train",), path) for path in found], ""


def _no_split_named(source: LayoutSource, images: Iterable[str]) -> None:
    if not any(split_of(image) for image in images):
        warnings.warn(
            f"{source.path}: no folder names a split; every row is 'train'.",
            DataWarning,
            stacklevel=5,
        )
