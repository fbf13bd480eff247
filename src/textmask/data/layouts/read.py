"""Reads a data set as it lies on disk, in any of the field's layouts, to a manifest."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from textmask.data.layouts.detect import LAYOUTS, LOOKED_FOR, LayoutSource, detect_in, native_tables
from textmask.data.layouts.entries import (
    LayoutEntry,
    LayoutOptions,
    Reader,
    read_folders,
    read_languidemedseg,
    read_lvit,
    read_madapter,
    read_medvlsm,
    read_semi_medref,
    read_sgseg,
)
from textmask.data.layouts.pairing import Kind, Tree, stem_of
from textmask.data.layouts.plain_csv import read_plain
from textmask.data.layouts.published import group_of, identify, known_laterality
from textmask.data.manifest import (
    SPLIT,
    TRUTH,
    Manifest,
    Row,
    read_manifest,
    text_problem,
    warn_about_texts,
)
from textmask.data.paths import Fence, path_problem
from textmask.errors import ConfigError, DataError, DataWarning, choose
from textmask.statement import Laterality

__all__ = ["LAYOUTS", "detect", "hold_out", "merge_split", "read_layout"]

READERS: dict[str, Reader] = {
    "csv": read_plain,
    "lvit": read_lvit,
    "languidemedseg": read_languidemedseg,
    "sgseg": read_sgseg,
    "medvlsm": read_medvlsm,
    "semi_medref_csv": read_semi_medref,
    "madapter": read_madapter,
    "folders": read_folders,
}
SHOWN = 10


def detect(path: str | Path) -> str:
    """Name of the layout that lies at `path`, one of `LAYOUTS`.

    Raises:
        DataError: none does; the message lists what was looked for.
    """
    return detect_in(LayoutSource.open(Path(path)))


def read_layout(
    path: str | Path,
    layout: str = "auto",
    *,
    text_column: str | None = None,
    split_column: str | None = None,
    laterality: Laterality | None = None,
) -> Manifest:
    """Read a data set from its folder or its table.

    Args:
        path: a folder, or a CSV, XLSX or JSON in it; paths in the manifest start from that folder.
        layout: one of `LAYOUTS`, or "auto".
        text_column: which sentence to take where a table has several ("text_madapter", "p6").
        split_column: which split to take where a table has several.
        laterality: whose left "left" is; without it the table's, else that of a measured published data set.

    Raises:
        DataError: nothing known lies there, or tables name files that do not exist (the first ten are listed).
        ConfigError: unknown layout or column.
    """
    source = LayoutSource.open(Path(path))
    if layout == "auto":
        layout = detect_in(source)
    choose("layout", layout, LAYOUTS)
    if layout == "manifest":
        if text_column is not None or split_column is not None:
            raise ConfigError(
                f"{path}: text_column and split_column do not apply to a native table."
            )
        manifest = read_manifest(
            source.tree.root / (native_tables(source) or source.top_csv() or ["manifest.csv"])[0]
        )
    else:
        entries, how = READERS[layout](source, LayoutOptions(text_column, split_column))
        if not entries:
            raise DataError(f"{path}: has no rows in the layout {layout!r}; {LOOKED_FOR}")
        manifest = _manifest(source, entries, layout, how)
    if laterality is not None:
        manifest = replace(
            manifest, rows=tuple(replace(row, laterality=laterality) for row in manifest.rows)
        )
    return manifest


def hold_out(
    manifest: Manifest,
    fraction: float = 0.1,
    seed: int = 0,
    source: str = "train",
    name: str = "valid",
) -> Manifest:
    """Move a seeded part of one split into a new one, whole groups at a time where rows name a group.

    Args:
        manifest: the data set.
        fraction: share of the rows of `source` to move, in (0, 1); groups are added while they fit.
        seed: of the draw.
        source: split to take from.
        name: split to make.

    Raises:
        ConfigError: the fraction is not in (0, 1), the split exists already, or all rows are one group.
    """
    rows = manifest.rows_of(source)
    if not 0 < fraction < 1:
        raise ConfigError(f"hold_out: fraction is {fraction}, expected a number between 0 and 1.")
    if name in manifest.splits:
        raise ConfigError(f"hold_out: there is a split {name!r} already; choose another name.")
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row.group, "" if row.group else row.image), []).append(row.image)
    if len(groups) < 2:
        raise ConfigError(
            f"hold_out: all {len(rows)} rows of {source!r} are one group; none can be moved."
        )
    wanted = max(1, round(fraction * len(rows)))
    names = sorted(groups)
    taken: set[str] = set()
    for index in np.random.default_rng(seed).permutation(len(names)):
        if len(taken) + len(groups[names[index]]) <= wanted:
            taken.update(groups[names[index]])
    if not taken:  # every group is larger than the share
        taken.update(groups[min(names, key=lambda group: len(groups[group]))])
    moved = (
        replace(row, split=name) if row.split == source and row.image in taken else row
        for row in manifest.rows
    )
    return replace(manifest, rows=tuple(moved))


def merge_split(manifest: Manifest, source: str = "valid", into: str = "train") -> Manifest:
    """Give all rows of one split to another: LViT's 24 + 6 pictures of MoNuSeg are the 30 that DuSSS trains on.

    What then chooses the checkpoint is part of train (`hold_out`) or the last epoch (`Stage.select`), never test.

    Raises:
        ConfigError: one of the two does not exist, or test would be trained on.
    """
    for split in (source, into):
        manifest.rows_of(split)
    if "test" in (source, into):
        raise ConfigError(
            f"merge_split: {source!r} into {into!r} mixes test with other rows; it is only for scoring."
        )
    moved = (replace(row, split=into) if row.split == source else row for row in manifest.rows)
    return replace(manifest, rows=tuple(moved))


@dataclass
class Pairing:
    """Looks up the files of entries and keeps what is missing."""

    tree: Tree
    total: int
    missing: dict[Kind, list[LayoutEntry]] = field(
        default_factory=lambda: {"image": [], "mask": []}
    )
    wrong: list[str] = field(default_factory=list)

    def find(
        self, kind: Kind, name: str, entry: LayoutEntry, splits: Sequence[str]
    ) -> tuple[str, str] | None:
        """(path, split) of a file of an entry; what cannot be found is noted."""
        if problem := path_problem(name.replace("\\", "/")):
            self.wrong.append(f"{entry.where}: {kind} {problem}")
            return None
        exact = posixpath.normpath(name)
        found = (
            (exact, splits[0]) if exact in self.tree.known else self.tree.find(kind, name, splits)
        )
        if found is None:
            self.missing[kind].append(entry)
        return found

    def row(self, entry: LayoutEntry) -> Row | None:
        """The row of an entry, None when a file is missing."""
        image = self.find("image", entry.name, entry, entry.splits)
        mask: tuple[str, str] | None = None
        wants_mask = entry.mask != "" and not (entry.mask is None and not self.tree.folders("mask"))
        if wants_mask and image is not None:
            mask = self.find("mask", entry.mask or entry.name, entry, (image[1],))
        if problem := text_problem(entry.text):
            self.wrong.append(f"{entry.where}: {problem}")
        if image is None or (wants_mask and mask is None):
            return None
        path = mask[0] if mask else None
        split = entry.becomes or image[1]
        if not SPLIT.fullmatch(split):
            self.wrong.append(
                f"{entry.where}: split {split!r}; expected train, valid, test or another name"
            )
        return Row(
            image[0],
            path,
            entry.text,
            split,
            entry.group,
            self._side(entry),
            self._labelled(entry, path),
        )

    def _side(self, entry: LayoutEntry) -> Laterality:
        try:
            return Laterality(entry.laterality.lower() or "unknown")
        except ValueError:
            self.wrong.append(
                f"{entry.where}: laterality {entry.laterality!r}; expected image, patient or unknown"
            )
            return Laterality.UNKNOWN

    def _labelled(self, entry: LayoutEntry, mask: str | None) -> bool:
        name = entry.labelled.lower()
        if name and (name not in TRUTH or (TRUTH[name] and mask is None)):
            self.wrong.append(
                f"{entry.where}: labelled {entry.labelled!r}; expected true (with a mask) or false"
            )
        return TRUTH.get(name, True) and mask is not None

    def raise_any(self, path: Path) -> None:
        """Raise what is missing or wrong.

        Raises:
            DataError: with the first names of each kind.
        """
        lines = _first_lines(self.wrong)
        for kind, entries in self.missing.items():
            if entries:
                names = ", ".join(f"{entry.name!r} ({entry.where})" for entry in entries[:SHOWN])
                more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
                what = "picture" if kind == "image" else "mask"
                lines.append(
                    f"{len(entries)} of {self.total} names have no {what}: {names}{more}; {self._where(kind)}"
                )
        if lines:
            raise DataError(f"{path}: " + "\n  ".join(lines))

    def _where(self, kind: Kind) -> str:
        folders = self.tree.folder_names(kind)
        if not folders:
            return f"no folder of {kind}s was found"
        return (
            f"looked in {', '.join(folders[:6])}, ignoring letter case, suffix and a leading mask_"
        )


def _first_lines(lines: list[str]) -> list[str]:
    return lines[:SHOWN] + ([f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])


def _manifest(source: LayoutSource, entries: list[LayoutEntry], layout: str, how: str) -> Manifest:
    """Pair entries with files and add what is known of the data set."""
    pairing = Pairing(source.tree, len(entries))
    rows: dict[str, Row] = {}
    for entry in entries:
        row = pairing.row(entry)
        if row is None:
            continue
        if (same := rows.get(row.image)) is None:
            rows[row.image] = row
        elif (
            same.text != row.text
        ):  # one workbook may lie in two folders; two sentences are a mistake
            pairing.wrong.append(
                f"{entry.where}: {row.image} has another sentence already: {same.text[:60]!r}"
            )
    fence = Fence(source.tree.root)
    paths = [path for row in rows.values() for path in (row.image, row.mask) if path]
    pairing.wrong += [problem for path in paths if (problem := fence.problem(path))]
    pairing.raise_any(source.path)
    if layout != "csv":
        _warn_unused(source, rows)
    warn_about_texts([row.text for row in rows.values()], source.path)
    return _with_known_facts(source, list(rows.values()), f"{layout}: {how}" if how else layout)


def _with_known_facts(source: LayoutSource, rows: list[Row], how: str) -> Manifest:
    """Fill in group and laterality from what is known of the data set."""
    folder = source.tree.root.resolve().name
    stems = [stem_of(row.image) for row in rows]
    data_set = identify(stems, [row.text for row in rows], folder)
    known = known_laterality(data_set)
    filled = tuple(
        replace(
            row,
            group=row.group or group_of(stem, data_set),
            laterality=known if row.laterality is Laterality.UNKNOWN else row.laterality,
        )
        for row, stem in zip(rows, stems, strict=True)
    )
    return Manifest(source.tree.root, filled, f"{data_set or folder} ({how})")


def _warn_unused(source: LayoutSource, rows: dict[str, Row]) -> None:
    """Warn of pictures without a sentence; copies that differ only in letter case are a known trap, not news."""
    used = {path.lower().rsplit(".", 1)[0] for path in rows}
    unused = [
        path for path in source.tree.of_kind("image") if path.lower().rsplit(".", 1)[0] not in used
    ]
    if unused:
        warnings.warn(
            f"{source.path}: {len(unused)} pictures have no sentence and are left out; the first: {unused[0]}.",
            DataWarning,
            stacklevel=4,
        )
