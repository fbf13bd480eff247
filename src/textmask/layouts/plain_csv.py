"""Reads tables (CSV, TSV, JSON Lines, JSON lists) with one row per image and any of the usual column names."""

from __future__ import annotations

import posixpath
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from textmask.data.manifest import split_name
from textmask.errors import DataError, DataWarning, choose
from textmask.io.spreadsheets import Records, column_of
from textmask.layouts.detect import metadata_tables, plain_tables
from textmask.layouts.entries import (
    ANY_SPLIT,
    Found,
    LayoutEntry,
    LayoutOptions,
    splits_in_name,
)
from textmask.layouts.foreign_paths import below_the_root
from textmask.layouts.pairing import SUFFIXES, split_of
from textmask.layouts.source import (
    IMAGE_NAMES,
    MASK_NAMES,
    SPLIT_NAMES,
    TEXT_NAMES,
    LayoutSource,
)

GROUP_NAMES = (
    "group",
    "patient",
    "patient_id",
    "subject",
    "subject_id",
    "sequence_id",
    "study",
    "case",
)
LABEL_NAMES = ("label", "labels")
PREFERRED = ("texts", "index", "data", "dataset")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used; None if there is no such column."""

    image: str
    mask: str | None
    text: str | None
    split: str | None
    group: str | None

    @property
    def chosen(self) -> str:
        """The text and split columns, if there was a choice, for the manifest's name."""
        usual = {*SPLIT_NAMES, *TEXT_NAMES}
        return ", ".join(
            name for name in (self.split, self.text) if name and name.lower() not in usual
        )


def read_plain(source: LayoutSource, options: LayoutOptions) -> Found:
    """Tables with image, mask, text, split and group under their usual names.

    With columns split_A, text_A, split_B, ... the default is the first split and the text with the same name. Without a
    split column the table's name decides (train.csv, test.csv), or else the folders of the images; otherwise every row
    is train, with a warning.
    """
    entries, chosen = [], ""
    for table in _select(source):
        header, _ = source.table(table)
        columns = pick_columns(header, options, table)
        entries += _entries(source, table, columns)
        chosen = columns.chosen
    return entries, chosen


def _select(source: LayoutSource) -> list[str]:
    """The table to read, or all tables if each is named after a split."""
    tables = plain_tables(source) or source.top_csv() or source.top_xlsx() or source.top_others()

    # several tables: one per split, or one with a usual name
    preferred = [table for table in tables if Path(table).stem.lower() in PREFERRED]
    if len(tables) < 2 or all(splits_in_name(table) for table in tables):
        return tables
    if not preferred:
        raise DataError(
            f"{source.path}: contains several tables ({', '.join(tables[:5])}); name the one to read."
        )
    return preferred[:1]


def _entries(
    source: LayoutSource, table: str, columns: Columns, named: str = ""
) -> list[LayoutEntry]:
    header, records = source.rows(table)
    label = column_of(header, LABEL_NAMES)
    if label and columns.mask is None:
        # a column of this name may hold files, or a diagnosis
        cells = [row[header.index(label)] for _, row in records]
        if any(cell.lower().endswith(SUFFIXES) for cell in cells):
            columns = replace(columns, mask=label)
    named = named or next(iter(splits_in_name(table)), "")
    # the folders of the images say it if the table does not
    folders = not named and any(split_of(path) for path in source.tree.images)
    if columns.split is None and not named and not folders:
        warnings.warn(
            f"{source.tree.root / table}: has no split column; every row is 'train'.",
            DataWarning,
            stacklevel=4,
        )

    where = source.tree.root / table
    if not source.choice.mask_column:
        _warn_of_other_files(source, columns, header, records, where)
    images = _file_column(source, columns.image, header, records, where)
    masks = _file_column(source, columns.mask, header, records, where) if columns.mask else []
    unsaid = ANY_SPLIT if folders else (named or "train",)

    def entry(i: int, number: int, cells: list[str]) -> LayoutEntry:
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
        return LayoutEntry(
            where=f"{table} row {number}",
            name=images[i],
            text=_prompt_cell(row, columns.text),
            splits=(split_name(row[columns.split]),) if columns.split else unsaid,
            mask=masks[i] if masks else None,
            group=row[columns.group] if columns.group else "",
            laterality=row.get("laterality", ""),
            labelled=row.get("labelled", ""),
        )

    return [entry(i, number, cells) for i, (number, cells) in enumerate(records)]


def _file_column(
    source: LayoutSource, name: str, header: list[str], records: Records, where: Path
) -> list[str]:
    """The cells of a column of files, as paths that start from the folder of the data if that can be told."""
    if header.count(name) > 1:
        raise DataError(f"{where}: row 1: column {name} appears twice; remove one.")
    place = header.index(name)
    cells = [cells[place].strip() for _, cells in records]
    return below_the_root(cells, source.tree, f"{where}, column {name}")


def _warn_of_other_files(
    source: LayoutSource, columns: Columns, header: list[str], records: Records, where: Path
) -> None:
    """Warn about columns of image files that are read neither as images nor as masks."""
    used = [i for i, name in enumerate(header) if name in (columns.image, columns.mask)]
    known, others = source.tree.known, []
    for i, name in enumerate(header):
        for _, cells in records:
            repeats = any(cells[i] == cells[k] for k in used)
            if i not in used and not repeats and posixpath.normpath(cells[i].strip()) in known:
                others.append(name)
                break
    if not others:
        return
    what = "column" if len(others) == 1 else "columns"
    verbs = ("names", "is") if len(others) == 1 else ("name", "are")
    masks = f"from {columns.mask}" if columns.mask else "found by the name of the image"
    warnings.warn(
        f"{where}: the {what} {', '.join(others)} {verbs[0]} image files and {verbs[1]} not read; the masks are "
        f"{masks}. Choose another column with --mask-column.",
        DataWarning,
        stacklevel=5,
    )


def read_imagefolder(source: LayoutSource, options: LayoutOptions) -> Found:
    """Hugging Face image folders: metadata.jsonl or metadata.csv beside the images, usually one per split."""
    entries = []
    for table in metadata_tables(source):
        header, _ = source.table(table)
        columns = replace(
            pick_columns(header, options, table),
            image="image" if source.choice.image_column else "file_name",
        )
        folder = posixpath.dirname(table)
        split = split_of(table)
        if columns.split is None and not split:
            warnings.warn(
                f"{source.tree.root / table}: neither a column nor a folder names a split; every row is 'train'.",
                DataWarning,
                stacklevel=4,
            )
        for entry in _entries(source, table, columns, split or "train"):
            name = posixpath.join(folder, entry.name)
            mask = posixpath.join(folder, entry.mask) if entry.mask else entry.mask
            entries.append(replace(entry, name=name, mask=mask))
    return entries, ""


def pick_columns(header: list[str], options: LayoutOptions, table: str) -> Columns:
    """Decide which column is which.

    Raises:
        DataError: no image column.
        ConfigError: a chosen column does not exist.
    """
    image = column_of(header, IMAGE_NAMES)
    if image is None:
        raise DataError(
            f"{table}: no image column; expected one of {', '.join(IMAGE_NAMES)}, got {', '.join(header)}."
        )

    for name in (options.text_column, options.split_column):
        if name is not None:
            choose(f"column of {table}", name, header)

    # split and text columns of one name belong together
    split = (
        options.split_column
        or column_of(header, SPLIT_NAMES)
        or _matching_split(header, options.text_column)
    )
    text = options.text_column or column_of(header, TEXT_NAMES) or _matching_text(header, split)
    return Columns(
        image, column_of(header, MASK_NAMES), text, split, column_of(header, GROUP_NAMES)
    )


def _matching_split(header: list[str], text: str | None) -> str | None:
    """Among split_A, split_B, ..., the column that shares its name with the text column, or else the first."""
    splits = [name for name in header if name.lower().startswith("split_")]
    shared = [name for name in splits if text and name[len("split_") :].lower() in text.lower()]
    return next(iter(shared + splits), None)


def _matching_text(header: list[str], split: str | None) -> str | None:
    """The text column that shares its name with the split (text_A, A_p6), or else any text_*."""
    name = split[len("split_") :].lower() if split and split.lower().startswith("split_") else ""
    texts = [column for column in header if column.lower().startswith("text_")]
    return column_of(header, [f"text_{name}", f"{name}_p6"]) if name else next(iter(texts), None)


def _prompt_cell(row: dict[str, str], column: str | None) -> str:
    if column is None:
        return ""
    # a cell of a MedVLSM column contains all paraphrases of one prompt level
    return row[column].split(" | ")[0] if re.search(r"_p\d$", column) else row[column]
