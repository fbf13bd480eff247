"""Masks that another tool wrote into a folder: one file per image of a split, read by a stated rule."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy.typing as npt

from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import row_mask
from textmask.data.mask_sources import is_mask_source
from textmask.errors import DataError
from textmask.io.files import file_sha256
from textmask.io.folders import files_below
from textmask.io.images import Bytes
from textmask.io.mask_rule import MaskRule
from textmask.io.masks import MaskValues, read_stored, rule_of, values_of, values_text
from textmask.layouts.pairing import SUFFIXES
from textmask.progress import Progress, with_progress

SHOWN_NAMES = 3
PLAIN = MaskRule()


@dataclass(frozen=True)
class FolderMasks:
    """The masks of a folder, in the order of the rows.

    Attributes:
        folder: its name, without its parents.
        masks: N masks H W of 0 and 1, each at its own size or all at the scored size.
        sha256: of the names and contents of the files.
    """

    folder: str
    masks: list[Bytes]
    sha256: str


def read_folder(
    name: str,
    folder: Path,
    manifest: Manifest,
    rows: Sequence[Row],
    scored: tuple[int, int] | None,
    progress: Progress | None = None,
) -> FolderMasks:
    """Read one mask per row from a folder that another tool wrote.

    A file is matched by the name of the image without its suffix, or of the true mask where masks have other names
    (nnU-Net). Rows with values of a label map read those values from the file. Other files must be binary, or are read
    by the rule of the data set.

    Args:
        name: what the table calls the tool.
        folder: holds image files, and possibly other files, which are not read.
        manifest: the data set with its mask rule.
        rows: the rows of the split.
        scored: rows and columns at which masks are scored; None means each mask's own size.
        progress: called with (name, done, total).

    Raises:
        DataError: files are missing, left over, of another size, or with values that do not say what is foreground.
    """
    files = _matched(name, folder, rows)
    paths = list(dict.fromkeys(files))
    stored: dict[Path, npt.NDArray[Any]] = {}
    values: dict[Path, MaskValues] = {}
    for path in with_progress(paths, name, progress):
        pixels, colors = read_stored(path)
        stored[path], values[path] = pixels, values_of(pixels, colors, path)
    rule = _rule(name, folder, manifest, rows, list(values.values()))

    masks = []
    for row, path in zip(rows, files, strict=True):
        label = () if is_mask_source(row.mask) else row.label
        mask = rule.foreground(stored[path], label)
        _check_size(name, path, mask, row_mask(manifest, row).shape, scored)
        masks.append(mask)

    identity = hashlib.sha256()
    for path in sorted(paths):
        identity.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return FolderMasks(folder.resolve().name, masks, identity.hexdigest())


def _matched(name: str, folder: Path, rows: Sequence[Row]) -> list[Path]:
    """The file of each row.

    Raises:
        DataError: a row has no file, or a file no row.
    """
    found = _files_by_name(name, folder)

    # the naming that finds most rows is the one that the tool used
    best: list[str] | None = None
    for names in _namings(rows):
        if best is None or sum(one in found for one in names) > sum(one in found for one in best):
            best = names
    if best is None:
        raise DataError(
            f"--masks {name}: several rows of the split share an image and a mask file, so that no file name tells "
            "them apart. Give every row a mask file of its own."
        )

    missing = sorted({one for one in best if one not in found})
    if missing:
        raise DataError(
            f"--masks {name}: {len(missing)} of {len(set(best))} images of the split have no mask in {folder}, e.g. "
            f"{_listed_names(missing)} (any of {', '.join(SUFFIXES)}). Files are matched by the name of the image, "
            "or of its true mask, without the suffix. Write one mask per image, an empty one where nothing was found."
        )
    extra = sorted(path.name for one, path in found.items() if one not in set(best))
    if extra:
        files = "1 file matches" if len(extra) == 1 else f"{len(extra)} files match"
        raise DataError(
            f"--masks {name}: {files} no image of the split in {folder}, e.g. {_listed_names(extra)}. Leave only the "
            "masks of this split in the folder, or name the split with --split."
        )
    return [found[one] for one in best]


def _files_by_name(name: str, folder: Path) -> dict[str, Path]:
    """Path below the folder without its suffix -> image file."""
    if not folder.is_dir():
        raise DataError(
            f"--masks {name}: {folder} is not a directory. Expected a folder with one mask per image."
        )
    found: dict[str, Path] = {}
    others = set()
    for below in map(Path, files_below(folder)):
        path = folder / below
        if path.suffix.lower() not in SUFFIXES:
            others.add(path.suffix.lower() or path.name)
            continue
        key = below.with_suffix("").as_posix()
        if key in found:
            raise DataError(
                f"--masks {name}: two files have the same name: {found[key]} and {path}. Remove one of them."
            )
        found[key] = path
    if not found:
        seen = f"; it holds {', '.join(sorted(others))}" if others else ""
        raise DataError(
            f"--masks {name}: {folder} contains no mask{seen}. Expected image files: {', '.join(SUFFIXES)}."
        )
    return found


def _namings(rows: Sequence[Row]) -> list[list[str]]:
    """Names that the files of the rows may have, one list per way of naming that keeps different masks apart."""
    images = [PurePosixPath(row.image) for row in rows]
    masks = [PurePosixPath(row.mask or "") for row in rows]
    ways = [[path.stem for path in images], [path.with_suffix("").as_posix() for path in images]]
    if not any(is_mask_source(row.mask) for row in rows):
        ways += [[path.stem for path in masks], [path.with_suffix("").as_posix() for path in masks]]

    kept = []
    for names in ways:
        truths = defaultdict(set)
        for row, name in zip(rows, names, strict=True):
            # annotations of one file are different masks; structures of one label map are one file
            own = row.label if is_mask_source(row.mask) else ()
            truths[name].add((row.image, row.mask, own))
        if all(len(different) == 1 for different in truths.values()):
            kept.append(names)
    return kept


def _rule(
    name: str, folder: Path, manifest: Manifest, rows: Sequence[Row], files: Sequence[MaskValues]
) -> MaskRule:
    """How the values of the files become foreground, for all files of the folder.

    Raises:
        DataError: the values fit neither a binary mask nor the data set.
    """
    shown = values_text(files)
    values: set[float] = set()
    for file in files:
        values.update(file.values)

    # values of a label map name the structures; a binary mask would not say which one it shows
    known = {
        value for row in rows if row.mask and not is_mask_source(row.mask) for value in row.label
    }
    if known:
        known.update(manifest.classes or {})
        if values - known - {0}:
            raise DataError(
                f"--masks {name}: the files in {folder} have the values {shown}, but the rows are structures of a "
                f"label map with the values {', '.join(map(str, sorted(known)))}. Write label maps with these values."
            )
        return PLAIN

    own, plain = manifest.mask_rule or PLAIN, rule_of(files)
    if own.kind != "values" or (plain is not None and plain.kind == "threshold"):
        if plain is not None:
            return plain
        raise DataError(
            f"--masks {name}: the files in {folder} are not binary, their values are {shown}. Write masks with two "
            "values, 0 and 1 or 0 and 255."
        )

    # 0 and 255 is a mask, whatever the data set says; 0 and 1 may be the mask, or a structure that is not meant
    if not values - {0} or not values.isdisjoint(own.values):
        return own
    if plain is not None and 1 not in values:
        return plain
    raise DataError(
        f"--masks {name}: the files in {folder} have the values {shown}, and foreground in the data set are the values "
        f"{', '.join(map(str, own.values))}. Write masks with the values 0 and 255, or label maps with the values of "
        "the data set."
    )


def _check_size(
    name: str, path: Path, mask: Bytes, own: tuple[int, ...], scored: tuple[int, int] | None
) -> None:
    if mask.shape in (own, scored):
        return
    sizes = " x ".join(map(str, own))
    if scored is not None and scored != own:
        sizes += (
            f" (of the true mask) or {' x '.join(map(str, scored))} (at which masks are scored)"
        )
    raise DataError(
        f"--masks {name}: {path} has {' x '.join(map(str, mask.shape))} pixels, expected {sizes}. Resize the masks "
        "back to the size of their images."
    )


def _listed_names(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
