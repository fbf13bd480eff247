"""RefCOCO-like data: a JSON list of references with sentences, next to a COCO file with the annotations they mean."""

from __future__ import annotations

import posixpath
import warnings
from typing import Any

from textmask.data.manifest import split_name
from textmask.errors import DataError, DataWarning
from textmask.layouts.detect import coco_jsons, reference_jsons
from textmask.layouts.entries import Found, LayoutEntry, LayoutOptions, first_of, table_splits
from textmask.layouts.source import LayoutSource

SENTENCE_KEYS = ("sent", "raw", "sentence", "text", "caption")


def read_refcoco(source: LayoutSource, options: LayoutOptions) -> Found:
    """One row per sentence: its image, and the union of the annotations that the reference means.

    Raises:
        DataError: there is no COCO file, or a reference means an annotation or image that it does not contain.
        ConfigError: a text or split column was given.
    """
    options.refuse_split("the split is in each reference")
    options.refuse_text("the prompts are the sentences of each reference")
    tables = coco_jsons(source)
    if not tables:
        raise DataError(
            f"{source.path}: has references but no COCO file with their annotations; expected instances.json next to "
            f"{reference_jsons(source)[0]}."
        )
    where_of, images = _annotations(source, tables)

    entries: list[LayoutEntry] = []
    without = []
    for table in reference_jsons(source):
        content = source.json(table)
        refs = content.get("refs") if isinstance(content, dict) else content
        for number, ref in enumerate(refs if isinstance(refs, list) else [], start=1):
            where = f"{table} reference {number}"
            ids = ref["ann_id"] if isinstance(ref.get("ann_id"), list) else [ref.get("ann_id")]
            meant = [one for one in ids if one not in (None, -1)]
            if not meant:
                without.append(where)
                continue
            places = [where_of.get(one) for one in meant]
            if None in places or len({place[0] for place in places if place}) != 1:
                raise DataError(
                    f"{where}: ann_id {ref['ann_id']!r} is not in {', '.join(tables)}. Use the annotations that "
                    "the references were made for."
                )
            found = [place for place in places if place]
            image = images.get((found[0][0], found[0][2]))
            if image is None or {place[2] for place in found} != {found[0][2]}:
                raise DataError(f"{where}: its annotations are not of one image in {found[0][0]}.")
            if ref.get("image_id", found[0][2]) != found[0][2]:
                raise DataError(
                    f"{where}: image_id is {ref['image_id']!r}, but annotation {meant[0]} is of image {found[0][2]!r}."
                )
            splits = (split_name(str(ref["split"])),) if ref.get("split") else table_splits(table)
            label = tuple(sorted({place[1] for place in found}))
            for text in _sentences_of(ref, where):
                entries.append(LayoutEntry(where, image, text, splits, found[0][0], label=label))
    if without:
        warnings.warn(
            f"{source.path}: {len(without)} references mean no annotation and are left out, e.g. {without[0]}.",
            DataWarning,
            stacklevel=4,
        )
    return entries, ""


def _annotations(
    source: LayoutSource, tables: list[str]
) -> tuple[dict[Any, tuple[str, int, Any]], dict[tuple[str, Any], str]]:
    """Id of each annotation -> its file, its number there and its image; file and id of each image -> its name."""
    where_of: dict[Any, tuple[str, int, Any]] = {}
    images: dict[tuple[str, Any], str] = {}
    for table in tables:
        content: Any = source.json(table)
        for number, item in enumerate(content["annotations"], start=1):
            if item.get("segmentation"):
                where_of[item.get("id")] = (table, number, item.get("image_id"))
        for item in content["images"]:
            near = posixpath.join(posixpath.dirname(table), str(item.get("file_name", "")))
            known = near in source.tree.known
            images[table, item.get("id")] = near if known else str(item.get("file_name", ""))
    return where_of, images


def _sentences_of(ref: dict[str, Any], where: str) -> list[str]:
    texts = []
    for item in ref["sentences"] if isinstance(ref.get("sentences"), list) else []:
        if isinstance(item, dict):
            item = next((item[key] for key in SENTENCE_KEYS if item.get(key)), "")
        texts.append(first_of(item))
    if not any(texts):
        raise DataError(
            f"{where}: has no sentence; expected sentences with {' or '.join(SENTENCE_KEYS[:2])}."
        )
    return [text for text in texts if text]
