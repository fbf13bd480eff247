"""What the pixels of each row say, measured once and kept small: sizes, where the mask lies, and a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from textmask.data.manifest import Manifest, Row
from textmask.errors import DataError
from textmask.io.images import Bytes, read_image, read_mask
from textmask.progress import Progress, with_progress

THUMBNAIL = 32
# of 23 million pairs of chest films across the splits of QaTa, the three above this are one film each (looked at)
MIN_CORRELATION = 0.985
BLOCK = 1024


@dataclass(frozen=True)
class Facts:
    """One row, measured.

    Attributes:
        row: the row.
        sha256: of the picture's file, "" when unreadable.
        size, mask_size: (rows, columns); None when unreadable or absent.
        grey: whether the picture has one channel.
        thumbnail: 32 x 32 grey values, None when unreadable.
        mask_share: foreground share of the frame, None without a mask.
        left_share: share of the foreground that lies in the left half of the frame, None where there is none.
        errors: what could not be read.
    """

    row: Row
    sha256: str = ""
    size: tuple[int, int] | None = None
    mask_size: tuple[int, int] | None = None
    grey: bool = True
    thumbnail: Bytes | None = None
    mask_share: float | None = None
    left_share: float | None = None
    errors: tuple[str, ...] = ()


def measure(manifest: Manifest, progress: Progress | None = None) -> list[Facts]:
    """Read every picture and mask once.

    Args:
        manifest: the data set.
        progress: called with (task, rows done, rows in total).
    """
    facts = []
    for row in with_progress(manifest.rows, "images", progress):
        facts.append(_measure_row(manifest, row))
    return facts


def left_share(mask: Bytes) -> float | None:
    """Share of the foreground in the left half of the frame; a middle column counts half. None for an empty mask."""
    columns = mask.sum(axis=0, dtype=np.int64)
    total = int(columns.sum())
    if total == 0:
        return None
    half = len(columns) // 2
    middle = int(columns[half]) / 2 if len(columns) % 2 else 0.0
    return float((columns[:half].sum() + middle) / total)


def near_identical(facts: list[Facts]) -> list[tuple[Row, Row]]:
    """Pairs of nearly identical pictures in different splits: the same film under other processing, frames of a video.

    Two pictures are alike when their 32 x 32 thumbnails correlate at 0.985 or more, whatever brightness and contrast.
    Pictures of one flat colour are left out: they all look the same.
    """
    splits: dict[str, list[Facts]] = {}
    for fact in facts:
        if fact.thumbnail is not None and fact.thumbnail.std() > 1:
            splits.setdefault(fact.row.split, []).append(fact)
    return [pair for one, two in combinations(splits.values(), 2) for pair in _alike(one, two)]


def _measure_row(manifest: Manifest, row: Row) -> Facts:
    errors = []
    sha256, size, grey, thumbnail = "", None, True, None
    try:
        path = manifest.image_path(row)
        image = read_image(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        size, grey, thumbnail = (image.shape[0], image.shape[1]), image.ndim == 2, _thumbnail(image)
    except DataError as error:
        errors.append(str(error))
    mask_size, mask_share, left = None, None, None
    if row.mask is not None:
        try:
            mask = read_mask(manifest.mask_path(row))
            mask_size, mask_share, left = (
                (mask.shape[0], mask.shape[1]),
                float(mask.mean()),
                left_share(mask),
            )
        except DataError as error:
            errors.append(str(error))
    return Facts(row, sha256, size, mask_size, grey, thumbnail, mask_share, left, tuple(errors))


def _thumbnail(image: Bytes) -> Bytes:
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(
        small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8
    )


def _alike(one: list[Facts], two: list[Facts]) -> list[tuple[Row, Row]]:
    ones, twos = _standardised(one), _standardised(two)
    pairs = []
    for start in range(0, len(one), BLOCK):  # bounds the memory: BLOCK x M correlations at a time
        alike = np.argwhere(ones[start : start + BLOCK] @ twos.T >= MIN_CORRELATION)
        pairs += [(one[start + int(i)].row, two[int(j)].row) for i, j in alike]
    return pairs


def _standardised(facts: list[Facts]) -> npt.NDArray[np.float32]:
    """N 1024 thumbnails of mean 0 and length 1: their products are correlations."""
    pictures = np.stack([fact.thumbnail for fact in facts if fact.thumbnail is not None])
    flat = pictures.reshape(len(pictures), THUMBNAIL * THUMBNAIL).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), np.float32)
