"""Read CSV files and Excel workbooks as a header and numbered rows, and small JSON files."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textmask.errors import DataError, choose

# a spreadsheet program runs a cell that starts like this as a formula; tables that we write prefix it with '
FORMULA = re.compile(r"'*[=+\-@\t\r]")
MAX_TABLE_BYTES = 200_000_000
Records = list[tuple[int, list[str]]]
# how programs write a cell without a value
NO_VALUE = {"nan", "<na>", "#n/a", "nat", "null"}


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
    records = csv_records(path, delimiter)
    return next(records)[1], list(records)


def csv_records(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV one by one, as `read_csv` returns them; the first is the header, with the number 1.

    Raises:
        DataError: as `read_csv`, when the row at fault is reached.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV file.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            records = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(records, [])
            if not any(header):
                raise DataError(f"{path}: is empty; expected a header row.")
            yield 1, [name.strip() for name in header]

            for number, cells in enumerate(records, start=2):
                if any(cells):
                    # only such a row may hold an escaped cell
                    if "'" in "".join(cells):
                        cells = [_unescaped(cell) for cell in cells]
                    yield number, cells
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: is not UTF-8 (byte {_first_wrong_byte(path)}); save it as 'CSV UTF-8'."
        ) from None
    except (csv.Error, OSError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}).") from error


def _first_wrong_byte(path: Path) -> int:
    """Where a file stops to be UTF-8."""
    try:
        path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _split_header(records: list[list[str]]) -> tuple[list[str], Records]:
    body = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    return [name.strip() for name in records[0]], body


def _unescaped(cell: str) -> str:
    """Undo `safe_cell`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def without_value(cells: Sequence[str]) -> list[str]:
    """The cells of a row; a cell that means no value (NaN, NULL, #N/A) is empty."""
    if NO_VALUE.isdisjoint(map(str.lower, map(str.strip, cells))):
        return list(cells)
    return ["" if cell.strip().lower() in NO_VALUE else cell for cell in cells]


def read_xlsx(path: Path, sheet: str | None = None) -> tuple[list[str], Records]:
    """Read a sheet of a workbook without running formulas.

    Args:
        path: the file.
        sheet: name of the sheet; None takes the first.

    Returns:
        As `read_csv`.

    Raises:
        DataError: the file is not a workbook, or it unpacks to more than 200 MB (a zip bomb).
        ConfigError: there is no such sheet; the message lists the existing ones.
    """
    records = []
    with _workbook(path) as book:
        names = [found.title for found in book.worksheets]
        if sheet is not None:
            choose(f"sheet of {path.name}", sheet, names)
        for cells in book[sheet or names[0]].iter_rows(values_only=True):
            records.append(["" if cell is None else str(cell) for cell in cells])

    if not records or not any(records[0]):
        others = f" Other sheets: {', '.join(names)}; choose one with --sheet." if names[1:] else ""
        raise DataError(
            f"{path}: the sheet {sheet or names[0]!r} is empty; expected a header row.{others}"
        )
    return _split_header(records)


def sheet_headers(path: Path) -> dict[str, list[str]]:
    """The first row of each sheet of a workbook, by the name of the sheet.

    Raises:
        DataError: as `read_xlsx`.
    """
    found = {}
    with _workbook(path) as book:
        for sheet in book.worksheets:
            cells = next(sheet.iter_rows(max_row=1, values_only=True), ())
            found[sheet.title] = ["" if cell is None else str(cell).strip() for cell in cells]
    return found


@contextmanager
def _workbook(path: Path) -> Iterator[Any]:
    """An open workbook, closed at the end: read-only workbooks keep the file open."""
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

    try:
        if not book.worksheets:
            raise DataError(f"{path}: has no sheet with cells; expected a header row.")
        yield book
    finally:
        book.close()


def read_objects(path: Path) -> tuple[list[str], Records]:
    """Read JSON Lines, or a JSON list of flat objects, as a table: the keys are the columns.

    Of a list of strings the first is taken; a missing key is an empty cell.

    Returns:
        As `read_csv`; rows of JSON Lines have the number of their line, others count from 1.

    Raises:
        DataError: the file is unreadable, or it holds something else than objects.
    """
    items: list[tuple[int, object]] = []
    if path.suffix.lower() == ".json":
        content = read_json_records(path)
        if not isinstance(content, list):
            raise DataError(f"{path}: is not a JSON list; expected a list of objects, one per row.")
        items = list(enumerate(content, start=1))
    else:
        for number, line in _json_lines(path):
            try:
                items.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path} line {number}: is not JSON ({error}); expected one object per line."
                ) from error

    rows: list[tuple[int, dict[str, str]]] = []
    for number, item in items:
        if not isinstance(item, dict):
            raise DataError(
                f"{path} row {number}: is {type(item).__name__}; expected an object with an image and a text."
            )
        rows.append((number, {str(key): _json_cell(value) for key, value in item.items()}))
    header = list(dict.fromkeys(key for _, row in rows for key in row))
    if not header:
        raise DataError(f"{path}: is empty; expected one object per row.")
    return header, [(number, [row.get(key, "") for key in header]) for number, row in rows]


def _json_lines(path: Path) -> list[tuple[int, str]]:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path}: is larger than {MAX_TABLE_BYTES:,} bytes; split it.")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 JSON Lines ({error}).") from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _json_cell(value: object) -> str:
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def read_table(path: Path, sheet: str | None = None) -> tuple[list[str], Records]:
    """Read a table: CSV (separated by commas, semicolons or tabs), workbook, JSON Lines or JSON list of objects.

    Short rows are padded with empty cells, and cells that mean no value (NaN, NULL, #N/A) are empty.

    Args:
        path: the file.
        sheet: of a workbook; None takes the first.

    Returns:
        As `read_csv`.

    Raises:
        DataError: as `read_csv` and `read_xlsx`.
        ConfigError: as `read_xlsx`.
    """
    if path.suffix.lower() == ".xlsx":
        header, records = read_xlsx(path, sheet)
    elif path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        header, records = read_objects(path)
    elif path.suffix.lower() in (".tsv", ".tab"):
        header, records = read_csv(path, "\t")
    else:
        header, records = read_csv(path)
        if len(header) == 1 and (other := next((mark for mark in ";\t" if mark in header[0]), "")):
            header, records = read_csv(path, other)

    padded: Records = []
    for number, cells in records:
        padded.append((number, without_value(cells) + [""] * (len(header) - len(cells))))
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
