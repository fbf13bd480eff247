"""Masks that lie beside their images under another name: case_mask.png, mask_case.png, case_mask_1.png."""

from __future__ import annotations

import warnings

from textmask.errors import DataWarning
from textmask.layouts.detect import LayoutSource, mask_pairs
from textmask.layouts.entries import Found, LayoutEntry, LayoutOptions
from textmask.layouts.pairing import split_of


def read_name_pairs(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per mask whose name is that of an image in the same folder and a word such as mask or seg.

    Raises:
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is the name of the folder")
    options.refuse_text("it has no prompts")
    pairs = mask_pairs(source)

    # images without a mask are unlabelled, not forgotten
    entries = []
    used = set(pairs.values())
    for mask, image in pairs.items():
        entries.append(LayoutEntry(mask, image, "", (split_of(image) or "train",), mask))
    for image in source.tree.images:
        if image not in used and image not in pairs:
            entries.append(LayoutEntry(image, image, "", (split_of(image) or "train",), ""))

    if not any(split_of(image) for image in used):
        warnings.warn(
            f"{source.path}: no folder names a split; every row is 'train'.",
            DataWarning,
            stacklevel=4,
        )
    return entries, ""
