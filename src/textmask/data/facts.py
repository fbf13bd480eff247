"""Measurements of each row's pixels: sizes, position of the mask, and a small fingerprint of the image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import cv2
import numpy as np

from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import stored_mask
from textmask.data.mask_sources import is_mask_source
from textmask.errors import DataError
from textmask.io.images import Bytes, orientation_tag, read_image, stored_size
from textmask.progress import Progress, with_progress

THUMBNAIL = 32


@dataclass(frozen=True)
class Facts:
    """One row, measured.

    Attributes:
        row: the row.
        sha256: of the image's file, "" if unreadable.
        size, mask_size: (rows, columns); None if unreadable or absent.
        gray: whether the image has one channel.
        thumbnail: 32 x 32 gray values, None if unreadable.
        mask_share: foreground share of the frame, None without a mask.
        left_share: share of the foreground in the left half of the frame, None without foreground.
        edge_share: foreground share of the outermost pixels, None without a mask.
        tags: orientation tags of the image and of its mask.
        errors: what could not be read.
    """

    row: Row
    sha256: str = ""
    size: tuple[int, int] | None = None
    mask_size: tuple[int, int] | None = None
    gray: bool = True
    thumbnail: Bytes | None = None
    mask_share: float | None = None
    left_share: float | None = None
    edge_share: float | None = None
    tags: tuple[int, int] = (1, 1)
    errors: tuple[str, ...] = ()


def measure(manifest: Manifest, progress: Progress | None = None) -> list[Facts]:
    """Read every image once, and the mask of every row.

    Args:
        manifest: the data set; without a mask rule, only the sizes of binary masks are known.
        progress: called with (task, rows done, rows in total).
    """
    facts = []
    images: dict[str, Facts] = {}
    for row in with_progress(manifest.rows, "images", progress):
        if row.image not in images:
            images[row.image] = _measure_image(manifest, row)
        facts.append(_measure_mask(manifest, row, replace(images[row.image], row=row)))
    return facts


def left_share(mask: Bytes) -> float | None:
    """Share of the foreground in the left half of the frame; a middle column counts half. None for an empty mask."""
    columns = mask.sum(axis=0, dtype=np.int64)
    total = int(columns.sum())
    if total == 0:
        return None
    # split a middle column evenly
    half = len(columns) // 2
    middle = int(columns[half]) / 2 if len(columns) % 2 else 0.0
    return float((columns[:half].sum() + middle) / total)


def distinct_images(facts: list[Facts]) -> list[Facts]:
    """The facts of one row per image."""
    found: dict[str, Facts] = {}
    for fact in facts:
        found.setdefault(fact.row.image, fact)
    return list(found.values())


def _measure_image(manifest: Manifest, row: Row) -> Facts:
    # an unreadable file is a finding, not an error
    try:
        path = manifest.image_path(row)
        image = read_image(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except DataError as error:
        return Facts(row, errors=(str(error),))
    size = (image.shape[0], image.shape[1])
    tags = (orientation_tag(path), 1)
    return Facts(row, sha256, size, gray=image.ndim == 2, thumbnail=_thumbnail(image), tags=tags)


def _measure_mask(manifest: Manifest, row: Row, fact: Facts) -> Facts:
    if row.mask is None:
        return fact
    try:
        if is_mask_source(row.mask):  # drawn from a table, on the upright image
            fact = replace(fact, tags=(1, 1))
        else:
            fact = replace(fact, tags=(fact.tags[0], orientation_tag(manifest.mask_path(row))))
        # sizes do not depend on the rule
        if manifest.mask_rule is None and not row.label:
            return replace(fact, mask_size=stored_size(manifest.mask_path(row)))
        mask = stored_mask(manifest, row)
    except DataError as error:
        return replace(fact, errors=(*fact.errors, str(error)))

    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return replace(
        fact,
        mask_size=(mask.shape[0], mask.shape[1]),
        mask_share=float(mask.mean()),
        left_share=left_share(mask),
        edge_share=float(edge.mean()),
    )


def _thumbnail(image: Bytes) -> Bytes:
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(
        small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8
    )
