"""Data read as a run's data options say."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from textmask.data.label_maps import with_mask_options
from textmask.data.manifest import Manifest
from textmask.data.splits import hold_out, merge_split
from textmask.layouts.read import read_layout
from textmask.runs.data_options import DataOptions
from textmask.statement import Laterality


def read_data(path: Path, options: DataOptions) -> Manifest:
    """The manifest of a data set, read with these options."""
    with warnings.catch_warnings():
        # the names of the structures become the prompts
        if options.classes:
            warnings.filterwarnings("ignore", message=".*rows have no text")
        manifest = read_layout(
            path,
            options.layout,
            text_column=options.text_column or None,
            split_column=options.split_column or None,
            laterality=Laterality(options.laterality) if options.laterality else None,
            choice=options.choice,
        )
    manifest = with_mask_options(
        manifest,
        threshold=options.mask_threshold,
        values=options.mask_values,
        classes=options.classes,
        absent=options.absent,
        resize=options.resize_masks,
    )
    if options.grammar:
        rows = tuple(replace(row, grammar=options.grammar) for row in manifest.rows)
        manifest = replace(manifest, rows=rows)
    if options.merge_valid:
        manifest = merge_split(manifest)
    if options.hold_out:
        manifest = hold_out(manifest, options.hold_out)
    return manifest
