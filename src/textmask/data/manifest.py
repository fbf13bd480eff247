"""The native table: one CSV row per picture with its mask, sentence, split, group (patient) and laterality.

Paths are relative to the folder of the CSV and may not leave it: a table is a thing people download.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textmask.data.paths import Fence, path_problem
from textmask.data.tables import FORMULA, read_csv
from textmask.errors import DataError, DataWarning, choose
from textmask.io.images import write_whole
from textmask.text.grammar import GRAMMARS
from textmask.types import Laterality

COLUMNS = ("image", "mask", "text", "split", "group", "laterality", "labelled", "grammar")
REQUIRED = ("image", "text", "split")
MAX_TEXT = 10_000
SHOWN = 10
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RIGHT_TO_LEFT = {"R", "AL", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI", "PDF", "PDI"}


@dataclass(frozen=True)
class Row:
    """One picture. Its key is `image`.

    Attributes:
        image: path below the manifest's root, with forward slashes.
        mask: likewise; None when there is none.
        text: the sentence, possibly empty.
        split: train, valid, test or another identifier.
        group: patient, study or video: rows of one group belong into one split. "" when unknown.
        laterality: whose left "left" is in `text`.
        labelled: whether training may use the mask.
        grammar: by which `text` is read, see `textmask.text.grammar.parse`.
    """

    image: str
    mask: str | None
    text: str
    split: str
    group: str = ""
    laterality: Laterality = Laterality.UNKNOWN
    labelled: bool = True
    grammar: str = "auto"


@dataclass(frozen=True)
class Manifest:
    """A data set: rows, and the folder their paths start from."""

    root: Path
    rows: tuple[Row, ...]
    name: str = ""

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
            ConfigError: there is no such split; the message lists the ones there are.
        """
        choose(f"split of {self.name or self.root}", split, list(self.splits))
        return tuple(row for row in self.rows if row.split == split)

    @property
    def laterality(self) -> Laterality:
        """The convention all rows share; UNKNOWN when they differ."""
        conventions = {row.laterality for row in self.rows}
        return conventions.pop() if len(conventions) == 1 else Laterality.UNKNOWN

    @property
    def grammar(self) -> str:
        """The grammar all rows share; `auto` when they differ."""
        names = {row.grammar for row in self.rows}
        return names.pop() if len(names) == 1 else "auto"

    def image_path(self, row: Row) -> Path:
        """Where the picture of `row` lies on this machine."""
        return self._path(row.image)

    def mask_path(self, row: Row) -> Path:
        """Where the mask of `row` lies on this machine.

        Raises:
            DataError: the row has no mask.
        """
        if row.mask is None:
            raise DataError(f"{row.image}: has no mask; use rows whose `mask` is set.")
        return self._path(row.mask)

    def hash(self) -> str:
        """Sha256 (hex) over the rows, whatever their order and wherever the root lies."""
        lines = sorted(json.dumps(_cells(row), ensure_ascii=True) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _path(self, relative: str) -> Path:
        # rows may have been built in code: never join what could leave the root
        if problem := path_problem(relative):
            raise DataError(f"{relative!r}: {problem}")
        return self.root / relative


@dataclass
class Problems:
    """Collects what is wrong with a table, to report the first ten together.

    Attributes:
        path: the table.
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
    """The split a name means: val, Val, validation -> valid; other identifiers stay as they are."""
    return SPLIT_ALIASES.get(text.strip().lower(), text.strip())


def warn_about_texts(texts: Sequence[str], where: Path) -> None:
    """Warn once about empty sentences and once about control or right-to-left characters."""
    empty = sum(not text.strip() for text in texts)
    if empty:
        warnings.warn(f"{where}: {empty} of {len(texts)} rows have no text.", DataWarning, stacklevel=3)
    odd = [text for text in texts if _has_hidden(text)]
    if odd:
        warnings.warn(
            f"{where}: {len(odd)} texts hold control or right-to-left characters, kept as they are; "
            f"the first: {odd[0][:80]!r}.",
            DataWarning,
            stacklevel=3,
        )


def _has_hidden(text: str) -> bool:
    if text.isascii() and text.isprintable():
        return False
    return any(
        unicodedata.bidirectional(letter) in RIGHT_TO_LEFT
        or (unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\t\r\n")
        for letter in text
    )


def text_problem(text: str) -> str | None:
    """Why a sentence cannot be used at all, None when it can."""
    if len(text) > MAX_TEXT:
        return f"{len(text):,} characters, at most {MAX_TEXT:,}; shorten the sentence"
    return None


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a native table; its folder is the root of the paths in it.

    Raises:
        DataError: the file, or up to ten places in it, with row, column and what to do.
    """
    path = Path(path)
    header, records = read_csv(path)
    _check_header(header, path)
    problems = Problems(path)
    fence = Fence(path.parent)
    rows = []
    for number, cells in records:
        if len(cells) != len(header):
            problems.add(number, "-", f"{len(cells)} cells, the header has {len(header)}; quote texts that hold commas")
            continue
        rows.append((number, _row(number, dict(zip(header, cells, strict=True)), problems, fence)))
    check_unique(rows, problems)
    problems.raise_any()
    if not rows:
        raise DataError(f"{path}: has a header but no rows; add one row per picture.")
    warn_about_texts([row.text for _, row in rows], path)
    name = path.parent.resolve().name if path.stem in ("manifest", "texts", "index") else path.stem
    return Manifest(path.parent, tuple(row for _, row in rows), name)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write the native table, whole or not at all. A cell that a spreadsheet would run as a formula gets a leading '.

    Raises:
        DataError: `path` does not lie in the manifest's root or in a folder above it, or cannot be written.
    """
    path = Path(path)
    try:
        prefix = manifest.root.resolve().relative_to(path.parent.resolve()).as_posix()
    except ValueError as error:
        raise DataError(
            f"{path}: a table must lie in or above the folder of its pictures; "
            f"write it to {manifest.root / path.name}, or copy the pictures first."
        ) from error
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    named = any(row.grammar != "auto" for row in manifest.rows)
    writer.writerow(COLUMNS if named else COLUMNS[:-1])
    for row in manifest.rows:
        cells = _cells(row)
        if named and len(cells) < len(COLUMNS):
            cells.append(row.grammar)
        cells[:2] = [posixpath.normpath(posixpath.join(prefix, cell)) if cell else "" for cell in cells[:2]]
        writer.writerow([f"'{cell}" if FORMULA.match(cell) else cell for cell in cells])
    write_whole(path, buffer.getvalue().encode())


def check_unique(rows: Sequence[tuple[int, Row]], problems: Problems) -> None:
    """Note every picture that is named twice, letter case ignored (half the file systems do)."""
    seen: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        first, name = seen.setdefault(row.image.casefold(), (number, row.image))
        if first == number or not row.image:
            continue
        how = "" if name == row.image else f" in other letter case ({name!r})"
        problems.add(number, "image", f"{row.image!r} was named in row {first}{how}; keep one row per picture")


def _cells(row: Row) -> list[str]:
    labelled = "true" if row.labelled else "false"
    cells = [row.image, row.mask or "", row.text, row.split, row.group, row.laterality.value, labelled]
    return cells if row.grammar == "auto" else [*cells, row.grammar]


def _check_header(header: list[str], path: Path) -> None:
    valid = ", ".join(COLUMNS)
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise DataError(f"{path}: cells are separated by {';' if ';' in header[0] else 'tabs'}; save it with commas.")
    if unknown := [name for name in header if name not in COLUMNS]:
        raise DataError(f"{path}: row 1: unknown column {', '.join(map(repr, unknown))}. Valid: {valid}.")
    if missing := [name for name in REQUIRED if name not in header]:
        raise DataError(f"{path}: row 1: missing column {', '.join(missing)}. Valid: {valid}.")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise DataError(f"{path}: row 1: column {', '.join(twice)} appears twice; remove one.")


def _row(number: int, cells: dict[str, str], problems: Problems, fence: Fence) -> Row:
    image = _path_cell(number, "image", cells["image"], problems, fence)
    mask = _path_cell(number, "mask", cells["mask"], problems, fence) if cells.get("mask", "").strip() else None
    if problem := text_problem(cells["text"]):
        problems.add(number, "text", problem)
    split = split_name(cells["split"])
    if not SPLIT.fullmatch(split):
        problems.add(number, "split", f"{split!r}; expected train, valid, test or another name of letters and digits")
    return Row(
        image=image,
        mask=mask,
        text=cells["text"],
        split=split,
        group=cells.get("group", "").strip(),
        laterality=_laterality(number, cells.get("laterality", ""), problems),
        labelled=_labelled(number, cells.get("labelled", ""), mask, problems),
        grammar=_grammar(number, cells.get("grammar", ""), problems),
    )


def _path_cell(number: int, column: str, text: str, problems: Problems, fence: Fence) -> str:
    if problem := fence.problem(text.strip(" ")):
        problems.add(number, column, problem)
        return ""
    return posixpath.normpath(text.strip(" "))


def _laterality(number: int, text: str, problems: Problems) -> Laterality:
    name = text.strip().lower() or Laterality.UNKNOWN.value
    if name not in {member.value for member in Laterality}:
        problems.add(number, "laterality", f"{text!r}; expected image, patient or unknown")
        return Laterality.UNKNOWN
    return Laterality(name)


def _grammar(number: int, text: str, problems: Problems) -> str:
    name = text.strip().lower() or "auto"
    if name != "auto" and name not in GRAMMARS:
        problems.add(number, "grammar", f"{text!r}; expected auto, {', '.join(GRAMMARS)}")
        return "auto"
    return name


def _labelled(number: int, text: str, mask: str | None, problems: Problems) -> bool:
    name = text.strip().lower()
    if name and name not in TRUTH:
        problems.add(number, "labelled", f"{text!r}; expected true or false")
        return False
    if name and TRUTH[name] and mask is None:
        problems.add(number, "labelled", "is true but there is no mask; name the mask or write false")
    return TRUTH[name] if name else mask is not None
