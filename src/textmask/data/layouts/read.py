"""Reads a data set as it lies on disk, in any of the field's layouts, to a manifest."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from textmask.data.layouts.detect import LAYOUTS, LOOKED_FOR, LayoutSource, detect_in, native_tables
from textmask.data.layouts.entries import (
    LayoutEntry,
    LayoutOptions,
    Reader,
    read_folders,
    read_languidemedseg,
    read_lvit,
    read_madapter,
    read_medvlsm,
    read_semi_medref,
    read_sgseg,
)
from textmask.data.layouts.pairing import stem_of
from textmask.data.layouts.plain_csv import read_plain
from textmask.data.layouts.published import group_of, identify, known_laterality
from textmask.data.layouts.rows import Pairing
from textmask.data.manifest import Manifest, Row, read_manifest, warn_about_texts
from textmask.data.paths import Fence
from textmask.errors import ConfigError, DataError, DataWarning, choose
from textmask.statement import Laterality

__all__ = ["LAYOUTS", "detect", "read_layout"]

READERS: dict[str, Reader] = {
    "csv": read_plain,
    "lvit": read_lvit,
    "languidemedseg": read_languidemedseg,
    "sgseg": read_sgseg,
    "medvlsm": read_medvlsm,
    "semi_medref_csv": read_semi_medref,
    "madapter": read_madapter,
    "folders": read_folders,
}


def detect(path: str | Path) -> str:
    """Name of the layout that lies at `path`, one of `LAYOUTS`.

    Raises:
        DataError: none does; the message lists what was looked for.
    """
    return detect_in(LayoutSource.open(Path(path)))


def read_layout(
    path: str | Path,
    layout: str = "auto",
    *,
    text_column: str | None = None,
    split_column: str | None = None,
    laterality: Laterality | None = None,
) -> Manifest:
    """Read a data set from its folder or its table.

    Args:
        path: a folder, or a CSV, XLSX or JSON in it; paths in the manifest start from that folder.
        layout: one of `LAYOUTS`, or "auto".
        text_column: which sentence to take where a table has several ("text_madapter", "p6").
        split_column: which split to take where a table has several.
        laterality: whose left "left" is; without it the table's, else that of a measured published data set.

    Raises:
        DataError: nothing known lies there, or tables name files that do not exist (the first ten are listed).
        ConfigError: unknown layout or column.
    """
    source = LayoutSource.open(Path(path))
    if layout == "auto":
        layout = detect_in(source)
    choose("layout", layout, LAYOUTS)
    if layout == "manifest":
        if text_column is not None or split_column is not None:
            raise ConfigError(
                f"{path}: text_column and split_column do not apply to a native table."
            )
        manifest = read_manifest(
            source.tree.root / (native_tables(source) or source.top_csv() or ["manifest.csv"])[0]
        )
    else:
        entries, how = READERS[layout](source, LayoutOptions(text_column, split_column))
        if not entries:
            raise DataError(f"{path}: has no rows in the layout {layout!r}; {LOOKED_FOR}")
        manifest = _manifest(source, entries, layout, how)
    if laterality is not None:
        manifest = replace(
            manifest, rows=tuple(replace(row, laterality=laterality) for row in manifest.rows)
        )
    return manifest


def _manifest(source: LayoutSource, entries: list[LayoutEntry], layout: str, how: str) -> Manifest:
    """Pair entries with files and add what is known of the data set."""
    pairing = Pairing(source.tree, len(entries))
    rows: dict[str, Row] = {}
    for entry in entries:
        row = pairing.row(entry)
        if row is None:
            continue
        if (same := rows.get(row.image)) is None:
            rows[row.image] = row
        elif (
            same.text != row.text
        ):  # one workbook may lie in two folders; two sentences are a mistake
            pairing.wrong.append(
                f"{entry.where}: {row.image} has another sentence already: {same.text[:60]!r}"
            )
    fence = Fence(source.tree.root)
    paths = [path for row in rows.values() for path in (row.image, row.mask) if path]
    pairing.wrong += [problem for path in paths if (problem := fence.problem(path))]
    pairing.raise_any(source.path)
    if layout != "csv":
        _warn_unused(source, rows)
    warn_about_texts([row.text for row in rows.values()], source.path)
    return _with_known_facts(source, list(rows.values()), f"{layout}: {how}" if how else layout)


def _with_known_facts(source: LayoutSource, rows: list[Row], how: str) -> Manifest:
    """Fill in group and laterality from what is known of the data set."""
    folder = source.tree.root.resolve().name
    stems = [stem_of(row.image) for row in rows]
    data_set = identify(stems, [row.text for row in rows], folder)
    known = known_laterality(data_set)
    filled = tuple(
        replace(
            row,
            group=row.group or group_of(stem, data_set),
            laterality=known if row.laterality is Laterality.UNKNOWN else row.laterality,
        )
        for row, stem in zip(rows, stems, strict=True)
    )
    return Manifest(source.tree.root, filled, f"{data_set or folder} ({how})")


def _warn_unused(source: LayoutSource, rows: dict[str, Row]) -> None:
    """Warn of pictures without a sentence; copies that differ only in letter case are a known trap, not news."""
    used = {path.lower().rsplit(".", 1)[0] for path in rows}
    unused = [
        path for path in source.tree.of_kind("image") if path.lower().rsplit(".", 1)[0] not in used
    ]
    if unused:
        warnings.warn(
            f"{source.path}: {len(unused)} pictures have no sentence and are left out; the first: {unused[0]}.",
            DataWarning,
            stacklevel=4,
        )
