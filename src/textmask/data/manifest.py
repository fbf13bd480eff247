"""The manifest: a CSV with one row per image, mask and prompt, and its split, group (patient) and laterality.

An image may have several rows, with other prompts or other masks.

Paths are relative to the folder of the CSV and may not leave it, because manifests are downloaded from elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from textmask.data.manifest_cells import (
    grammar_cell,
    label_cell,
    label_text,
    labelled_cell,
    laterality_cell,
    own_mask_problem,
)
from textmask.errors import DataError, DataWarning, choose
from textmask.io.array_files import holds_both
from textmask.io.files import write_whole
from textmask.io.mask_rule import MaskRule
from textmask.io.paths import path_problem
from textmask.io.spreadsheets import FORMULA, read_csv, without_value
from textmask.statement import Laterality
from textmask.text.hidden_text import has_hidden_characters

OPTIONAL = ("label", "grammar")  # written only if a row has one
COLUMNS = ("image", "mask", "text", "split", "group", "laterality", "labelled", *OPTIONAL)
REQUIRED = ("image", "text", "split")
MAX_TEXT = 10_000
SHOWN = 10
SPLIT_ALIASES = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ROW_NUMBER = re.compile(r"#\d+$")


@dataclass(frozen=True)
class Row:
    """One image with one mask and one prompt; see `Manifest.key` for its name.

    Attributes:
        image: path below the manifest's root, with forward slashes.
        mask: path of the mask, in the same form; None if there is none.
        text: the prompt, possibly empty.
        split: train, valid, test or another identifier.
        group: patient, study or video, "" if unknown; rows of one group belong in one split.
        laterality: laterality convention of `text`.
        labelled: whether training may use the mask.
        grammar: grammar of `text`, see `textmask.text.grammar.parse`.
        label: which values of the mask are the foreground of this row; () if the mask is binary.
    """

    image: str
    mask: str | None
    text: str
    split: str
    group: str = ""
    laterality: Laterality = Laterality.UNKNOWN
    labelled: bool = True
    grammar: str = "auto"
    label: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A data set: its rows, and the folder that their paths are relative to.

    Attributes:
        root: the folder.
        rows: unique by image, mask, label and prompt.
        name: of the data set, for messages and tables.
        mask_rule: which values of a binary mask are foreground; None finds out from the values of all masks.
        resize_masks: fit masks that differ from their image by a pixel or a common factor; else they are errors.
        classes: names of the values of label maps, if they are known.
    """

    root: Path
    rows: tuple[Row, ...]
    name: str = ""
    mask_rule: MaskRule | None = None
    classes: Mapping[int, str] | None = None
    resize_masks: bool = False

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def splits(self) -> dict[str, int]:
        """Rows per split, in the order train, valid, test, others."""
        counts = Counter(row.split for row in self.rows)
        known = [name for name in ("train", "valid", "test") if name in counts]
        return {name: counts[name] for name in known + sorted(set(counts) - set(known))}

    def rows_of(self, split: str) -> tuple[Row, ...]:
        """Rows of one split, in file order.

        Raises:
            ConfigError: there is no such split; the message lists the existing ones.
        """
        choose(f"split of {self.name or self.root}", split, list(self.splits))
        return tuple(row for row in self.rows if row.split == split)

    def key(self, row: Row) -> str:
        """Name of a row: its image, with `#1`, `#2` ... if the image has several rows, in any order of the rows."""
        return self._numbers.get(row, row.image)

    @cached_property
    def _numbers(self) -> dict[Row, str]:
        """The names of rows whose image has several rows."""
        rows_of: dict[str, list[Row]] = {}
        for row in self.rows:
            rows_of.setdefault(row.image, []).append(row)

        # numbered by what they say, so that another order of the table gives the same names
        names = {}
        for image, rows in rows_of.items():
            if len(rows) > 1:
                rows.sort(key=lambda row: (row.mask or "", row.label, row.text))
                names.update({row: f"{image}#{i}" for i, row in enumerate(rows, start=1)})
        return names

    @property
    def laterality(self) -> Laterality:
        """The convention that all rows share; UNKNOWN if they differ."""
        conventions = {row.laterality for row in self.rows}
        return conventions.pop() if len(conventions) == 1 else Laterality.UNKNOWN

    @property
    def grammar(self) -> str:
        """The grammar that all rows share; `auto` if they differ."""
        names = {row.grammar for row in self.rows}
        return names.pop() if len(names) == 1 else "auto"

    def image_path(self, row: Row) -> Path:
        """Path of the image of `row` on this machine."""
        return self._path(row.image)

    def mask_path(self, row: Row) -> Path:
        """Path of the mask of `row` on this machine.

        Raises:
            DataError: the row has no mask.
        """
        if row.mask is None:
            raise DataError(f"{row.image}: has no mask; use rows that name a mask.")
        return self._path(row.mask)

    def hash(self) -> str:
        """SHA-256 (hex) of the rows, independent of their order and of the root."""
        # sorted, so that the order of the rows does not matter
        lines = sorted(json.dumps(_row_cells(row), ensure_ascii=True) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _path(self, relative: str) -> Path:
        # rows may have been built in code: never join what could leave the root
        if problem := path_problem(relative):
            raise DataError(f"{relative!r}: {problem}")
        return self.root / relative


def image_of(key: str) -> str:
    """The image in a key of `Manifest.key`."""
    return ROW_NUMBER.sub("", key)


def interval_groups(rows: Sequence[Row]) -> list[str]:
    """What the intervals of N rows are grouped by: the group, or else the image if it has several rows, or else ""."""
    counts = Counter(row.image for row in rows)
    return [row.group or (row.image if counts[row.image] > 1 else "") for row in rows]


@dataclass
class Problems:
    """Collects what is wrong with a manifest, to report the first ten problems together.

    Attributes:
        path: the CSV file.
        found: "row R, column C: what, what to do".
    """

    path: Path
    found: list[str] = field(default_factory=list)

    def add(self, row: int, column: str, what: str) -> None:
        """Note one problem. `row` counts as a spreadsheet does: the header is row 1."""
        self.found.append(f"row {row}, column {column}: {what}")

    def raise_any(self) -> None:
        """Raise what was found, if anything.

        Raises:
            DataError: at least one problem was noted.
        """
        if not self.found:
            return
        more = len(self.found) - SHOWN
        lines = self.found[:SHOWN] + ([f"... and {more} more"] if more > 0 else [])
        count = f"{len(self.found)} problem{'s' if len(self.found) > 1 else ''}"
        raise DataError(f"{self.path}: {count}\n  " + "\n  ".join(lines))


def split_name(text: str) -> str:
    """Normalize the name of a split: val, Val, validation -> valid; other identifiers stay as they are."""
    return SPLIT_ALIASES.get(text.strip().lower(), text.strip())


def warn_about_texts(texts: Sequence[str], where: Path) -> None:
    """Warn once about empty prompts and once about control or right-to-left characters."""
    empty = sum(not text.strip() for text in texts)
    if empty:
        warnings.warn(
            f"{where}: {empty} of {len(texts)} rows have no text.", DataWarning, stacklevel=3
        )

    # such characters can hide what a prompt says
    odd = [text for text in texts if has_hidden_characters(text)]
    if odd:
        warnings.warn(
            f"{where}: {len(odd)} texts contain control or right-to-left characters, kept as they are; "
            f"the first: {odd[0][:80]!r}.",
            DataWarning,
            stacklevel=3,
        )


def text_problem(text: str) -> str | None:
    """Why a prompt cannot be used; None if it can."""
    if len(text) > MAX_TEXT:
        return f"{len(text):,} characters, at most {MAX_TEXT:,}; shorten the sentence"
    return None


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest; its folder is the root of the paths in it.

    Raises:
        DataError: the file cannot be read, or has problems; up to ten are listed with row, column and what to do.
    """
    path = Path(path)
    header, records = read_csv(path)
    _check_header(header, path)

    # collect the problems of all rows before reporting them
    problems = Problems(path)
    rows = []
    for number, stored in records:
        cells = without_value(stored)
        # a shifted row would be read wrongly, so that its cells are not parsed
        if len(cells) != len(header):
            problems.add(
                number,
                "-",
                f"{len(cells)} cells, the header has {len(header)}; quote texts that contain commas",
            )
            continue
        rows.append((number, _parse_row(number, dict(zip(header, cells, strict=True)), problems)))

    check_unique(rows, problems)
    check_own_masks(rows, problems)
    problems.raise_any()

    if not rows:
        raise DataError(f"{path}: has a header but no rows; add one row per image and prompt.")

    # manifest.csv says nothing about its data set, its folder does
    warn_about_texts([row.text for _, row in rows], path)
    name = path.parent.resolve().name if path.stem in ("manifest", "texts", "index") else path.stem
    return Manifest(path.parent, tuple(row for _, row in rows), name)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest atomically. A cell that a spreadsheet would run as a formula gets a leading apostrophe.

    Raises:
        DataError: `path` is not in the manifest's root or in a folder above it, or cannot be written.
    """
    path = Path(path)
    try:
        prefix = manifest.root.resolve().relative_to(path.parent.resolve()).as_posix()
    except ValueError as error:
        raise DataError(
            f"{path}: a manifest must be in or above the folder of its images; "
            f"write it to {manifest.root / path.name}, or copy the images first."
        ) from error

    # in memory first, so that the file is written at once
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    used = {"label": any(row.label for row in manifest.rows)}
    used["grammar"] = any(row.grammar != "auto" for row in manifest.rows)
    writer.writerow([name for name in COLUMNS if used.get(name, True)])
    for row in manifest.rows:
        cells = _plain_cells(row)
        if used["label"]:
            cells.append(label_text(row.label))
        if used["grammar"]:
            cells.append(row.grammar)
        cells[:2] = [
            posixpath.normpath(posixpath.join(prefix, cell)) if cell else "" for cell in cells[:2]
        ]
        writer.writerow([f"'{cell}" if FORMULA.match(cell) else cell for cell in cells])

    write_whole(path, buffer.getvalue().encode())


def check_unique(rows: Sequence[tuple[int, Row]], problems: Problems) -> None:
    """Note rows that say the same twice, an image in two splits, and names that differ only in letter case.

    Many file systems ignore letter case, so that such names are one file.
    """
    images: dict[str, tuple[int, Row]] = {}
    whole: dict[tuple[str, str | None, tuple[int, ...], str], int] = {}
    for number, row in rows:
        first, same = images.setdefault(row.image.casefold(), (number, row))
        if first == number or not row.image:
            whole.setdefault(_identity(row), number)
            continue
        if same.image != row.image:
            problems.add(
                number,
                "image",
                f"{row.image!r} was named in row {first} in other letter case ({same.image!r}); "
                "write it the same way, or rename one of the files",
            )
        elif same.split != row.split:
            problems.add(
                number,
                "split",
                f"{row.image!r} is in split {same.split!r} in row {first} and in {row.split!r} here; "
                "keep all rows of an image in one split",
            )
        elif (twin := whole.setdefault(_identity(row), number)) != number:
            problems.add(
                number,
                "image",
                f"{row.image!r} was named in row {twin} with the same mask and prompt; keep one of the rows",
            )


def check_own_masks(rows: Sequence[tuple[int, Row]], problems: Problems) -> None:
    """Note every mask that is an image of the data set."""
    images = {row.image.casefold() for _, row in rows}
    for number, row in rows:
        both = row.mask == row.image and holds_both(row.mask)
        if row.mask and not both and row.mask.casefold() in images:
            problems.add(number, "mask", own_mask_problem(row.image, row.mask))


def _identity(row: Row) -> tuple[str, str | None, tuple[int, ...], str]:
    return row.image, row.mask, row.label, row.text


def _row_cells(row: Row) -> list[str]:
    """What the hash of a manifest covers; rows without a label and a grammar keep the hash that they had."""
    cells = _plain_cells(row)
    if row.label:
        cells.append(label_text(row.label))
    if row.grammar != "auto":
        cells.append(f"grammar {row.grammar}")
    return cells


def _plain_cells(row: Row) -> list[str]:
    labelled = "true" if row.labelled else "false"
    return [
        row.image,
        row.mask or "",
        row.text,
        row.split,
        row.group,
        row.laterality.value,
        labelled,
    ]


def _check_header(header: list[str], path: Path) -> None:
    valid = ", ".join(COLUMNS)
    # the commonest mistake: a spreadsheet that saves with semicolons
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise DataError(
            f"{path}: cells are separated by {';' if ';' in header[0] else 'tabs'}; save the file with commas."
        )
    if unknown := [name for name in header if name not in COLUMNS]:
        raise DataError(
            f"{path}: row 1: unknown column {', '.join(map(repr, unknown))}. Valid: {valid}."
        )
    if missing := [name for name in REQUIRED if name not in header]:
        raise DataError(f"{path}: row 1: missing column {', '.join(missing)}. Valid: {valid}.")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise DataError(f"{path}: row 1: column {', '.join(twice)} appears twice; remove one.")


def _parse_row(number: int, cells: dict[str, str], problems: Problems) -> Row:
    image = _path_cell(number, "image", cells["image"], problems)
    mask = (
        _path_cell(number, "mask", cells["mask"], problems)
        if cells.get("mask", "").strip()
        else None
    )
    if problem := text_problem(cells["text"]):
        problems.add(number, "text", problem)

    split = split_name(cells["split"])
    if not SPLIT.fullmatch(split):
        problems.add(
            number,
            "split",
            f"{split!r}; expected train, valid, test or another name of letters and digits",
        )

    return Row(
        image=image,
        mask=mask,
        text=cells["text"],
        split=split,
        group=cells.get("group", "").strip(),
        laterality=laterality_cell(number, cells.get("laterality", ""), problems),
        labelled=labelled_cell(number, cells.get("labelled", ""), mask, problems),
        grammar=grammar_cell(number, cells.get("grammar", ""), problems),
        label=label_cell(number, cells.get("label", ""), mask, problems),
    )


def _path_cell(number: int, column: str, text: str, problems: Problems) -> str:
    if problem := path_problem(text.strip(" ")):
        problems.add(number, column, problem)
        return ""
    return posixpath.normpath(text.strip(" "))
