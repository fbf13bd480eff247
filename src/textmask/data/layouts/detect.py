"""Which layout lies on disk: a data set is scanned once, and its tables' headers decide."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textmask.data.layouts.pairing import Tree, named_kind
from textmask.data.manifest import COLUMNS, REQUIRED
from textmask.errors import DataError
from textmask.io.spreadsheets import Records, column_of, read_json_records, read_table

IMAGE_NAMES = ("image", "img_name", "image_path", "image_name", "img", "filename", "file")
MASK_NAMES = ("mask", "mask_name", "mask_path")
TEXT_NAMES = ("description", "text", "caption", "prompt", "sentence", "report")
SPLIT_NAMES = ("split", "subset")
PROMPT_FOLDERS = ("prompt", "prompts")

LOOKED_FOR = """looked for
  manifest         a CSV with the columns image, text, split (and mask, group, laterality, labelled)
  csv              a CSV that names an image column and a mask or split column
  lvit             *_text.xlsx (Image, Description) beside {Train,Val,Test}_Folder/{img,labelcol}
  languidemedseg   prompt/{train,test}.csv (Image, Description) beside {Train,Test}/{Images,GTs}
  sgseg            a JSON object train/valid/test of entries with image_path, caption
  medvlsm          anns/{train,val,test}.json, a list of entries with img_name, mask_name, prompts
  semi_medref_csv  {Train,Val,Test}_text*.csv (Image, text)
  madapter         *_{train,test}.csv (Image, Description)
  folders          no table: {images,img,...} beside {masks,labelcol,lesion mask,...}, also below Train/ and Test/"""


@dataclass(frozen=True)
class LayoutSource:
    """One data set on disk, scanned once, each table read once.

    Attributes:
        path: what the user named, a folder or a table.
        tree: the files below its folder.
        names: the tables to consider: the named one, or all below the folder.
    """

    path: Path
    tree: Tree
    names: tuple[str, ...]
    _read: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> LayoutSource:
        """Scan a folder, or the folder of a table.

        Raises:
            DataError: there is nothing at `path`, or a file that is no table.
        """
        if path.is_file():
            if path.suffix.lower() not in (".csv", ".xlsx", ".json"):
                raise DataError(
                    f"{path}: is no table; name a data set's folder or its CSV, XLSX or JSON."
                )
            return cls(path, Tree.scan(path.parent), (path.name,))
        if not path.is_dir():
            raise DataError(
                f"{path}: no such file or folder. Name a data set's folder or its table."
            )
        tree = Tree.scan(path)
        return cls(path, tree, tree.tables)

    def named(self, suffix: str) -> list[str]:
        """Tables of one suffix."""
        return [name for name in self.names if name.lower().endswith(suffix)]

    def top_csv(self) -> list[str]:
        """CSVs in the folder itself; those further down belong to folder layouts."""
        return [name for name in self.named(".csv") if "/" not in name]

    def table(self, name: str) -> tuple[list[str], Records]:
        """Header and rows of a CSV or workbook."""
        if name not in self._read:
            self._read[name] = read_table(self.tree.root / name)
        return self._read[name]  # type: ignore[return-value]

    def rows(self, name: str) -> tuple[list[str], Records]:
        """Like `table`, for reading the rows: none may be longer than the header.

        Raises:
            DataError: a row is, which an unquoted comma in a sentence does, shifting all cells behind it.
        """
        header, records = self.table(name)
        for number, cells in records:
            if len(cells) > len(header):
                got = f"{len(cells)} cells, the header has {len(header)}"
                raise DataError(f"{name} row {number}: {got}; quote texts that hold commas.")
        return header, records

    def json(self, name: str) -> object:
        """Content of a JSON file."""
        if name not in self._read:
            self._read[name] = read_json_records(self.tree.root / name)
        return self._read[name]

    def header(self, name: str) -> list[str]:
        """Column names; none for a table that cannot be read, unless the user named it."""
        try:
            return self.table(name)[0]
        except DataError:
            if self.path.is_file():
                raise
            return []

    def content(self, name: str) -> object:
        """Like `header`, for JSON."""
        try:
            return self.json(name)
        except DataError:
            if self.path.is_file():
                raise
            return None


def detect_in(source: LayoutSource) -> str:
    """Name of the layout that lies at a source.

    Raises:
        DataError: none does; the message lists what was looked for.
    """
    for layout, test in TESTS.items():
        if test(source):
            return layout
    folders = sorted({name.split("/")[0] for name in source.names if "/" in name})
    hint = (
        f"\nThere are tables below {', '.join(folders[:5])}: name one of these folders."
        if folders
        else ""
    )
    raise DataError(f"{source.path}: no layout recognised; {LOOKED_FOR}{hint}")


def native_tables(source: LayoutSource) -> list[str]:
    """Tables in our own format; one that is called manifest.csv always counts, so that its errors are told."""
    names = source.top_csv()
    if "manifest.csv" in names:
        return ["manifest.csv"]
    return [name for name in names if set(REQUIRED) <= set(source.header(name)) <= set(COLUMNS)]


def plain_tables(source: LayoutSource) -> list[str]:
    """CSVs that name an image, and a mask or a split."""

    def fits(header: list[str]) -> bool:
        splits = any(name.lower().startswith("split_") for name in header)
        more = splits or column_of(header, MASK_NAMES) or column_of(header, SPLIT_NAMES)
        return column_of(header, IMAGE_NAMES) is not None and bool(more)

    return [name for name in source.top_csv() if fits(source.header(name))]


def text_tables(
    source: LayoutSource, suffix: str = ".csv", texts: Sequence[str] = TEXT_NAMES
) -> list[str]:
    """Tables with an image column and one of the given text columns."""

    def fits(header: list[str]) -> bool:
        return column_of(header, IMAGE_NAMES) is not None and column_of(header, texts) is not None

    return [name for name in source.named(suffix) if fits(source.header(name))]


def prompt_tables(source: LayoutSource) -> list[str]:
    """Text CSVs in a folder called prompt."""
    return [
        name
        for name in text_tables(source)
        if any(part.lower() in PROMPT_FOLDERS for part in name.split("/"))
    ]


def caption_jsons(source: LayoutSource) -> list[str]:
    """JSON objects split -> entries with a caption."""

    def fits(content: object) -> bool:
        parts = list(content.values()) if isinstance(content, dict) else []
        first = next((part[0] for part in parts if isinstance(part, list) and part), None)
        return isinstance(first, dict) and {"image_path", "caption"} <= set(first)

    return [name for name in source.named(".json") if fits(source.content(name))]


def prompt_jsons(source: LayoutSource) -> list[str]:
    """JSON lists of entries with an image name and prompts."""

    def fits(content: object) -> bool:
        first = content[0] if isinstance(content, list) and content else None
        return isinstance(first, dict) and {"img_name", "prompts"} <= set(first)

    return [name for name in source.named(".json") if fits(source.content(name))]


def mask_folders(source: LayoutSource) -> list[str]:
    """Folders of masks beside folders of pictures, where no table at all says how they belong together."""
    if source.names or not any(named_kind(path) == "image" for path in source.tree.pictures):
        return []
    return sorted(
        {posixpath.dirname(path) for path in source.tree.pictures if named_kind(path) == "mask"}
    )


TESTS: dict[str, Callable[[LayoutSource], list[str]]] = {
    "manifest": native_tables,
    "csv": plain_tables,
    "lvit": lambda source: text_tables(source, ".xlsx"),
    "languidemedseg": prompt_tables,
    "sgseg": caption_jsons,
    "medvlsm": prompt_jsons,
    "semi_medref_csv": lambda source: text_tables(source, texts=("text",)),
    "madapter": lambda source: text_tables(source, texts=("description",)),
    "folders": mask_folders,
}
LAYOUTS = tuple(TESTS)
