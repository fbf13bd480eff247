"""Published (Dice, IoU) pairs, typed or read from a table, and the protocol that each can come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textmask.errors import DataError
from textmask.io.spreadsheets import read_table
from textmask.metrics.protocols import PairCheck, PairVerdict, check_pair

WORDS: dict[PairVerdict, str] = {
    "pooled": "pooled",
    "per_image": "per image",
    "impossible": "neither",
}
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# what surrounds a figure in a published table: markup, units, the deviation over runs
MARKUP = re.compile(r"<[^>]*>|[*_`$%\\]|↑|↓")
DEVIATION = re.compile(r"(±|\+/-|\bpm\b|\().*")
BLANK = {"", "-", "--", "–", "—", "n/a"}
DICE, IOU = re.compile(r"dice|dsc", re.IGNORECASE), re.compile(r"iou|jaccard", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A pair as it was printed; its digits show how it was rounded."""

    label: str
    dice: str
    iou: str

    def check(self) -> PairCheck:
        """See `check_pair`.

        Raises:
            DataError: not numbers, or out of range.
        """
        try:
            texts = _plain_number(self.dice), _plain_number(self.iou)
            dice, iou = (len(text.partition(".")[2]) for text in texts)
            return check_pair(float(texts[0]), float(texts[1]), (dice, iou))
        except DataError as error:
            raise DataError(f"{self.label}: {error}" if self.label else str(error)) from None


def find_pairs(arguments: Sequence[str]) -> list[Pair]:
    """The pairs of a command line: pairs of numbers, and files in between.

    Raises:
        DataError: an odd number, or a file without pairs.
    """
    pairs: list[Pair] = []
    waiting = ""  # a Dice whose IoU comes next
    for text in arguments:
        typed = NUMBER.match(_without_markup(text)) and not Path(text).is_file()
        if waiting and not typed:
            break
        if not typed:
            pairs += read_pairs(Path(text))
        elif waiting:
            pairs.append(Pair("", waiting, text))
            waiting = ""
        else:
            waiting = text

    if waiting:
        raise DataError(
            f"got Dice {waiting} without its IoU, expected pairs of numbers: DICE IOU DICE IOU ..."
        )
    return pairs


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a markdown table, a CSV (commas, semicolons or tabs) or a workbook.

    Each column with "Dice" in its name is paired with the next one with "IoU" in its name; the first column names the
    rows. Pairs with a blank or a dash are left out.

    Raises:
        DataError: not readable, or no such columns.
    """
    is_markdown = path.suffix.lower() in (".md", ".markdown")
    header, rows = _markdown_cells(path) if is_markdown else _table_cells(path)

    # a Dice column belongs to the next IoU column
    columns, dice = [], None
    for i, name in enumerate(header):
        if DICE.search(name):
            dice = i
        elif IOU.search(name) and dice is not None:
            columns.append((dice, i))
            dice = None
    if not columns:
        raise DataError(
            f"{path}: no column called Dice that is followed by one called IoU; found {', '.join(header)}."
        )

    pairs = []
    for row in rows:
        for dice, iou in columns:
            words = {_without_markup(row[dice]).lower(), _without_markup(row[iou]).lower()}
            if not BLANK & words:
                where = f" ({header[dice].strip()})" if len(columns) > 1 else ""
                label = f"{_without_markup(row[0])}{where}" if dice else ""
                pairs.append(Pair(label, row[dice], row[iou]))
    return pairs


def pair_cells(pairs: Sequence[Pair]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of verdicts.

    Raises:
        DataError: a pair is not two numbers.
    """
    lines = []
    for pair in pairs:
        found = pair.check()
        line = [pair.label, _plain_number(pair.dice), _plain_number(pair.iou)]
        line += [f"{found.gap:+.3f}", f"{found.tolerance:.3f}", WORDS[found.verdict]]
        lines.append(line)
    return ["row", "dice", "iou", "gap, points", "rounding", "can be"], lines


def _without_markup(text: str) -> str:
    return DEVIATION.sub("", MARKUP.sub("", text)).strip()


def _plain_number(text: str) -> str:
    plain = _without_markup(text)
    if not NUMBER.fullmatch(plain):
        raise DataError(f"got {text.strip()!r}, expected a number such as 83.66 or 0.8366.")
    return plain


def _table_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    header, records = read_table(path)
    return header, [cells for _, cells in records]


def _markdown_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The first table of a page with a Dice column; short rows are padded."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    rows: list[list[str]] = []
    for line in text.splitlines():
        cells = [
            cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")
        ]
        if "|" not in line:
            if rows:
                break
        elif rows or any(DICE.search(cell) for cell in cells):
            rows.append(cells)

    if not rows:
        raise DataError(f"{path}: no markdown table with a column called Dice.")
    header = rows[0]
    body = [row for row in rows[1:] if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    return header, [row + [""] * (len(header) - len(row)) for row in body]
