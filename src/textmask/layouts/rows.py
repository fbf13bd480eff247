"""Turns the entries of a layout into manifest rows by finding the files that they name."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from textmask.data.manifest import SPLIT, Row
from textmask.data.manifest_cells import TRUTH
from textmask.data.manifest_checks import SHOWN, text_problem
from textmask.data.mask_sources import is_mask_source
from textmask.errors import DataError
from textmask.io.array_files import has_mask_array, holds_both
from textmask.io.paths import path_problem
from textmask.layouts.entries import LayoutEntry
from textmask.layouts.pairing import Kind, Tree, split_of
from textmask.statement import Laterality


@dataclass
class Pairing:
    """Looks up the files of entries and collects problems.

    Attributes:
        tree: the files of the data set.
        total: number of entries.
        missing: entries without a file, for each kind of file.
        wrong: other problems, as messages.
    """

    tree: Tree
    total: int
    missing: dict[Kind, list[LayoutEntry]] = field(
        default_factory=lambda: {"image": [], "mask": []}
    )
    wrong: list[str] = field(default_factory=list)

    def find(
        self, kind: Kind, name: str, entry: LayoutEntry, splits: Sequence[str]
    ) -> tuple[str, str] | None:
        """Path and split of a file of an entry; None, and a note in `missing`, if it cannot be found."""
        if problem := path_problem(name.replace("\\", "/")):
            self.wrong.append(f"{entry.where}: {kind} {problem}")
            return None
        # a path from the folder of the data set needs no search; without a mask column it is the path of the image
        exact = posixpath.normpath(name)
        named = kind == "image" or bool(entry.mask)
        many = kind == "mask" and bool(entry.label) and is_mask_source(exact)
        inside = many and (self.tree.root / exact).is_file()
        split = split_of(exact)
        if inside or (named and exact in self.tree.known):
            return exact, split if split in splits else splits[0]
        try:
            found = self.tree.find(kind, name, splits)
        except DataError as error:
            self.wrong.append(f"{entry.where}: {kind} {error}")
            return None
        if found is None:
            self.missing[kind].append(entry)
        return found

    def row(self, entry: LayoutEntry) -> Row | None:
        """The row of an entry; None if a file is missing."""
        image = self.find("image", entry.name, entry, entry.splits)

        # without any folder of masks the data set has none
        mask: tuple[str, str] | None = None
        own = image is not None and entry.mask is None and holds_both(image[0])
        if own and image is not None and has_mask_array(self.tree.root / image[0]):
            entry = replace(entry, mask=image[0])
        wants_mask = entry.mask != "" and not (entry.mask is None and not self.tree.folders("mask"))
        if wants_mask and image is not None:
            mask = self.find("mask", entry.mask or entry.name, entry, (image[1],))
        # note every problem of the entry before giving up on it
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
            image=image[0],
            mask=path,
            text=entry.text,
            split=split,
            group=entry.group,
            laterality=self._side(entry),
            labelled=self._labelled(entry, path),
            label=entry.label,
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
        """Report what is missing or wrong.

        Raises:
            DataError: there is a problem; the first names of each kind are listed.
        """
        lines = _first_lines(self.wrong)
        for kind, entries in self.missing.items():
            if entries:
                names = ", ".join(f"{entry.name!r} ({entry.where})" for entry in entries[:SHOWN])
                more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
                lines.append(
                    f"{len(entries)} of {self.total} names have no {kind}: {names}{more}; {self._where(kind)}"
                )
        if lines:
            raise DataError(f"{path}: " + "\n  ".join(lines))

    def _where(self, kind: Kind) -> str:
        # the user sees where to look
        folders = self.tree.folder_names(kind)
        if not folders:
            return f"no folder of {kind}s was found"
        return (
            f"looked in {', '.join(folders[:6])}, ignoring letter case, suffix and a leading mask_"
        )


def _first_lines(lines: list[str]) -> list[str]:
    return lines[:SHOWN] + ([f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])
