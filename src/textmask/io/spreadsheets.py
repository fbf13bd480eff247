"""Tables as people keep them: CSV and Excel workbooks, read to a header and numbered rows."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from textmask.errors import DataError

# a spreadsheet runs a cell that starts like this as a formula; our own tables prefix it with '
FORMULA = re.compile(r"'*[=+\-@\t\r]")
MAX_TABLE_BYTES = 200_000_000
Records = list[tuple[int, list[str]]]


def read_csv(path: Path, delimiter: str = ",") -> tuple[list[str], Records]:
    """Header and (spreadsheet row number, cells) of a UTF-8 CSV, with or without byte-order mark; empty rows left out.

    Raises:
        DataError: missing, empty, not UTF-8, or not a CSV.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV table.")
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
    body = [
        (n, [_unescaped(c) for c in cells])
        for n, cells in enumerate(records[1:], start=2)
        if any(cells)
    ]
    return [name.strip() for name in records[0]], body


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_xlsx(path: Path) -> tuple[list[str], Records]:
    """Header and (row number, cells) of the first sheet of a workbook, formulas not run; empty rows left out.

    Raises:
        DataError: no workbook, or one that unpacks to more than 200 MB (a zip bomb).
    """
    import openpyxl  # most tables are CSV files
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_TABLE_BYTES:
            raise DataError(
                f"{path}: unpacks to {unpacked:,} bytes, at most {MAX_TABLE_BYTES:,}; save it as CSV UTF-8."
            )
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as an Excel workbook ({error}); save it as CSV UTF-8."
        ) from error
    try:
        sheet = book.worksheets[0]
        records = [
            ["" if cell is None else str(cell) for cell in cells]
            for cells in sheet.iter_rows(values_only=True)
        ]
    finally:
        book.close()
    if not records or not any(records[0]):
        raise DataError(f"{path}: the first sheet is empty; expected a header row.")
    body = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    return [name.strip() for name in records[0]], body


def read_table(path: Path) -> tuple[list[str], Records]:
    """Header and rows of a CSV (separated by commas, semicolons or tabs) or of a workbook; short rows are filled up.

    Raises:
        DataError: as `read_csv` and `read_xlsx`.
    """
    if path.suffix.lower() == ".xlsx":
        header, records = read_xlsx(path)
    else:
        header, records = read_csv(path)
        if len(header) == 1 and (other := next((mark for mark in ";\t" if mark in header[0]), "")):
            header, records = read_csv(path, other)
    return header, [
        (number, cells + [""] * (len(header) - len(cells))) for number, cells in records
    ]


def read_json_records(path: Path) -> object:
    """Content of a JSON file, with or without byte-order mark.

    Raises:
        DataError: not readable, not JSON, or larger than 200 MB.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(
                f"{path}: has {path.stat().st_size:,} bytes, at most {MAX_TABLE_BYTES:,}."
            )
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error


def column_of(header: Sequence[str], names: Sequence[str]) -> str | None:
    """The first column that goes by one of `names`, letter case ignored."""
    lower = {column.lower(): column for column in reversed(header)}
    return next((lower[name] for name in names if name in lower), None)


def safe_cell(text: str) -> str:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if FORMULA.match(text) else text
