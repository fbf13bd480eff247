"""Turns the tables of each layout into entries: the name a table writes, its sentence and its split."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from textmask.data.layouts.detect import (
    IMAGE_NAMES,
    TEXT_NAMES,
    LayoutSource,
    caption_jsons,
    prompt_jsons,
    prompt_tables,
    text_tables,
)
from textmask.data.layouts.pairing import SUFFIXES, folder_split, named_kind, split_of, stem_of
from textmask.data.manifest import split_name
from textmask.errors import ConfigError, DataError, DataWarning, choose
from textmask.io.spreadsheets import column_of


@dataclass(frozen=True)
class LayoutEntry:
    """One line of a table, before the files it means are known.

    Attributes:
        where: table and row, for messages.
        name: picture or mask, as the table writes it.
        text: the sentence.
        splits: the split, or several where one table serves them and the folder of the file decides.
        mask: None: the mask goes by `name` too; "": there is none.
        group, laterality, labelled: as the table writes them; "" when it does not.
        becomes: the split the row gets in the end, when it is not the one its file lies in.
    """

    where: str
    name: str
    text: str
    splits: tuple[str, ...]
    mask: str | None = None
    group: str = ""
    laterality: str = ""
    labelled: str = ""
    becomes: str = ""


@dataclass(frozen=True)
class LayoutOptions:
    """What the caller chose: which of several sentences and splits."""

    text_column: str | None = None
    split_column: str | None = None

    def refuse_split(self, why: str) -> None:
        """Say that `split_column` has no meaning in a layout.

        Raises:
            ConfigError: it was given.
        """
        if self.split_column is not None:
            raise ConfigError(
                f"split_column={self.split_column!r} does not apply to this layout: {why}."
            )


# entries, and a word on how they were chosen
Found = tuple[list[LayoutEntry], str]
Reader = Callable[[LayoutSource, LayoutOptions], Found]


def read_lvit(source: LayoutSource, options: LayoutOptions) -> Found:
    """LViT and its family: workbooks."""
    return table_entries(source, text_tables(source, ".xlsx"), options), ""


def read_semi_medref(source: LayoutSource, options: LayoutOptions) -> Found:
    """Semi-MedRef: one CSV per split with the columns Image, text."""
    return table_entries(source, text_tables(source, texts=("text",)), options), ""


def read_madapter(source: LayoutSource, options: LayoutOptions) -> Found:
    """MAdapter: one CSV per data set and split with the columns Image, Description."""
    tables = text_tables(source, texts=("description",))
    stems = [PurePosixPath(table).stem for table in tables]
    sets = sorted(
        {re.sub(r"[_-]?(train|valid|val|test)$", "", stem, flags=re.IGNORECASE) for stem in stems}
    )
    if len(sets) > 1:
        raise DataError(
            f"{source.path}: holds tables of several data sets ({', '.join(sets)}), whose pictures share names; "
            "keep those of one data set beside its pictures."
        )
    return table_entries(source, tables, options), ""


def read_languidemedseg(source: LayoutSource, options: LayoutOptions) -> Found:
    """LanGuideMedSeg and MMI-UNet: prompt/*.csv; without a table for it, valid is cut off as their loader does."""
    entries = table_entries(source, prompt_tables(source), options)
    train = sorted(
        (entry for entry in entries if entry.splits == ("train",)),
        key=lambda entry: entry.name.lower(),
    )
    if any("valid" in entry.splits for entry in entries) or len(train) < 5:
        return entries, ""
    # the last fifth of the sorted list: 7145 -> 5716 + 1429, the published split of QaTa
    held = {entry.where for entry in train[int(0.8 * len(train)) :]}
    moved = [replace(entry, becomes="valid") if entry.where in held else entry for entry in entries]
    return moved, "valid = last fifth of the sorted train list"


def read_sgseg(source: LayoutSource, options: LayoutOptions) -> Found:
    """SGSeg and Semi-MedRef: one JSON object, split -> entries."""
    options.refuse_split("the split is the key of the JSON object")
    key = options.text_column or "caption"
    entries = []
    for table in caption_jsons(source)[:1]:
        content = source.json(table)
        for split, items in content.items() if isinstance(content, dict) else ():
            for item, where in _objects(items, f"{table} {split}"):
                name, text = (_text_value(item, column, where) for column in ("image_path", key))
                entries.append(LayoutEntry(where, name, text, (split_name(split),)))
    return entries, ""


def read_medvlsm(source: LayoutSource, options: LayoutOptions) -> Found:
    """MedVLSM: one JSON list per split, ten prompts per entry; p6 (attributes and place) unless told."""
    options.refuse_split("the split is the name of the JSON")
    key = (options.text_column or "p6").removeprefix("prompts.")
    entries = []
    for table in prompt_jsons(source):
        for item, where in _objects(source.json(table), table):
            prompts = item.get("prompts")
            if not isinstance(prompts, dict):
                raise DataError(f"{where}: has no object 'prompts'; got {', '.join(item)}.")
            choose(f"prompt of {where}", key, list(prompts))
            text = first_of(prompts[key])
            name = _text_value(item, "img_name", where)
            entries.append(
                LayoutEntry(
                    where, name, text, table_splits(table), str(item.get("mask_name") or name)
                )
            )
    return entries, f"prompts.{key}"


def read_folders(source: LayoutSource, options: LayoutOptions) -> Found:
    """Pictures and masks of equal names in two folders, as BM-Seg is published and people keep their own: no sentences.

    Raises:
        ConfigError: a text or split column was asked for.
    """
    options.refuse_split("the split is the name of the folder")
    if options.text_column is not None:
        raise ConfigError(
            f"text_column={options.text_column!r} does not apply to this layout: it has no sentences."
        )
    found: dict[tuple[str, str], str] = {}
    pictures = [path for path in source.tree.pictures if named_kind(path) == "image"]
    for path in sorted(
        pictures, key=lambda path: SUFFIXES.index(PurePosixPath(path).suffix.lower())
    ):
        found.setdefault(
            (split_of(path), stem_of(path).lower()), path
        )  # a .tif beside its .png is the same picture
    masks = {stem_of(path).lower() for path in source.tree.of_kind("mask")}
    alone = sorted(
        stem
        for stem in masks
        if not {stem, stem.removeprefix("mask_")} & {name for _, name in found}
    )
    if alone:
        _warn(
            f"{source.path}: {len(alone)} masks have no picture and are left out, the first: {alone[0]}."
        )
    if found and not any(split for split, _ in found):
        _warn(f"{source.path}: no folder names a split; every row is 'train'.")
    rows = sorted(found.items())
    return [
        LayoutEntry(path, path, "", (split or "train",), PurePosixPath(path).name)
        for (split, _), path in rows
    ], ""


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)


def table_entries(
    source: LayoutSource, tables: Sequence[str], options: LayoutOptions
) -> list[LayoutEntry]:
    """One entry per row of tables whose split is in their name or folder."""
    options.refuse_split("the split is the name of the table")
    entries = []
    for table in tables:
        header, records = source.rows(table)
        image = header.index(column_of(header, IMAGE_NAMES) or header[0])
        text = header.index(_text_column(header, options.text_column, table))
        splits = table_splits(table)
        for number, cells in records:
            if cells[image].strip():
                entries.append(
                    LayoutEntry(f"{table} row {number}", cells[image], cells[text].strip(), splits)
                )
    return entries


def table_splits(table: str) -> tuple[str, ...]:
    """Splits a table's name means ("Train_Val_text.xlsx": two), else its folder's, else a split of its own name."""
    if named := splits_in_name(table):
        return named
    for part in reversed(PurePosixPath(table).parts[:-1]):
        if split := folder_split(part):
            return (split,)
    return (re.sub(r"[^A-Za-z0-9_.-]+", "-", PurePosixPath(table).stem).strip("-._") or "test",)


def splits_in_name(table: str) -> tuple[str, ...]:
    """Splits that words of a table's file name mean."""
    words = re.split(r"[^A-Za-z]+", PurePosixPath(table).stem)
    return tuple(dict.fromkeys(split for word in words if (split := folder_split(word))))


def first_of(value: object) -> str:
    """A sentence given as a string or as a list of paraphrases: the first."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value or "").strip()


def _text_column(header: list[str], wanted: str | None, table: str) -> str:
    if wanted is not None:
        return choose(f"column of {table}", wanted, header)
    column = column_of(header, TEXT_NAMES)
    if column is None:
        raise DataError(
            f"{table}: no text column; expected one of {', '.join(TEXT_NAMES)}, got {', '.join(header)}."
        )
    return column


def _objects(items: object, where: str) -> list[tuple[dict[str, object], str]]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{where}: expected a list of objects.")
    return [(item, f"{where}[{number}]") for number, item in enumerate(items)]


def _text_value(item: dict[str, object], key: str, where: str) -> str:
    if not isinstance(item.get(key), str):
        raise DataError(f"{where}: has no text {key!r}; got {', '.join(item)}.")
    return str(item[key]).strip()
