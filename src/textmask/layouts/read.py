"""Reads a data set in any of the known layouts into a manifest."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from textmask.data.manifest import Manifest, Row, read_manifest
from textmask.data.manifest_cells import own_mask_problem
from textmask.data.manifest_checks import warn_about_texts
from textmask.data.published import group_of, identify, known_laterality
from textmask.data.shard_files import read_shards, shard_folder
from textmask.errors import ConfigError, DataError, DataWarning, choose
from textmask.io.array_files import holds_both
from textmask.io.paths import path_problem
from textmask.layouts.choice import TableChoice
from textmask.layouts.coco import read_coco
from textmask.layouts.detect import (
    LAYOUTS,
    LOOKED_FOR,
    detect_in,
    native_table,
    native_tables,
)
from textmask.layouts.entries import (
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
from textmask.layouts.name_pairs import read_name_pairs, read_npz
from textmask.layouts.nnunet import read_nnunet, structures
from textmask.layouts.pairing import Tree, stem_of
from textmask.layouts.plain_csv import read_imagefolder, read_plain
from textmask.layouts.refcoco import read_refcoco
from textmask.layouts.rows import Pairing
from textmask.layouts.source import LayoutSource
from textmask.layouts.unused import warn_about_other_sheets, warn_about_unused_tables
from textmask.layouts.yolo import read_yolo
from textmask.statement import Laterality

__all__ = ["LAYOUTS", "detect", "read_layout"]

READERS: dict[str, Reader] = {
    "imagefolder": read_imagefolder,
    "nnunet": read_nnunet,
    "refcoco": read_refcoco,
    "coco": read_coco,
    "csv": read_plain,
    "lvit": read_lvit,
    "languidemedseg": read_languidemedseg,
    "sgseg": read_sgseg,
    "medvlsm": read_medvlsm,
    "semi_medref_csv": read_semi_medref,
    "madapter": read_madapter,
    "folders": read_folders,
    "name_pairs": read_name_pairs,
    "npz": read_npz,
    "yolo": read_yolo,
}


def detect(path: str | Path, choice: TableChoice | None = None) -> str:
    """Name of the layout at `path`, one of `LAYOUTS`, if its tables are read with a choice of sheet and columns.

    Raises:
        DataError: no layout fits; the message lists what was looked for.
    """
    if shard_folder(path) is not None:
        return "shards"
    if native_table(Path(path), choice) is not None:
        return "manifest"
    return detect_in(LayoutSource.open(Path(path), choice))


def read_layout(
    path: str | Path,
    layout: str = "auto",
    *,
    text_column: str | None = None,
    split_column: str | None = None,
    laterality: Laterality | None = None,
    choice: TableChoice | None = None,
) -> Manifest:
    """Read a data set from its folder or its table.

    Args:
        path: a folder, or a CSV, XLSX or JSON in it; paths in the manifest start from that folder.
        layout: one of `LAYOUTS`, or "auto".
        text_column: prompt column to use if a table has several ("text_madapter", "p6").
        split_column: split column to use if a table has several.
        laterality: laterality convention of the prompts; None means that of the table, or of a published data set if
            it was measured.
        choice: sheet of workbooks, and the columns of image and mask files, if they are not the usual ones.

    Raises:
        DataError: no layout fits, or tables name files that do not exist (the first ten are listed).
        ConfigError: the layout or a column is unknown.
    """
    # what was chosen of tables is in the manifest of the shards already
    path = Path(path)
    if layout == "shards" or (layout == "auto" and shard_folder(path) is not None):
        if (
            text_column is not None
            or split_column is not None
            or choice not in (None, TableChoice())
        ):
            raise ConfigError(
                f"{path}: is a folder of shards; give columns and sheets to `textmask data shard` instead."
            )
        return _with_laterality(read_shards(path), laterality)

    # a manifest names its files, so that the folder need not be searched for them
    if layout in ("auto", "manifest") and text_column is None and split_column is None:
        table = native_table(path, choice)
        if table is not None:
            return _with_laterality(_read_native(path, table), laterality)

    source = LayoutSource.open(path, choice)
    if layout == "auto":
        layout = detect_in(source)
    choose("layout", layout, LAYOUTS)
    # a manifest has no other columns to choose
    if layout == "manifest":
        if text_column is not None or split_column is not None or source.choice.columns:
            raise ConfigError(
                f"{path}: text_column, split_column, image_column and mask_column do not apply to a manifest."
            )
        tables = native_tables(source) or source.top_csv() or ["manifest.csv"]
        manifest = read_manifest(source.tree.root / tables[0])
        used = set(tables[:1])
    else:
        entries, how = READERS[layout](source, LayoutOptions(text_column, split_column))
        if not entries:
            raise DataError(f"{path}: has no rows in the layout {layout!r}; {LOOKED_FOR}")
        manifest = _manifest(source, entries, layout, how)
        used = {entry.where for entry in entries}
        if layout == "nnunet":
            manifest = structures(source, manifest)
    prompts = any(row.text for row in manifest.rows)
    warn_about_unused_tables(source, used, prompts=prompts)
    warn_about_other_sheets(source, used)

    return _with_laterality(manifest, laterality)


def _with_laterality(manifest: Manifest, laterality: Laterality | None) -> Manifest:
    """The same rows with the convention that the caller says, who knows better than the table; None changes nothing."""
    if laterality is None:
        return manifest
    rows = tuple(replace(row, laterality=laterality) for row in manifest.rows)
    return replace(manifest, rows=rows)


def _read_native(path: Path, table: Path) -> Manifest:
    """Read a manifest, and warn about tables next to its files that may hold more."""
    manifest = read_manifest(table)
    if path.is_file():
        return manifest

    # without prompts they may be in any table of the folder, otherwise next to a file that the manifest names
    prompts = any(row.text for row in manifest.rows)
    if prompts:
        source = LayoutSource(path, Tree(path, tuple(row.image for row in manifest.rows), ()), ())
    else:
        source = LayoutSource.open(path)
    warn_about_unused_tables(source, {table.name}, prompts=prompts)
    return manifest


def _manifest(source: LayoutSource, entries: list[LayoutEntry], layout: str, how: str) -> Manifest:
    """Pair entries with files and add what is known about the data set."""
    pairing = Pairing(source.tree, len(entries))
    rows: dict[Row, LayoutEntry] = {}
    repeated: list[str] = []
    for entry in entries:
        row = pairing.row(entry)
        # one workbook may be in two folders, so that a row may be named twice
        if row is None:
            continue
        first = rows.setdefault(row, entry)
        if first is not entry and _table_of(first) == _table_of(entry) != "":
            repeated.append(f"{entry.where} is {first.where}")
    _check_rows(rows, pairing)

    # a manifest could not hold such a name
    for row in rows:
        for path in (row.image, row.mask):
            if path and (problem := path_problem(path)):
                pairing.wrong.append(problem)

    pairing.raise_any(source.path)

    if repeated:
        many = f"{len(repeated)} rows repeat" if len(repeated) > 1 else "1 row repeats"
        warnings.warn(
            f"{source.path}: {many} an earlier one and {'are' if len(repeated) > 1 else 'is'} left out: "
            f"{repeated[0]} again.",
            DataWarning,
            stacklevel=3,
        )
    if layout != "csv":
        _warn_unused(source, {path for row in rows for path in (row.image, row.mask) if path})
    if layout != "nnunet":  # the names of the structures become the prompts
        warn_about_texts([row.text for row in rows], source.path)
    return _with_known_facts(source, list(rows), f"{layout}: {how}" if how else layout)


def _check_rows(rows: dict[Row, LayoutEntry], pairing: Pairing) -> None:
    """Note masks that are images, images in several splits, and tables that contradict each other."""
    images = {row.image for row in rows}
    first: dict[str, tuple[Row, LayoutEntry]] = {}
    for row, entry in rows.items():
        both = row.mask == row.image and holds_both(row.mask)
        if row.mask and not both and row.mask in images:
            pairing.wrong.append(f"{entry.where}: {own_mask_problem(row.image, row.mask)}")

        other, its_entry = first.setdefault(row.image, (row, entry))
        if other.split != row.split:
            pairing.wrong.append(
                f"{entry.where}: {row.image} is in split {row.split!r} here and in {other.split!r} in "
                f"{its_entry.where}; keep all rows of an image in one split"
            )
        # one table may give several prompts for an image, but two copies of a table should agree
        tables = [_table_of(entry), _table_of(its_entry)]
        if other.text != row.text and all(tables) and tables[0] != tables[1]:
            pairing.wrong.append(
                f"{entry.where}: {row.image} has another prompt already in {its_entry.where}: {other.text[:60]!r}"
            )


def _table_of(entry: LayoutEntry) -> str:
    """The table that an entry comes from; "" if it is a file."""
    return entry.where.rpartition(" row ")[0]


def _with_known_facts(source: LayoutSource, rows: list[Row], how: str) -> Manifest:
    """Fill in group and laterality from what is known about the data set."""
    # published data sets are recognized by file names and prompts
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


def _warn_unused(source: LayoutSource, rows: set[str]) -> None:
    """Warn about images without a prompt; copies that differ only in letter case are not counted."""
    # compared without letter case and suffix
    used = {path.lower().rsplit(".", 1)[0] for path in rows}
    unused = [
        path for path in source.tree.of_kind("image") if path.lower().rsplit(".", 1)[0] not in used
    ]
    if unused:
        warnings.warn(
            f"{source.path}: {len(unused)} images have no prompt and are left out; the first: {unused[0]}.",
            DataWarning,
            stacklevel=4,
        )
