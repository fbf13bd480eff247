"""The items of a batch: one image and one prompt each."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from textmask.data.cache_folder import UNPACKED
from textmask.data.shard_files import read_shards, shard_folder
from textmask.errors import DataError, choose
from textmask.inference.folder_images import images_below
from textmask.inference.laterality import CONVENTIONS
from textmask.io.orientation import VIEWS
from textmask.io.spreadsheets import column_of, read_json_records, read_table
from textmask.layouts.pairing import TABLE_SUFFIXES
from textmask.statement import Laterality
from textmask.text.findings import read_findings

# of a file name: with the longest ending of a result it stays below the 255 bytes of a file system
MAX_LETTERS, MAX_BYTES = 60, 180
# columns of a jobs file; the first two are required
COLUMNS = ("image", "text", "name", "laterality", "view", "index")


@dataclass(frozen=True)
class BatchItem:
    """One image and one prompt.

    Attributes:
        image: path of the image.
        text: the prompt.
        name: start of the names of its output files; "" derives it.
        laterality: see `Opened.segment`.
        view: see `Predictor.open`.
        index: slice or frame, see `load_image`.
        shards: folder of the shards that `image` was unpacked from; another machine unpacks them again.
    """

    image: Path
    text: str
    name: str = ""
    laterality: str | None = None
    view: str | None = None
    index: int | None = None
    shards: Path | None = None

    @property
    def stem(self) -> str:
        """Start of the file names: short, safe, and different for different images, prompts or options.

        Letters and digits of every script are kept, so that the images of any language can be told apart.
        """
        words = readable_name(self.name or f"{self.image.stem} {self.text}")
        shown = words[:MAX_LETTERS].encode()[:MAX_BYTES].decode(errors="ignore")
        shown = shown.strip("-") or "picture"

        # only the hash distinguishes "lung?" from "lung!", and two items of one name
        where = str(self.image)
        if self.shards is not None:  # the same name with any cache folder
            where = where.rpartition(f"/{UNPACKED}/")[2]
        parts = [where, self.text]
        options = [self.laterality, self.view, self.index]
        if options != [None] * 3:
            parts += map(str, options)
        digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:10]
        return f"{shown}-{digest}"

    @property
    def shown(self) -> tuple[Path, int | None, str | None]:
        """What has to be opened for it."""
        return self.image, self.index, self.view


def read_jobs(
    source: Path,
    sentence: str | None,
    *,
    laterality: str | None = None,
    view: str | None = None,
    index: int | None = None,
) -> list[BatchItem]:
    """Items of an image, a folder of images (one prompt for all), or a table of (image, text): csv, json, tsv, xlsx ...

    A folder of shards contains the prompts of its rows; a prompt replaces them.

    Hidden files, masks and results of an earlier prediction in a folder are ignored, see `images_below`. Paths in a
    jobs file are relative to its folder; its columns `laterality`, `view` and `index` replace the arguments of the same
    names per row.

    Args:
        source: image, folder, or jobs file.
        sentence: the prompt; None for a jobs file, which contains the prompts.
        laterality: convention of the prompts: image, patient or unknown.
        view: of the images, a name of `io.orientation.VIEWS`.
        index: slice or frame of the images.

    Raises:
        DataError: nothing to do, no prompt, a prompt too many, or a jobs file without the two columns.
        ConfigError: an unknown convention or view.
    """
    # what the arguments say holds for every item that does not say otherwise
    common = BatchItem(source, "", "", laterality, view, index)
    if shard_folder(source) is not None:
        items = _shard_items(source, sentence, common)
    elif source.is_dir():
        found = [replace(common, image=path) for path in images_below(source)]
        items = [replace(item, text=_required(sentence, source)) for item in found]
    elif not source.exists():
        raise DataError(
            f"{source} does not exist. Give an image, a folder, or a jobs file (csv, json or another table)."
        )
    elif source.suffix.lower() not in TABLE_SUFFIXES:
        items = [replace(common, text=_required(sentence, source))]
    elif sentence is not None:
        raise DataError(f"{source} contains its own prompts; omit {sentence[:80]!r}.")
    else:
        read = _read_json if source.suffix.lower() == ".json" else _read_rows
        items = [_item(source, where, row, common) for where, row in read(source)]

    if not items:
        raise DataError(f"{source} contains no items. Add a row with an image and a text.")

    # wrong words are answered before the first image is opened
    for item in items:
        if item.laterality is not None:
            choose("laterality", item.laterality, CONVENTIONS)
        if item.view is not None:
            choose("view", item.view, list(VIEWS))
    return items


def _shard_items(source: Path, sentence: str | None, common: BatchItem) -> list[BatchItem]:
    """An item per row, or with a prompt one per image."""
    manifest = read_shards(source)
    items: dict[BatchItem, None] = {}
    for row in manifest.rows:
        item = replace(common, image=manifest.image_path(row), shards=manifest.shards)
        if sentence is not None:
            item = replace(item, text=sentence)
        else:
            known = row.laterality is not Laterality.UNKNOWN
            side = row.laterality.value if known else common.laterality
            item = replace(item, text=row.text, laterality=side)
        items[item] = None
    return list(items)


def split_reports(jobs: Sequence[BatchItem]) -> tuple[list[BatchItem], list[str]]:
    """One item per finding that the texts of `jobs` (reports) name, and one note per report."""
    items: list[BatchItem] = []
    notes: list[str] = []
    for job in jobs:
        found = read_findings(job.text)
        items += [replace(job, text=finding) for finding in found.named]
        denied = f"; denied: {'; '.join(found.denied)}" if found.denied else ""
        skipped = f"; not read: {', '.join(found.skipped)}" if found.skipped else ""
        notes.append(f"{job.image.name}: {len(found.named)} findings with a place{denied}{skipped}")
    return items, notes


def readable_name(text: str) -> str:
    """Lower-case letters and digits of any script; hyphens for everything else."""
    plain = unicodedata.normalize("NFC", text).lower()
    # signs that are written onto a letter belong to it, as in Hindi or Thai
    kept = [c if c.isalnum() or unicodedata.category(c)[0] == "M" else "-" for c in plain]
    return re.sub("-+", "-", "".join(kept)).strip("-")


def _read_rows(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    # columns may have any order and letter case
    header, records = read_table(source)
    columns = {key: column for key in COLUMNS if (column := column_of(header, [key]))}
    if not {"image", "text"} <= columns.keys():
        optional = ", ".join(COLUMNS[2:])
        raise DataError(
            f"{source}: expected the columns image and text (optional: {optional}), got {', '.join(header)}."
        )

    rows: list[tuple[str, Mapping[str, object]]] = []
    for number, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{source} row {number}: {len(cells)} cells, the header has {len(header)}; quote commas."
            )
        named = dict(zip(header, cells, strict=True))
        row = {key: named[column] for key, column in columns.items()}
        rows.append((f"row {number}", row))
    return rows


def _read_json(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    content = read_json_records(source)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(
            f'{source}: expected a list like [{{"image": "image.png", "text": "lower left lung"}}].'
        )
    return [(f"item {number}", row) for number, row in enumerate(content, start=1)]


def _item(source: Path, where: str, row: Mapping[str, object], common: BatchItem) -> BatchItem:
    """The item of a row, after checking that each cell has the right type."""
    image, text, name = row.get("image"), row.get("text"), row.get("name") or ""
    if not isinstance(image, str) or not image.strip() or "\0" in image:
        raise DataError(f"{source} {where}: image is {image!r}, expected the path of an image.")
    if not isinstance(text, str) or not isinstance(name, str):
        raise DataError(f"{source} {where}: text is {text!r} and name {name!r}, expected texts.")

    laterality, view = row.get("laterality") or None, row.get("view") or None
    if not isinstance(laterality, str | None) or not isinstance(view, str | None):
        raise DataError(
            f"{source} {where}: laterality is {laterality!r} and view {view!r}, expected words."
        )
    # an empty cell is no index, the number 0 is one
    index = None if row.get("index") in (None, "") else row["index"]
    if index is not None and not str(index).strip().isdecimal():
        raise DataError(
            f"{source} {where}: index is {index!r}, expected the number of a slice or frame."
        )
    # a table of Windows separates folders with backslashes, which are letters elsewhere
    path = source.parent / image.strip()
    if "\\" in image and not path.exists():
        path = source.parent / image.strip().replace("\\", "/")
    return BatchItem(
        path,
        text,
        name,
        laterality.strip() if laterality else common.laterality,
        view.strip() if view else common.view,
        common.index if index is None else int(str(index)),
    )


def _required(sentence: str | None, source: Path) -> str:
    if sentence is None:
        raise DataError(
            f'{source} needs a prompt: textmask predict RUN {source} "lower left lung" --out DIR.'
        )
    return sentence
