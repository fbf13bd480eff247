"""Read CSV files and Excel workbooks as a header and numbered rows, and small JSON files."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from textmask.errors import DataError

# a spreadsheet program runs a cell that starts like this as a formula; tables that we write prefix it with '
FORMULA = re.compile(r"'*[=+\-@\t\r]")
MAX_TABLE_BYTES = 200_000_000
Records = list[tuple[int, list[str]]]


def read_csv(path: Path, delimiter: str = ",") -> tuple[list[str], Records]:
    """Read a UTF-8 CSV, with or without byte-order mark.

    Args:
        path: the file.
        delimiter: between cells.

    Returns:
        The header, and the rows as (row number in the spreadsheet, cells); empty rows are left out.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or not a CSV.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.start}); save it as 'CSV UTF-8'."
        ) from error
    except (csv.Error, OSError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}).") from error
    if not records or not any(records[0]):
        raise DataError(f"{path}: is empty; expected a header row.")
    header, body = _split_header(records)
    return header, [(number, [_unescaped(cell) for cell in cells]) for number, cells in body]


def _split_header(records: list[list[str]]) -> tuple[list[str], Records]:
    body = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    return [name.strip() for name in records[0]], body


def _unescaped(cell: str) -> str:
    """Undo `safe_cell`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_xlsx(path: Path) -> tuple[list[str], Records]:
    """Read the first sheet of a workbook without running formulas.

    Returns:
        As `read_csv`.

    Raises:
        DataError: the file is not a workbook, or it unpacks to more than 200 MB (a zip bomb).
    """
    import openpyxl  # most tables are CSV files
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_TABLE_BYTES:
            raise DataError(
                f"{path}: unpacks to {unpacked:,} bytes, the limit is {MAX_TABLE_BYTES:,}; save it as CSV UTF-8."
            )
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as an Excel workbook ({error}); save it as CSV UTF-8."
        ) from error

    # read-only workbooks keep the file open
    records = []
    try:
        for cells in book.worksheets[0].iter_rows(values_only=True):
            records.append(["" if cell is None else str(cell) for cell in cells])
    finally:
        book.close()

    if not records or not any(records[0]):
        raise DataError(f"{path}: the first sheet is empty; expected a header row.")
    return _split_header(records)


def read_table(path: Path) -> tuple[list[str], Records]:
    """Read a CSV (separated by commas, semicolons or tabs) or a workbook; short rows are padded with empty cells.

    Returns:
        As `read_csv`.

    Raises:
        DataError: as `read_csv` and `read_xlsx`.
    """
    if path.suffix.lower() == ".xlsx":
        header, records = read_xlsx(path)
    else:
        header, records = read_csv(path)
        if len(header) == 1 and (other := next((mark for mark in ";\t" if mark in header[0]), "")):
            header, records = read_csv(path, other)

    padded = [(number, cells + [""] * (len(header) - len(cells))) for number, cells in records]
    return header, padded


def read_json_records(path: Path) -> object:
    """Read a JSON file of a user, with or without byte-order mark; any type at the top level.

    Raises:
        DataError: the file is unreadable, not JSON, or larger than 200 MB.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(
                f"{path}: has {path.stat().st_size:,} bytes; the limit is {MAX_TABLE_BYTES:,}."
            )
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error


def column_of(header: Sequence[str], names: Sequence[str]) -> str | None:
    """The first column that has one of `names`, ignoring case; None if there is none."""
    lower = {column.lower(): column for column in reversed(header)}
    return next((lower[name] for name in names if name in lower), None)


def safe_cell(text: str) -> str:
    """Escape a cell so that a spreadsheet program does not run it as a formula."""
    return f"'{text}" if FORMULA.match(text) else text
