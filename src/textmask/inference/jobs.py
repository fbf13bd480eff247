"""What a batch is asked: one item per image and prompt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from textmask.errors import DataError, choose
from textmask.inference.laterality import CONVENTIONS
from textmask.io.orientation import VIEWS
from textmask.io.spreadsheets import column_of, read_json_records, read_table
from textmask.text.findings import read_findings

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", *NIFTI)
RESULTS = (
    ".mask.png",
    ".mask.nii.gz",
    ".overlay.png",
    ".probability.png",
    ".explain.png",
)  # never read as pictures
COLUMNS = (
    "image",
    "text",
    "name",
    "laterality",
    "view",
    "index",
)  # of a jobs file; the first two are needed


@dataclass(frozen=True)
class BatchItem:
    """One picture and one sentence; `name` is the start of its output files, "" derives it.

    `laterality`, `view` and `index` are as `Opened.segment`, `Predictor.open` and `load_image` take them.
    """

    image: Path
    text: str
    name: str = ""
    laterality: str | None = None
    view: str | None = None
    index: int | None = None

    @property
    def stem(self) -> str:
        """File-name start that is short, safe and different for different pictures, sentences or ways to ask."""
        words = re.sub(r"[^a-z0-9]+", "-", (self.name or f"{self.image.stem} {self.text}").lower())
        # the hash alone tells "lung?" from "lung!", and two jobs of one name apart
        how = [self.laterality, self.view, self.index]
        parts = [
            str(self.image),
            self.text,
            *([] if how == [None] * 3 else [str(part) for part in how]),
        ]
        digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:10]
        return f"{words.strip('-')[:60].strip('-') or 'picture'}-{digest}"

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
    """Jobs of a picture, a folder of pictures (one sentence for all), or a csv/json file of (image, text).

    Hidden files and results of an earlier prediction are left out of a folder. Paths in a jobs file start from its
    folder; its columns `laterality`, `view` and `index` say for a picture what the arguments say for all others.

    Raises:
        DataError: nothing to do, no sentence, one too many, or a jobs file without the two columns.
        ConfigError: an unknown convention or view.
    """
    common = BatchItem(source, "", "", laterality, view, index)
    if source.is_dir():
        found = (
            path
            for path in source.rglob("*")
            if path.name.lower().endswith(PICTURES) and path.is_file()
        )
        images = sorted(
            path
            for path in found
            if not path.name.startswith(".") and not path.name.endswith(RESULTS)
        )
        if not images:
            raise DataError(f"{source} holds no picture ({', '.join(PICTURES)}).")
        jobs = [replace(common, image=path, text=_needed(sentence, source)) for path in images]
    elif not source.exists():
        raise DataError(
            f"{source} does not exist. Give a picture, a folder, or a jobs file (csv or json)."
        )
    elif source.suffix.lower() not in (".csv", ".json"):
        jobs = [replace(common, text=_needed(sentence, source))]
    elif sentence is not None:
        raise DataError(f"{source} brings its own sentences; leave {sentence[:80]!r} out.")
    else:
        items = _json_items(source) if source.suffix.lower() == ".json" else _csv_items(source)
        jobs = [_job(source, where, item, common) for where, item in items]
    if not jobs:
        raise DataError(f"{source} holds no job.")
    for job in jobs:
        if job.laterality is not None:
            choose("laterality", job.laterality, CONVENTIONS)
        if job.view is not None:
            choose("view", job.view, list(VIEWS))
    return jobs


def split_reports(jobs: Sequence[BatchItem]) -> tuple[list[BatchItem], list[str]]:
    """A job for each finding that the texts of `jobs` (reports) name, and what is to be said of each report."""
    made: list[BatchItem] = []
    notes: list[str] = []
    for job in jobs:
        found = read_findings(job.text)
        made += [replace(job, text=sentence) for sentence in found.named]
        denied = f"; denied: {'; '.join(found.denied)}" if found.denied else ""
        notes.append(f"{job.image.name}: {len(found.named)} findings with a place{denied}")
    return made, notes


def _csv_items(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    header, records = read_table(source)
    columns = {key: column for key in COLUMNS if (column := column_of(header, [key]))}
    if not {"image", "text"} <= columns.keys():
        further = ", ".join(COLUMNS[2:])
        raise DataError(
            f"{source}: expected columns image and text (and {further} or not), got {', '.join(header)}."
        )
    items: list[tuple[str, Mapping[str, object]]] = []
    for number, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{source} row {number}: {len(cells)} cells, the header has {len(header)}; quote commas."
            )
        row = dict(zip(header, cells, strict=True))
        items.append((f"row {number}", {key: row[column] for key, column in columns.items()}))
    return items


def _json_items(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    content = read_json_records(source)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(
            f'{source}: expected a list like [{{"image": "film.png", "text": "lower left lung"}}].'
        )
    return [(f"item {number}", item) for number, item in enumerate(content, start=1)]


def _job(source: Path, where: str, item: Mapping[str, object], common: BatchItem) -> BatchItem:
    image, text, name = item.get("image"), item.get("text"), item.get("name") or ""
    if not isinstance(image, str) or not image.strip() or "\0" in image:
        raise DataError(f"{source} {where}: image is {image!r}, expected the path of a picture.")
    if not isinstance(text, str) or not isinstance(name, str):
        raise DataError(f"{source} {where}: text is {text!r} and name {name!r}, expected texts.")
    laterality, view, index = (item.get(key) or None for key in COLUMNS[3:])
    index = item.get("index") if item.get("index") == 0 else index
    if not isinstance(laterality, str | None) or not isinstance(view, str | None):
        raise DataError(
            f"{source} {where}: laterality is {laterality!r} and view {view!r}, expected words."
        )
    if index is not None and not str(index).strip().isdecimal():
        raise DataError(
            f"{source} {where}: index is {index!r}, expected the number of a slice or frame."
        )
    return BatchItem(
        source.parent / image.strip(),
        text,
        name,
        laterality.strip() if laterality else common.laterality,
        view.strip() if view else common.view,
        common.index if index is None else int(str(index)),
    )


def _needed(sentence: str | None, source: Path) -> str:
    if sentence is None:
        raise DataError(
            f'{source} needs a sentence: textmask predict RUN {source} "lower left lung" --out DIR.'
        )
    return sentence
