"""COCO annotation files: polygons or run lengths, with a caption or the name of a category as the prompt."""

from __future__ import annotations

import posixpath
import warnings

from textmask.errors import DataError, DataWarning
from textmask.layouts.detect import coco_jsons
from textmask.layouts.entries import Found, LayoutEntry, LayoutOptions, first_of, splits_in_name
from textmask.layouts.pairing import split_of
from textmask.layouts.source import LayoutSource


def read_coco(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per image and prompt: annotations of one image with the same prompt are one mask.

    Raises:
        DataError: an annotation names an image or a category that the file does not contain.
        ConfigError: a split column was given.
    """
    options.refuse_split("the split is in the name of the JSON or of its folder")
    entries: list[LayoutEntry] = []
    for table in coco_jsons(source):
        entries += _annotated(source, table, options.text_column or "caption")
    return entries, ""


def _annotated(source: LayoutSource, table: str, text_key: str) -> list[LayoutEntry]:
    content = source.json(table)
    content = content if isinstance(content, dict) else {}
    folder = posixpath.dirname(table)
    named = next(iter(splits_in_name(table)), "") or split_of(table)
    names = {item.get("id"): str(item.get("name", "")) for item in content.get("categories", [])}
    images = {item.get("id"): str(item.get("file_name", "")) for item in content["images"]}

    # annotations of one image that share a prompt
    masks: dict[tuple[object, str], list[int]] = {}
    boxes = 0
    for number, item in enumerate(content["annotations"], start=1):
        where = f"{table} annotation {number}"
        if item.get("image_id") not in images:
            raise DataError(f"{where}: image_id {item.get('image_id')!r} is not in images.")
        text = first_of(item.get(text_key)) or names.get(item.get("category_id"), "")
        if not text and "category_id" in item and names:
            raise DataError(f"{where}: category_id {item['category_id']!r} is not in categories.")
        if not item.get("segmentation"):
            boxes += 1
            continue
        masks.setdefault((item["image_id"], text), []).append(number)

    if boxes:
        _left_out(
            source,
            f"{table}: {boxes} annotations have no segmentation (only a box) and are left out",
        )
    blank = len(set(images) - {image for image, _ in masks})
    if blank:
        _left_out(source, f"{table}: {blank} images have no annotation and are left out")

    entries = []
    for (image, text), numbers in masks.items():
        name = images[image]
        near = posixpath.join(folder, name)
        name = near if near in source.tree.known else name
        split = named or split_of(name) or "train"
        where = f"{table} annotation {numbers[0]}"
        entries.append(
            LayoutEntry(where, name, text, (split,), table, label=tuple(sorted(numbers)))
        )
    return entries


def _left_out(source: LayoutSource, what: str) -> None:
    warnings.warn(f"{source.path}: {what}.", DataWarning, stacklevel=5)
