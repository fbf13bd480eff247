"""YOLO segmentation: images/train/a.jpg, labels/train/a.txt with a polygon per line, and the names of the classes."""

from __future__ import annotations

import warnings

from textmask.data.mask_sources import yolo_polygons
from textmask.errors import DataError, DataWarning
from textmask.layouts.entries import Found, LayoutEntry, LayoutOptions
from textmask.layouts.pairing import split_of
from textmask.layouts.source import LayoutSource
from textmask.layouts.yolo_files import NAME_FILES, class_names, names_file, yolo_labels


def read_yolo(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per image and class: polygons of one class are one mask, the name of the class is the prompt.

    Raises:
        DataError: a class has no name, a line is not a polygon, or all lines are boxes.
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is the name of the folder")
    options.refuse_text("the prompts are the names of the classes")
    file = names_file(source)
    if file is None:
        raise DataError(
            f"{source.path}: has no names of classes; expected {' or '.join(NAME_FILES[::2])} with `names`, "
            "or classes.txt."
        )
    names = class_names(source.tree.root / file)

    entries: list[LayoutEntry] = []
    boxes, blank = [], []
    for image, label in yolo_labels(source).items():
        classes: dict[int, list[int]] = {}
        for number, (value, points) in yolo_polygons(source.tree.root / label).items():
            if value not in names:
                raise DataError(
                    f"{label} line {number}: class {value} has no name in {file}, which names {len(names)} classes."
                )
            if len(points) < 3:
                boxes.append(f"{label} line {number}")
            else:
                classes.setdefault(value, []).append(number)
        if not classes:
            blank.append(image)
        split = split_of(image) or "train"
        for value, numbers in sorted(classes.items()):
            where = f"{label} line {numbers[0]}"
            entries.append(
                LayoutEntry(where, image, names[value], (split,), label, label=tuple(numbers))
            )

    if boxes and not entries:
        raise DataError(
            f"{source.path}: all {len(boxes)} lines are boxes (class x y width height), e.g. {boxes[0]}. A box is not "
            "a mask: export polygons (YOLO segmentation)."
        )
    if boxes:
        _remark_on(source, f"{len(boxes)} lines are boxes and are left out, e.g. {boxes[0]}")
    if blank:
        _remark_on(source, f"{len(blank)} images have no polygon and are left out, e.g. {blank[0]}")
    if not any(split_of(entry.name) for entry in entries):
        _remark_on(source, "no folder names a split; every row is 'train'")
    return entries, ""


def _remark_on(source: LayoutSource, what: str) -> None:
    warnings.warn(f"{source.path}: {what}.", DataWarning, stacklevel=4)
