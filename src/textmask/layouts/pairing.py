"""Finds the files that a table names, ignoring prefix, letter case and suffix."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from textmask.data.manifest import SPLIT_ALIASES
from textmask.errors import DataError
from textmask.io.folders import files_below

Kind = Literal["image", "mask"]

# if two files have the same name, the earlier suffix is taken
SUFFIXES = (
    ".png",
    ".tif",
    ".tiff",
    ".bmp",
    ".jpg",
    ".jpeg",
    ".webp",
    ".jp2",
    ".gif",
    ".npz",
    ".npy",
    ".nii.gz",
    ".nii",
)
IMAGE_FOLDERS = {
    "img",
    "imgs",
    "image",
    "images",
    "frames",
    "original",
    "imagestr",
    "imagests",
    "scans",
}
MASK_FOLDERS = {
    "labelcol", "gts", "gt", "ground-truths", "ground truth", "ground_truth", "ground-truth",
    "mask", "masks", "bin_masks", "labels", "label", "lesion mask", "labelstr", "labelsts",
    "annotation", "annotations", "segmentation", "segmentations",
}  # fmt: skip
# BM-Seg: masks of something else under the names of the images; not scanned
OTHER_FOLDERS = {"bone mask"}
TABLE_SUFFIXES = (".csv", ".json", ".xlsx", ".tsv", ".tab", ".jsonl", ".ndjson")
MAX_DEPTH = 5
# words that make the name of a mask of the name of its image
MASK_WORD = r"(?:mask|masks|seg|segmentation|gt|groundtruth|ground_truth|labelmap|labels?|annotations?|lesion)"
MASK_STEMS = (
    re.compile(rf"{MASK_WORD}[_-](.+)"),
    re.compile(rf"(.+?)[_-]{MASK_WORD}(?:[_-]\d{{1,3}})?"),
)

# words in the name of an image that its mask may not have: case_image.png and case_mask.png
IMAGE_STEMS = (re.compile(r"(?:image|img)[_-](.+)"), re.compile(r"(.+)[_-](?:image|img)"))


def folder_split(name: str) -> str | None:
    """The split that a part of a folder or table name means (Train_Folder, "Test Set", val); None if it means none."""
    plain = name.lower().removesuffix("_folder").removesuffix(" set").removesuffix("_set")
    return SPLIT_ALIASES.get(plain)


def stem_of(name: str) -> str:
    """File name without folders and without an image suffix; other dots belong to the name."""
    base = PurePosixPath(name.strip().replace("\\", "/")).name
    return base[: -len(suffix)] if (suffix := suffix_of(base)) in SUFFIXES else base


def plain_stem(name: str) -> str:
    """The stem in lower case; an accent that is a sign of its own, as a Mac writes it, is part of its letter."""
    return unicodedata.normalize("NFC", stem_of(name)).lower()


def suffix_of(path: str) -> str:
    """Suffix of a file in lower case; that of NIfTI may have two parts (.nii.gz)."""
    lower = path.lower()
    return ".nii.gz" if lower.endswith(".nii.gz") else os.path.splitext(lower)[1]


def bare_stems(stem: str) -> list[str]:
    """The names of images that the name of a mask may mean, in lower case: case_mask, mask_case -> case."""
    matches = [pattern.fullmatch(stem.lower()) for pattern in MASK_STEMS]
    return [match[1] for match in matches if match]


def mask_stems(stem: str) -> list[str]:
    """The names by which the mask of an image may go: as the image, and without a word for images."""
    matches = [pattern.fullmatch(stem) for pattern in IMAGE_STEMS]
    return [stem, *(match[1] for match in matches if match)]


@dataclass(frozen=True)
class Tree:
    """The images, tables and text files below a folder, as paths relative to it."""

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]
    texts: tuple[str, ...] = ()

    @classmethod
    def scan(cls, root: Path) -> Tree:
        """List a folder; hidden folders and `OTHER_FOLDERS` are not scanned, and links are followed.

        Raises:
            OSError: the folder cannot be read.
        """
        images, tables, texts = [], [], []
        for path in files_below(
            root, enter=lambda name: name.lower() not in OTHER_FOLDERS, max_depth=MAX_DEPTH + 1
        ):
            suffix = suffix_of(path)
            if suffix in SUFFIXES:
                images.append(path)
            # ~$ is the lock file of an open workbook
            elif suffix in TABLE_SUFFIXES and not posixpath.basename(path).startswith("~$"):
                tables.append(path)
            elif suffix == ".txt":
                texts.append(path)
        return cls(root, tuple(images), tuple(tables), tuple(texts))

    @cached_property
    def known(self) -> frozenset[str]:
        """All images, for a lookup by exact path."""
        return frozenset(self.images)

    @cached_property
    def _index(self) -> dict[tuple[Kind, str], dict[str, list[str]]]:
        index: dict[tuple[Kind, str], dict[str, list[str]]] = {}
        for path in self.images:
            files = index.setdefault((_kind(path), split_of(path)), {})
            files.setdefault(plain_stem(path), []).append(path)
        return index

    def folders(self, kind: Kind) -> list[str]:
        """Splits that have a folder of this kind ("" is a folder of no split)."""
        return sorted(split for k, split in self._index if k == kind)

    def of_kind(self, kind: Kind) -> list[str]:
        """Images in a folder of this kind."""
        return [path for path in self.images if _kind(path) == kind]

    def folder_names(self, kind: Kind) -> list[str]:
        """Folders that contain files of this kind."""
        return sorted({os.path.dirname(path) or "." for path in self.of_kind(kind)})

    def find(self, kind: Kind, name: str, splits: Sequence[str]) -> tuple[str, str] | None:
        """Path and split of the file that `name` means; None if there is none.

        A leading `mask_`, letter case and suffix are ignored; an exact match is preferred. The folders of `splits` are
        searched in order, then the folder of no split. Folders of other splits are searched only if there is none of
        these: two splits may each contain a `1.png`. Of a name with folders (`patient1/1.png`), only files in such
        folders count if there are any.

        Raises:
            DataError: files in several folders fit equally well.
        """
        # two splits may contain files of the same name
        own = [split for split in splits if (kind, split) in self._index]
        order = own + ([""] if (kind, "") in self._index else [])
        stem, place = plain_stem(name), bare_folders(name)
        placed = "/" in name.replace("\\", "/") and (kind, place) in self._bare_folders
        for split in order or self.folders(kind):
            for bare in mask_stems(stem) if kind == "mask" else [stem]:
                files = self._index[kind, split]
                fits = [files.get(spelling, []) for spelling in _spellings(kind, bare)]
                # case.png -> case_mask.png, if only one mask has such a name
                named = self._bare_masks.get((split, bare), []) if kind == "mask" else []
                for paths in (*fits, named):
                    near = [path for path in paths if not placed or bare_folders(path) == place]
                    if near and (paths is not named or len(near) == 1):
                        return _best(near, name), split if split in splits else splits[0]
        return None

    @cached_property
    def _bare_folders(self) -> frozenset[tuple[Kind, str]]:
        return frozenset((_kind(path), bare_folders(path)) for path in self.images)

    @cached_property
    def _bare_masks(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in self.of_kind("mask"):
            for bare in bare_stems(plain_stem(path)):
                found.setdefault((split_of(path), bare), []).append(path)
        return found


def _spellings(kind: Kind, stem: str) -> tuple[str, str]:
    bare = stem.removeprefix("mask_")
    return (bare, f"mask_{bare}") if kind == "image" else (f"mask_{bare}", bare)


def _best(paths: list[str], name: str) -> str:
    """The file nearest to `name`: its folders, then same name, then same stem, then same stem after a prefix.

    Raises:
        DataError: files in several folders are equally near.
    """
    # compared in this order
    asked = PurePosixPath(name.replace("\\", "/"))
    bare = stem_of(name).removeprefix("mask_")

    def distance(path: str) -> tuple[bool, int, bool, bool, int]:
        folders = path.split("/")[:-1]
        return (
            named_kind(path) is None,
            sum(part not in folders for part in asked.parts[:-1]),
            PurePosixPath(path).name != asked.name,
            stem_of(path).removeprefix("mask_") != bare,
            SUFFIXES.index(suffix_of(path)),
        )

    first, *others = sorted(paths, key=lambda path: (distance(path), path))
    same = [path for path in others if distance(path) == distance(first)]
    if any(posixpath.dirname(path) != posixpath.dirname(first) for path in same):
        raise DataError(f"{name!r} may mean {first} or {same[0]}; write its path")
    return first


def bare_folders(path: str) -> str:
    """The folders of a file that tell neither images from masks, in lower case: patient1/masks/1.png -> patient1."""
    parts = path.lower().replace("\\", "/").split("/")[:-1]
    kinds = IMAGE_FOLDERS | MASK_FOLDERS | {"."}
    return "/".join(part for part in parts if part not in kinds)


def named_kind(path: str) -> Kind | None:
    """Image or mask, from the names of a file's folders; None if they do not say."""
    for part in reversed(path.lower().split("/")[:-1]):
        if part in MASK_FOLDERS:
            return "mask"
        if part in IMAGE_FOLDERS:
            return "image"
    return None


def _kind(path: str) -> Kind:
    return named_kind(path) or (
        "mask" if PurePosixPath(path).name.lower().startswith("mask_") else "image"
    )


def split_of(path: str) -> str:
    """The split that a file's folders name; "" if none does."""
    for part in reversed(path.split("/")[:-1]):
        if split := folder_split(part):
            return split
    return ""
