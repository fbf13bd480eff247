"""The manifest: a CSV with one row per image, mask and prompt, and its split, group (patient) and laterality.

An image may have several rows, with other prompts or other masks.

Paths are relative to the folder of the CSV and may not leave it, because manifests are downloaded from elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path

from textmask.data.manifest_cells import (
    grammar_cell,
    label_cell,
    label_text,
    labelled_cell,
    laterality_cell,
)
from textmask.data.manifest_checks import (
    Problems,
    check_own_masks,
    check_unique,
    text_problem,
    warn_about_texts,
)
from textmask.errors import DataError, choose
from textmask.io.files import write_whole
from textmask.io.mask_rule import MaskRule
from textmask.io.paths import path_problem
from textmask.io.spreadsheets import FORMULA, csv_records, without_value
from textmask.statement import Laterality

OPTIONAL = ("label", "grammar")  # written only if a row has one
COLUMNS = ("image", "mask", "text", "split", "group", "laterality", "labelled", *OPTIONAL)
REQUIRED = ("image", "text", "split")
SPLIT_ALIASES = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ROW_NUMBER = re.compile(r"#\d+$")
_Ending = tuple[Laterality, bool, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
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
        return self._numbers.get(row, row.image) if self._numbers else row.image

    @cached_property
    def _numbers(self) -> dict[Row, str]:
        """The names of rows whose image has several rows."""
        # most images have one row, and a list for each of them costs more than counting
        counts = Counter(row.image for row in self.rows)
        rows_of: dict[str, list[Row]] = {}
        for row in self.rows:
            if counts[row.image] > 1:
                rows_of.setdefault(row.image, []).append(row)

        # numbered by what they say, so that another order of the table gives the same names
        names = {}
        for image, rows in rows_of.items():
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
        return self._hash

    @cached_property
    def _hash(self) -> str:
        """Computed once: a training asks for it at every better epoch."""
        # sorted, so that the order of the rows does not matter
        lines = [_row_json(row) for row in self.rows]
        lines.sort()

        # line by line, so that the whole text is never in memory
        digest = hashlib.sha256()
        for i, line in enumerate(lines):
            digest.update(f"\n{line}".encode() if i else line.encode())
        return digest.hexdigest()

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


def split_name(text: str) -> str:
    """Normalize the name of a split: val, Val, validation -> valid; other identifiers stay as they are."""
    return SPLIT_ALIASES.get(text.strip().lower(), text.strip())


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest; its folder is the root of the paths in it.

    Raises:
        DataError: the file cannot be read, or has problems; up to ten are listed with row, column and what to do.
    """
    path = Path(path)
    records = csv_records(path)
    header = next(records)[1]
    _check_header(header, path)

    # collect the problems of all rows before reporting them
    problems = Problems(path)
    parser = _RowParser(header, problems)
    rows: list[Row] = []
    numbers = array("q")
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
        rows.append(parser.row(number, cells))
        numbers.append(number)

    check_unique(rows, numbers, problems)
    check_own_masks(rows, numbers, problems)
    problems.raise_any()

    if not rows:
        raise DataError(f"{path}: has a header but no rows; add one row per image and prompt.")

    # manifest.csv says nothing about its data set, its folder does
    warn_about_texts([row.text for row in rows], path)
    name = path.parent.resolve().name if path.stem in ("manifest", "texts", "index") else path.stem
    return Manifest(path.parent, tuple(rows), name)


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


def _row_json(row: Row) -> str:
    """What the hash of a manifest covers, as a JSON list.

    Rows without a label and a grammar keep the hash that they had.
    """
    cells = _plain_cells(row)
    if row.label:
        cells.append(label_text(row.label))
    if row.grammar != "auto":
        cells.append(f"grammar {row.grammar}")
    return f"[{', '.join(map(encode_basestring_ascii, cells))}]"


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


@dataclass
class _RowParser:
    """Parses the rows of one table; cells that repeat, such as splits and groups, are read and stored once.

    Attributes:
        header: names of the columns.
        problems: where they are noted.
    """

    header: list[str]
    problems: Problems
    _places: dict[str, int] = field(init=False)
    _splits: dict[str, str] = field(default_factory=dict)  # those that are valid
    _shared: dict[str, str] = field(default_factory=dict)
    _endings: dict[tuple[str | bool, ...], _Ending] = field(
        default_factory=dict
    )  # those that are valid

    def __post_init__(self) -> None:
        # a column that the table does not have is the empty cell after the last one
        self._places = {name: len(self.header) for name in COLUMNS}
        self._places.update({name: place for place, name in enumerate(self.header)})

    def row(self, number: int, cells: list[str]) -> Row:
        """One row; what is wrong with it is noted."""
        cells.append("")
        place, problems = self._places, self.problems
        image = self._path_cell(number, "image", cells[place["image"]])
        named = cells[place["mask"]]
        mask = self._path_cell(number, "mask", named) if named.strip() else None
        text = cells[place["text"]]
        if problem := text_problem(text):
            problems.add(number, "text", problem)

        return Row(
            image,
            mask,
            self._shared.setdefault(text, text),
            self._split_cell(number, cells[place["split"]]),
            self._group_cell(cells[place["group"]]),
            *self._ending(number, cells, mask),
        )

    def _ending(self, number: int, cells: list[str], mask: str | None) -> _Ending:
        """Laterality, labelled, grammar and label; rows share few of them."""
        place, problems = self._places, self.problems
        laterality, labelled = cells[place["laterality"]], cells[place["labelled"]]
        grammar, label = cells[place["grammar"]], cells[place["label"]]
        key = (laterality, labelled, grammar, label, mask is None)
        if key in self._endings:
            return self._endings[key]

        before = len(problems.found)
        ending = (
            laterality_cell(number, laterality, problems),
            labelled_cell(number, labelled, mask, problems),
            grammar_cell(number, grammar, problems),
            label_cell(number, label, mask, problems),
        )
        # what is wrong is noted for each row
        if len(problems.found) == before:
            self._endings[key] = ending
        return ending

    def _path_cell(self, number: int, column: str, text: str) -> str:
        path = text.strip(" ")
        if problem := path_problem(path):
            self.problems.add(number, column, problem)
            return ""
        # most paths are in their shortest form
        if "//" in path or "./" in path or path[-1] in "./":
            return posixpath.normpath(path)
        return path

    def _split_cell(self, number: int, text: str) -> str:
        known = self._splits.get(text)
        if known is not None:
            return known
        split = split_name(text)
        if SPLIT.fullmatch(split):
            self._splits[text] = split
        else:
            self.problems.add(
                number,
                "split",
                f"{split!r}; expected train, valid, test or another name of letters and digits",
            )
        return split

    def _group_cell(self, text: str) -> str:
        group = text.strip()
        return self._shared.setdefault(group, group)
