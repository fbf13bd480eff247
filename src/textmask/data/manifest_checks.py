"""Checks of the rows of a manifest: problems are collected, and the first ten are reported together."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from textmask.data.manifest_cells import own_mask_problem
from textmask.errors import DataError, DataWarning
from textmask.io.array_files import holds_both
from textmask.text.hidden_text import has_hidden_characters

if TYPE_CHECKING:
    from textmask.data.manifest import Row

MAX_TEXT = 10_000
SHOWN = 10


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


def check_unique(rows: Sequence[Row], numbers: Sequence[int], problems: Problems) -> None:
    """Note rows that say the same twice, an image in two splits, and names that differ only in letter case.

    Many file systems ignore letter case, so that such names are one file.

    Args:
        rows: all rows.
        numbers: what each row is called in messages.
        problems: where they are noted.
    """
    # most tables name each image once, and then there is nothing to compare
    repeated = _repeated_images(rows)
    if not repeated:
        return

    images: dict[str, tuple[int, Row]] = {}
    whole: dict[tuple[str, str | None, tuple[int, ...], str], int] = {}
    for number, row in zip(numbers, rows, strict=True):
        folded = row.image.casefold()
        if folded not in repeated:
            continue
        first, same = images.setdefault(folded, (number, row))
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


def check_own_masks(rows: Sequence[Row], numbers: Sequence[int], problems: Problems) -> None:
    """Note every mask that is an image of the data set; arguments as in `check_unique`."""
    images = set(_folded_names(row.image for row in rows))
    masks = _folded_names(row.mask or "" for row in rows)
    for number, row, folded in zip(numbers, rows, masks, strict=True):
        if row.mask and folded in images and not (row.mask == row.image and holds_both(row.mask)):
            problems.add(number, "mask", own_mask_problem(row.image, row.mask))


def _folded_names(names: Iterable[str]) -> Iterator[str]:
    """Names without letter case; those that have none already are not stored a second time."""
    for name in names:
        folded = name.casefold()
        yield name if folded == name else folded


def _repeated_images(rows: Sequence[Row]) -> set[str]:
    """Images with several rows, without letter case."""
    seen: set[str] = set()
    repeated: set[str] = set()
    for folded in _folded_names(row.image for row in rows):
        (repeated if folded in seen else seen).add(folded)
    return repeated


def _identity(row: Row) -> tuple[str, str | None, tuple[int, ...], str]:
    return row.image, row.mask, row.label, row.text
