"""Names the tables of a folder that were seen and not used."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable

from textmask.errors import DataWarning
from textmask.io.spreadsheets import column_of, sheet_headers
from textmask.layouts.pairing import TABLE_SUFFIXES, plain_stem
from textmask.layouts.source import IMAGE_NAMES, LayoutSource, is_text_table

# read by no layout, but people keep prompts in them
OTHER_TABLES = (
    ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".xls", ".xlsm", ".ods", ".parquet", ".feather", ".yaml", ".yml",
)  # fmt: skip
UNREADABLE = (".xls", ".xlsm", ".ods", ".parquet", ".feather")
SHOWN = 5
HEAD_BYTES = 20_000
HEAD_LINES = 20


def warn_about_unused_tables(source: LayoutSource, used: Iterable[str], *, prompts: bool) -> None:
    """Warn about tables that name images of the data set and of which no row was used.

    Args:
        source: the data set, as a folder; a table that the user named is the only one that counts.
        used: where the rows come from, each beginning with the name of its table.
        prompts: whether the rows have prompts; then another table of a kind that is read is no surprise.
    """
    if source.path.is_file():
        return
    places = tuple(used)
    stems = {plain_stem(path) for path in source.tree.images}
    if not prompts:
        _warn_about_texts(source, stems)
    seen = [] if prompts else list(source.tree.tables)
    names = (*seen, *_other_tables(source))
    unused = []
    for name in names:
        if not any(place.startswith(name) for place in places) and _names_images(
            source, name, stems
        ):
            unused.append(name)
    if unused:
        more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
        warnings.warn(
            f"{source.path}: {', '.join(unused[:SHOWN])}{more} "
            f"{'was' if len(unused) == 1 else 'were'} seen and not used. If the prompts are there, name "
            f"that file instead of the folder{_advice(unused[0])}.",
            DataWarning,
            stacklevel=4,
        )


def _warn_about_texts(source: LayoutSource, stems: set[str]) -> None:
    """Warn about text files that are named after images, which may hold prompts; numbers are polygons or boxes."""
    named = [path for path in source.tree.texts if plain_stem(path[: -len(".txt")]) in stems]
    words = [path for path in named[:SHOWN] if re.search(r"[A-Za-z]{2}", _head_of(source, path))]
    if words:
        warnings.warn(
            f"{source.path}: {len(named)} text files are named after images and are not read, e.g. {words[0]}. If they "
            "hold prompts, put them into a table with the columns image and text.",
            DataWarning,
            stacklevel=5,
        )


def _head_of(source: LayoutSource, name: str) -> str:
    """The first part of a file; "" if it cannot be read."""
    try:
        with (source.tree.root / name).open("rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _advice(name: str) -> str:
    """What to change about a table before it can be named."""
    lower = name.lower()
    if lower.endswith(UNREADABLE):
        return ", after saving it as CSV with the columns image, mask, text, split"
    if lower.endswith((".txt", ".yaml", ".yml")):
        return ", after saving it as a table (CSV, TSV, JSON Lines) with the columns image, mask, text, split"
    return " (columns of other names: --image-column, --mask-column, --text-column)"


def warn_about_other_sheets(source: LayoutSource, used: Iterable[str]) -> None:
    """Warn about sheets of the workbooks that were read that name images too and were not read."""
    if source.choice.sheet:
        return
    places = tuple(used)
    for name in source.named(".xlsx"):
        if not any(place.startswith(f"{name} ") for place in places):
            continue
        headers = sheet_headers(source.tree.root / name)
        first, *others = headers
        unread = [sheet for sheet in others if column_of(headers[sheet], IMAGE_NAMES)]
        if unread:
            warnings.warn(
                f"{source.path}: of {name} only the sheet {first!r} is read; {', '.join(map(repr, unread[:SHOWN]))} "
                "was seen and not used. Choose a sheet with --sheet, or save each as a CSV named after its split.",
                DataWarning,
                stacklevel=4,
            )


def _other_tables(source: LayoutSource) -> list[str]:
    """Tables of other kinds in the folder itself and in the folders of its tables and images."""
    folders = {""} | {os.path.dirname(path) for path in (*source.tree.tables, *source.tree.images)}
    found = []
    for folder in sorted(folders):
        if not os.path.isdir(source.tree.root / folder):
            continue  # a manifest may name files that are missing
        for name in sorted(os.listdir(source.tree.root / folder)):
            lower = name.lower()
            if lower.endswith(OTHER_TABLES) and not name.startswith((".", "~$")):
                path = os.path.join(folder, name).replace(os.sep, "/")
                text = not folder and is_text_table(source.tree.root / path)
                if not (lower.endswith(TABLE_SUFFIXES) or text):
                    found.append(path)
    return found


def _names_images(source: LayoutSource, name: str, stems: set[str]) -> bool:
    """Whether a file looks like a table of images with something to say of them."""
    lower = name.lower()
    if lower.endswith((".csv", ".xlsx")):
        header = source.header(name)
        return len(header) > 1 and column_of(header, IMAGE_NAMES) is not None
    if lower.endswith(UNREADABLE):
        return True

    # a list of names alone is a list of labelled images, not a table
    for line in _head_of(source, name).splitlines()[:HEAD_LINES]:
        words = [word for word in re.split(r"[\s,;:\"{}\[\]]+", line) if word]
        if len(words) > 1 and any(plain_stem(word) in stems for word in words):
            return True
    return False
