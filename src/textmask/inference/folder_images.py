"""The images to segment in a folder: everything that is an image and not a mask of one."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from textmask.errors import DataError, DataWarning
from textmask.io.folders import files_below
from textmask.io.images import read_mask_pixels
from textmask.io.spreadsheets import column_of, read_table
from textmask.layouts.pairing import named_kind
from textmask.layouts.source import IMAGE_NAMES, MASK_NAMES

NIFTI = (".nii", ".nii.gz")
PLAIN_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif")
IMAGES = (*PLAIN_IMAGES, ".dcm", ".dicom", *NIFTI)
# endings of results, which are never read as images
RESULTS = (
    *(".mask.png", ".mask.nii.gz", ".overlay.png", ".probability.png", ".explain.png"),
    *(".labels.png", ".legend.png"),
)
# images of formats that are not read here, which a user may expect to be
OTHER_IMAGES = (".heic", ".heif", ".avif", ".jxl", ".npy", ".npz", ".nrrd", ".mha", ".mhd")

# nnU-Net's folders, and folders that are called masks or have the word in their name; "kvasir-seg" is a data set
MASK_FOLDER = re.compile(
    r"labels?(tr|ts|val)|segs?|segmentations?|annotations?|gts?|(.*[ _-])?(masks?|ground[ _-]?truths?)([ _-].*)?"
)
# a.png next to a_mask.png, a_mask_1.png, mask_a.png or segmentation-a.png
MASK_NAME = re.compile(
    r"(masks?|segmentation)[ _-].+|.+[ _.-](masks?|segmentations?)([ _-]?\d+)?", re.IGNORECASE
)
# words that may also belong to the name of an image: masks only next to their image
MAYBE_MASK_NAME = re.compile(
    r"(?:(?:seg|label|labels|gt)[ _-])?(.+?)(?:[ _.-](?:seg|label|labels|gt|ground[ _-]?truth|lesion)(?:[ _-]?\d+)?)?",
    re.IGNORECASE,
)
TABLES = (".csv", ".xlsx")
SHOWN = 4


def images_below(folder: Path) -> list[Path]:
    """Images in a folder and its subfolders, sorted; masks, hidden files and results are left out.

    Masks are recognized by the folder (masks, labelsTr ...), by the name (a_mask.png), by the mask column of a table in
    the folder, and by their pixels (two values only, next to an image of the same name in another folder).

    Raises:
        DataError: the folder contains no image, or only masks.

    Warns:
        DataWarning: masks, or images in formats that are not read, were left out; both are named.
    """
    found, unread, tables = [], [], []
    for path in map(folder.joinpath, files_below(folder)):
        name = path.name.lower()
        if name.endswith(RESULTS):
            continue
        if name.endswith(IMAGES):
            found.append(path)
        elif name.endswith(OTHER_IMAGES):
            unread.append(path)
        elif name.endswith(TABLES) and not name.startswith("~$"):
            tables.append(path)
    if unread:
        warnings.warn(
            f"{folder}: not read: {_counted(unread, folder)}. Save them in one of the formats {', '.join(IMAGES)}.",
            DataWarning,
            stacklevel=3,
        )
    if not found:
        raise DataError(f"{folder} contains no image ({', '.join(IMAGES)}).")

    # masks are not images, and are never left out in silence
    masks = _masks_among(found, tables, folder)
    images = sorted(set(found) - masks)
    if not images:
        raise DataError(
            f"{folder} contains only masks: {_counted(masks, folder)}. Give the folder of the images, or a jobs file "
            "(csv) that names each file."
        )
    if masks:
        warnings.warn(
            f"{folder}: left out as masks: {_counted(masks, folder)}. A jobs file (csv) can name any file.",
            DataWarning,
            stacklevel=3,
        )
    return images


def short_stem(path: Path) -> str:
    """The name of a file without the ending of its format."""
    name = path.name
    for ending in sorted(IMAGES, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _masks_among(paths: list[Path], tables: list[Path], folder: Path) -> set[Path]:
    """Which of the files are masks."""
    masks = set()
    listed = _listed_masks(tables)
    stems = {(path.parent, short_stem(path).lower()) for path in paths}
    for path in paths:
        stem = short_stem(path)
        bare = MAYBE_MASK_NAME.fullmatch(stem)
        partner = bare[1].lower() if bare else stem.lower()
        next_to_image = partner != stem.lower() and (path.parent, partner) in stems
        if (
            _in_mask_folder(path.relative_to(folder))
            or MASK_NAME.fullmatch(stem)
            or next_to_image
            or path in listed
        ):
            masks.add(path)
    return masks | _two_valued([path for path in paths if path not in masks])


def _in_mask_folder(relative: Path) -> bool:
    """Whether the nearest telling folder name is that of masks; the folder that the user named does not count."""
    for part in reversed(relative.parts[:-1]):
        if MASK_FOLDER.fullmatch(part.lower()):
            return True
        kind = named_kind(f"{part}/")
        if kind is not None:
            return kind == "mask"
    return False


def _listed_masks(tables: list[Path]) -> set[Path]:
    """Files that a table names as masks and not as images."""
    masks, images = set(), set()
    for table in tables:
        try:
            header, records = read_table(table)
        except DataError:
            continue  # a table of something else
        mask, image = column_of(header, MASK_NAMES), column_of(header, IMAGE_NAMES)
        if mask is None:
            continue
        for _, cells in records:
            row = dict(zip(header, cells, strict=False))
            masks.add(table.parent / (row.get(mask) or "."))
            if image is not None:
                images.add(table.parent / (row.get(image) or "."))
    return masks - images


def _two_valued(paths: list[Path]) -> set[Path]:
    """Files with two values at most that have the name of an image with more values in another folder."""
    same_name: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.name.lower().endswith(PLAIN_IMAGES):
            same_name[short_stem(path).lower()].append(path)

    masks: set[Path] = set()
    for group in same_name.values():
        if len({path.parent for path in group}) > 1:
            binary = {path for path in group if _is_two_valued(path)}
            masks |= binary if len(binary) < len(group) else set()
    return masks


def _is_two_valued(path: Path) -> bool:
    try:
        pixels = read_mask_pixels(path)
    except DataError:
        return False  # reported when it is segmented
    return pixels.ndim == 2 and len(np.unique(pixels)) <= 2


def _counted(paths: Iterable[Path], folder: Path) -> str:
    """How many files of which folders; single names if there are few."""
    paths = sorted(paths)
    if len(paths) <= SHOWN:
        return ", ".join(str(path.relative_to(folder)) for path in paths)
    folders = Counter(str(path.parent.relative_to(folder)) for path in paths)
    parts = [f"{number} in {name}" for name, number in folders.most_common(SHOWN)]
    more = len(folders) - SHOWN
    return (
        f"{len(paths)} files ({', '.join(parts)}{f' and {more} more folders' if more > 0 else ''})"
    )
