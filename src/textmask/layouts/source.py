"""One data set on disk: the files below a folder, and its tables, each read once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from textmask.data.label_maps import CLASS_NAMES, VALUE_NAMES
from textmask.errors import ConfigError, DataError
from textmask.io.spreadsheets import Records, column_of, read_json_records, read_table
from textmask.layouts.choice import TableChoice
from textmask.layouts.pairing import TABLE_SUFFIXES, Tree

IMAGE_NAMES = (
    "image", "img_name", "image_path", "image_name", "img", "filename", "file", "file_name", "image_file", "img_path",
)  # fmt: skip
MASK_NAMES = ("mask", "mask_name", "mask_path", "mask_file_name", "mask_file")
TEXT_NAMES = ("description", "text", "caption", "prompt", "sentence", "report")
SPLIT_NAMES = ("split", "subset")
SHOWN_TABLES = 5


@dataclass(frozen=True)
class LayoutSource:
    """One data set on disk, scanned once, each table read once.

    Attributes:
        path: the folder or table that the user named.
        tree: the files below the folder.
        names: the tables to consider: the named one, or all below the folder.
        choice: the sheet and the columns that the user chose.
    """

    path: Path
    tree: Tree
    names: tuple[str, ...]
    choice: TableChoice = field(default_factory=TableChoice)
    _read: dict[str, object] = field(default_factory=dict, repr=False, compare=False)
    _stored: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, choice: TableChoice | None = None) -> LayoutSource:
        """Scan a folder, or the folder of a table.

        Raises:
            DataError: `path` does not exist, or is a file but not a table.
            ConfigError: a sheet or column was chosen that no table has.
        """
        source = cls._scanned(path, choice or TableChoice())
        source.check_choice()
        return source

    @classmethod
    def _scanned(cls, path: Path, choice: TableChoice) -> LayoutSource:
        if path.is_file():
            if path.suffix.lower() not in (*TABLE_SUFFIXES, ".txt"):
                raise DataError(
                    f"{path}: is not a table; name the folder of a data set or its table "
                    f"({', '.join(TABLE_SUFFIXES)}, or .txt with tabs)."
                )
            return cls(path, Tree.scan(path.parent), (path.name,), choice)
        if not path.is_dir():
            raise DataError(
                f"{path}: no such file or folder. Name the folder of a data set or its table."
            )
        tree = Tree.scan(path)
        texts = [file.name for file in sorted(path.glob("*.[tT][xX][tT]")) if is_text_table(file)]
        tree = replace(tree, tables=tuple(sorted((*tree.tables, *texts))))
        return cls(path, tree, tree.tables, choice)

    def check_choice(self) -> None:
        """Check that the chosen sheet and columns exist.

        Raises:
            ConfigError: there is no workbook, or no table has a chosen column.
        """
        if self.choice.sheet and not self.named(".xlsx"):
            raise ConfigError(
                f"{self.path}: --sheet {self.choice.sheet!r} applies to Excel workbooks (.xlsx), and there is none."
            )
        if not self.choice.columns:
            return
        headers = {}
        for name in self.names:
            self.header(name)
            headers[name] = self._stored.get(name, [])
        for column, usual in self.choice.columns.items():
            if not any(column in header for header in headers.values()):
                tables = [
                    f"{name} has {', '.join(header[:12])}"
                    for name, header in headers.items()
                    if header
                ]
                raise ConfigError(
                    f"{self.path}: no table has the column {column!r} (--{usual}-column). "
                    + ("; ".join(tables[:SHOWN_TABLES]) + "." if tables else "There is no table.")
                )

    def named(self, suffix: str) -> list[str]:
        """Tables of one suffix."""
        return [name for name in self.names if name.lower().endswith(suffix)]

    def top_xlsx(self) -> list[str]:
        """Workbooks in the folder itself."""
        return [name for name in self.named(".xlsx") if "/" not in name]

    def top_csv(self) -> list[str]:
        """CSVs in the folder itself; CSVs in sub-folders belong to folder layouts."""
        return [name for name in self.named(".csv") if "/" not in name]

    def top_others(self) -> list[str]:
        """Tables in the folder itself that are neither CSV files nor workbooks."""
        found = []
        for name in self.names:
            lower = name.lower()
            flat = not lower.endswith(".json") or is_flat_list(self.content(name))
            if "/" not in name and flat and not lower.endswith((".csv", ".xlsx")):
                found.append(name)
        return found

    def table(self, name: str) -> tuple[list[str], Records]:
        """Header and rows of a table; the chosen columns have their usual names."""
        if name not in self._read:
            header, records = read_table(self.tree.root / name, self.choice.sheet)
            self._stored[name] = header
            self._read[name] = (self.choice.usual_names(header), records)
        return self._read[name]  # type: ignore[return-value]

    def rows(self, name: str) -> tuple[list[str], Records]:
        """Like `table`, and check that no row is longer than the header.

        Raises:
            DataError: a row is longer, e.g. because of an unquoted comma in a prompt, which shifts all later cells.
        """
        header, records = self.table(name)
        for number, cells in records:
            if len(cells) > len(header):
                got = f"{len(cells)} cells, the header has {len(header)}"
                raise DataError(f"{name} row {number}: {got}; quote texts that contain commas.")
        return header, records

    def json(self, name: str) -> object:
        """Content of a JSON file."""
        key = f"{name} as JSON"
        if key not in self._read:
            self._read[key] = read_json_records(self.tree.root / name)
        return self._read[key]

    def has_tables(self) -> bool:
        """Whether there is any table but lists of classes; a table always says more than folder names."""
        return any(not _is_class_list(self.header(name)) for name in self.names)

    def header(self, name: str) -> list[str]:
        """Column names; empty for a table that cannot be read, unless the user named it."""
        try:
            return self.table(name)[0]
        except DataError:
            if self.path.is_file():
                raise
            return []

    def content(self, name: str) -> object:
        """Content of a JSON file; None if it cannot be read, unless the user named it."""
        try:
            return self.json(name)
        except DataError:
            if self.path.is_file():
                raise
            return None


def is_text_table(path: Path) -> bool:
    """Whether a .txt file begins with a header that names an image column, and not with prose."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline(10_000)
    except (OSError, UnicodeDecodeError):
        return False
    for mark in "\t;,":
        cells = [cell.strip() for cell in head.split(mark)]
        if len(cells) > 1 and column_of(cells, IMAGE_NAMES):
            return True
    return False


def _is_class_list(header: list[str]) -> bool:
    """Whether a table names the values of label maps, and no images."""
    lists = column_of(header, VALUE_NAMES) and column_of(header, CLASS_NAMES)
    return bool(lists) and column_of(header, IMAGE_NAMES) is None


def is_flat_list(content: object) -> bool:
    """Whether JSON is a list of objects of strings and numbers, which is a table."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and not any(isinstance(v, dict) for v in first.values())
