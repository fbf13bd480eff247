"""Reads the tables of each layout into entries: the file name in a table, its prompt and its split."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from textmask.data.manifest import split_name
from textmask.errors import ConfigError, DataError, DataWarning, choose
from textmask.io.spreadsheets import column_of
from textmask.layouts.detect import (
    caption_jsons,
    prompt_jsons,
    prompt_tables,
    text_tables,
)
from textmask.layouts.pairing import (
    SUFFIXES,
    bare_folders,
    bare_stems,
    folder_split,
    mask_stems,
    named_kind,
    plain_stem,
    split_of,
    suffix_of,
)
from textmask.layouts.source import (
    IMAGE_NAMES,
    MASK_NAMES,
    SPLIT_NAMES,
    TEXT_NAMES,
    LayoutSource,
)

ANY_SPLIT = ("train", "valid", "test")
PATIENT = re.compile(
    r"(patient|pat|subject|subj|sub|case|study|series|sequence|seq|video|p)[ _-]?\d+.*"
)


@dataclass(frozen=True)
class LayoutEntry:
    """One row of a table, before its files are looked up.

    Attributes:
        where: table and row, for messages.
        name: of the image or mask, as it is in the table.
        text: the prompt.
        splits: the split, or several if one table contains them and the folder of the file decides.
        mask: name of the mask; None if `name` is also the name of the mask, "" if there is no mask.
        group, laterality, labelled: as they are in the table; "" if it has no such column.
        becomes: the final split of the row, if it is not the split of its file.
        label: which values of the mask are the foreground of this row; () if the mask is binary.
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
    label: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayoutOptions:
    """Which prompt and split column to take, if a table has several."""

    text_column: str | None = None
    split_column: str | None = None

    def refuse_split(self, why: str) -> None:
        """Check that no `split_column` was given, which has no meaning in some layouts.

        Raises:
            ConfigError: it was given.
        """
        if self.split_column is not None:
            raise ConfigError(
                f"split_column={self.split_column!r} does not apply to this layout: {why}."
            )

    def refuse_text(self, why: str) -> None:
        """Check that no `text_column` was given, which has no meaning in some layouts.

        Raises:
            ConfigError: it was given.
        """
        if self.text_column is not None:
            raise ConfigError(
                f"text_column={self.text_column!r} does not apply to this layout: {why}."
            )


# entries, and a note about how they were chosen
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

    # Kvasir_train.csv belongs to the data set Kvasir
    names = set()
    for table in tables:
        stem = PurePosixPath(table).stem
        names.add(re.sub(r"[_-]?(train|valid|val|test)$", "", stem, flags=re.IGNORECASE))
    sets = sorted(names)
    if len(sets) > 1:
        raise DataError(
            f"{source.path}: contains tables of several data sets ({', '.join(sets)}) with equal image names; "
            "keep only those of one data set next to its images."
        )
    return table_entries(source, tables, options), ""


def read_languidemedseg(source: LayoutSource, options: LayoutOptions) -> Found:
    """LanGuideMedSeg and MMI-UNet: prompt/*.csv; without its own table, valid is split off as in their loader."""
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
    """SGSeg and Semi-MedRef: one JSON object that maps a split to entries."""
    options.refuse_split("the split is the key of the JSON object")
    key = options.text_column or "caption"
    entries = []
    for table in caption_jsons(source)[:1]:
        content = source.json(table)
        for split, items in content.items() if isinstance(content, dict) else ():
            for item, where in _objects(items, f"{table} {split}"):
                name = _text_value(item, "image_path", where)
                text = _text_value(item, key, where)
                entries.append(LayoutEntry(where, name, text, (split_name(split),)))
    return entries, ""


def read_medvlsm(source: LayoutSource, options: LayoutOptions) -> Found:
    """MedVLSM: one JSON list per split, ten prompts per entry; p6 (attributes and place) by default."""
    options.refuse_split("the split is the name of the JSON")
    key = (options.text_column or "p6").removeprefix("prompts.")
    entries = []
    for table in prompt_jsons(source):
        for item, where in _objects(source.json(table), table):
            prompts = item.get("prompts")
            if not isinstance(prompts, dict):
                raise DataError(f"{where}: has no object 'prompts'; got {', '.join(item)}.")
            # a prompt may be a list of paraphrases
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
    """Images and masks with equal names in two folders and no prompts, e.g. BM-Seg.

    An image with several masks (case_mask_1.png, case_mask_2.png) has one row per mask.

    Raises:
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is the name of the folder")
    options.refuse_text("it has no prompts")

    found: dict[tuple[str, str], str] = {}
    images = [path for path in source.tree.images if named_kind(path) == "image"]
    images.sort(key=lambda path: SUFFIXES.index(suffix_of(path)))
    twice: list[str] = []
    for path in images:  # a .tif next to its .png is the same image
        first = found.setdefault((bare_folders(path), plain_stem(path)), path)
        if first != path and suffix_of(path) not in (".tif", ".tiff"):
            twice.append(path)
    if twice:
        _warn(
            f"{source.path}: {len(twice)} images have the name of another one and are left out, the first: {twice[0]}."
        )
    _refuse_equal_names(source, found)

    # a mask without an image is probably a mistake
    masks = {plain_stem(path) for path in source.tree.of_kind("mask")}
    names = {other for _, name in found for other in mask_stems(name)}
    alone = sorted(stem for stem in masks if not names & {stem, *bare_stems(stem)})
    if alone:
        _warn(
            f"{source.path}: {len(alone)} masks have no image and are left out, the first: {alone[0]}."
        )

    if found and not any(split_of(path) for path in found.values()):
        _warn(f"{source.path}: no folder names a split; every row is 'train'.")

    entries = []
    several = _several_masks(source, found)
    for key, path in sorted(found.items()):
        split = (split_of(path) or "train",)
        for mask in several.get(key, [path]):
            mask_name = None if mask == path else mask
            entries.append(LayoutEntry(path, path, "", split, mask_name, _patient_of(key[0])))
    return entries, ""


def _patient_of(folders: str) -> str:
    """The folder of a patient, study or video (patient_007); "" if there is none."""
    return next((part for part in folders.split("/") if PATIENT.fullmatch(part)), "")


def _refuse_equal_names(source: LayoutSource, images: dict[tuple[str, str], str]) -> None:
    """Refuse images of one name in several folders if the folders of the masks do not tell them apart.

    Raises:
        DataError: naming two of them.
    """
    places = {bare_folders(path) for path in source.tree.of_kind("mask")}
    seen: dict[tuple[str, str], str] = {}
    for (place, name), path in images.items():
        if place in places:
            continue
        first = seen.setdefault((split_of(path), name), path)
        if first != path:
            raise DataError(
                f"{source.path}: {first} and {path} have one name, and the folders of the masks do not tell which mask "
                "belongs to which. Put the masks into folders of the same names, or add a table with image and mask."
            )


def _several_masks(
    source: LayoutSource, images: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[str]]:
    """Folder and name of the images that several masks are named after -> the paths of these masks."""
    named: dict[tuple[str, str], dict[str, str]] = {}
    masks = source.tree.of_kind("mask")
    known = {*images, *(("", name) for _, name in images)}
    for path in sorted(masks, key=lambda path: SUFFIXES.index(suffix_of(path))):
        stem, place = plain_stem(path), bare_folders(path)
        for name in [stem] if (place, stem) in known else bare_stems(stem):
            # one mask with two endings is one mask
            named.setdefault((place, name), {}).setdefault(stem, path)

    found = {}
    for place, name in images:
        own = named.get((place, name)) or named.get(("", name), {})
        if len(own) > 1:
            found[place, name] = sorted(own.values())
    return found


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)


def table_entries(
    source: LayoutSource, tables: Sequence[str], options: LayoutOptions
) -> list[LayoutEntry]:
    """One entry per row of tables; a column split or mask counts before the name of the table and of the image."""
    entries = []
    for table in tables:
        header, records = source.rows(table)
        split = _split_column(header, options, table)
        mask = column_of(header, MASK_NAMES)
        image = header.index(column_of(header, IMAGE_NAMES) or header[0])
        text = header.index(_text_column(header, options.text_column, table))
        splits = table_splits(table)
        folders = any(split_of(path) for path in source.tree.images)
        if split is None and splits == ANY_SPLIT and not folders:
            _warn(
                f"{source.tree.root / table}: neither a column, its name nor a folder names a split; every row is "
                "'train'. Add a column split, or hold some rows out with --hold-out 0.1."
            )

        # rows without an image are empty rows of a workbook
        for number, cells in records:
            if not cells[image].strip():
                continue
            own = split_name(cells[header.index(split)]) if split else ""
            entries.append(
                LayoutEntry(
                    f"{table} row {number}",
                    cells[image],
                    cells[text].strip(),
                    (own,) if own else splits,
                    mask=cells[header.index(mask)].strip() if mask else None,
                )
            )

    return entries


def _split_column(header: list[str], options: LayoutOptions, table: str) -> str | None:
    if options.split_column is None:
        return column_of(header, SPLIT_NAMES)
    if options.split_column not in header:
        options.refuse_split(f"{table} has no such column, and its name is the split")
    return options.split_column


def table_splits(table: str) -> tuple[str, ...]:
    """Splits in a table's name ("Train_Val_text.xlsx": two), or in its folder, or else all: the images decide."""
    if named := splits_in_name(table):
        return named
    for part in reversed(PurePosixPath(table).parts[:-1]):
        if split := folder_split(part):
            return (split,)
    return ANY_SPLIT


def splits_in_name(table: str) -> tuple[str, ...]:
    """Splits that are named by words of a table's file name."""
    # "Train_Val_text" has three words, of which two name a split
    words = re.split(r"[^A-Za-z]+", PurePosixPath(table).stem)
    return tuple(dict.fromkeys(split for word in words if (split := folder_split(word))))


def first_of(value: object) -> str:
    """The first prompt of a string or a list of paraphrases."""
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
