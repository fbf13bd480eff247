"""Prompts for label maps as rows of a manifest, so that every method trains on them as on any other data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from textmask.data.label_maps import ClassNames
from textmask.data.manifest import Manifest, Row
from textmask.data.referring import ReferringData, open_referring
from textmask.errors import DataError
from textmask.text.execution import Mask

NO_VALUE = (255,)  # the values of an empty mask: those of a structure that no map shows


def referring_rows(
    manifest: Manifest,
    classes: ClassNames,
    split: str,
    count: int,
    *,
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    cache_dir: Path | None = None,
) -> Manifest:
    """The rows of one split with generated prompts for training, at most `count` per image.

    A row names the values of its label map, so only prompts are kept whose mask is a union of whole structures: all
    but levels, sides of one structure, and single components.

    Args:
        manifest: rows whose masks are label maps.
        classes: the names of their values.
        split: its rows.
        count: most prompts of an image.
        size: rows and columns at which places and areas are compared.
        seed: of the prompts; those of an image do not depend on the other images.
        cache_dir: folder of the cache; None means the user's.

    Raises:
        DataError: as `open_referring`, or a map uses the value 255, or no prompt can be made.
    """
    data = open_referring(manifest, classes, split, size, cache_dir=cache_dir)
    if any(NO_VALUE[0] in values for values in data.labels.values()):
        raise DataError(
            f"{manifest.name or manifest.root}: {classes.source} names the value 255, which stands for an empty mask "
            "here. Renumber the structures."
        )

    rows: list[Row] = []
    for i in range(len(data)):
        rng = np.random.default_rng([seed, i])
        rows += _rows_of_image(data, i, count, rng)
    if not rows:
        raise DataError(
            f"{manifest.name or manifest.root}: no prompt could be made for split {split!r}. Compare the names in "
            f"{classes.source} with those of text/structures.toml."
        )
    return replace(manifest, rows=tuple(rows), classes=dict(classes.names))


def _rows_of_image(
    data: ReferringData, number: int, count: int, rng: np.random.Generator
) -> list[Row]:
    """The prompts of one image."""
    source, masks = data.data.rows[number], data.masks(number)
    found: dict[str, Row] = {}
    for expression, mask in data.draw(number, 2 * count, rng):
        values = _values_of_union(mask.astype(bool), masks, data.labels)
        if values is not None and expression.prompt not in found:
            row = replace(source, text=expression.prompt, label=values, laterality=data.laterality)
            found[expression.prompt] = row
    return list(found.values())[:count]


def _values_of_union(
    mask: Mask, masks: Mapping[str, Mask], labels: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...] | None:
    """The values of a label map whose union a mask is; None if it is none."""
    if not mask.any():
        return NO_VALUE
    union, values = np.zeros_like(mask), set()
    for name, shown in masks.items():
        if shown.any() and not (shown & ~mask).any():
            union |= shown
            values |= set(labels[name])
    return tuple(sorted(values)) if np.array_equal(union, mask) else None
