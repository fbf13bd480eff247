"""Masks that are not image files: annotations of a COCO file, and polygons of a YOLO file.

A row's mask is the file. Its label has the numbers of annotations in the list of the file, or of lines, from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import DataError
from textmask.io.images import Bytes, stored_size
from textmask.io.spreadsheets import read_json_records

SOURCE_SUFFIXES = (".json", ".txt")


def is_mask_source(mask: str | None) -> bool:
    """Whether the file of a mask holds many masks, of which a label chooses."""
    return mask is not None and mask.lower().endswith(SOURCE_SUFFIXES)


def source_mask(path: Path, label: Sequence[int], where: str, image: Path) -> Bytes:
    """The union of some annotations of a file, as uint8 H W of 0 and 1.

    Args:
        path: a COCO file, which states the size of its images, or a YOLO file.
        label: numbers of annotations or lines, from 1.
        where: what error messages call the row.
        image: the image, whose size is that of the mask if the file does not state it.

    Raises:
        DataError: the file is not such a file, or an annotation does not exist or cannot be drawn.
    """
    if not label:
        raise DataError(
            f"{where}: its mask {path} holds many annotations and the row names none; "
            "write their numbers (from 1, joined with +) into the column label."
        )
    if path.suffix.lower() == ".txt":
        return _yolo_mask(path, label, where, stored_size(image))
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    annotations, sizes = _coco(path, stat.st_size, stat.st_mtime_ns)

    images = set()
    for number in label:
        if number > len(annotations):
            raise DataError(
                f"{where}: label {number} is not an annotation of {path}, which has {len(annotations)}."
            )
        images.add(annotations[number - 1].get("image_id"))
    image_id = images.pop()
    if images or image_id not in sizes:
        raise DataError(
            f"{where}: the annotations {'+'.join(map(str, label))} of {path} are not all of one image with a "
            "height and a width."
        )

    mask = np.zeros(sizes[image_id], np.uint8)
    for number in label:
        name = f"{path} annotation {number}"
        mask |= annotation_mask(annotations[number - 1].get("segmentation"), sizes[image_id], name)
    return mask


def yolo_polygons(path: Path) -> dict[int, tuple[int, np.ndarray]]:
    """Number of each line, from 1 -> its class and the points N 2 of its polygon, as x, y in shares of the image.

    A box (four numbers) has no points.

    Raises:
        DataError: the file cannot be read, or a line is not a class and points between 0 and 1.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells:
            continue
        try:
            value, numbers = int(cells[0]), np.array(cells[1:], np.float64)
        except ValueError:
            value, numbers = -1, np.empty(0)
        box = len(numbers) == 4
        inside = len(numbers) > 0 and numbers.min() >= -0.01 and numbers.max() <= 1.01
        if value < 0 or not inside or not (box or (len(numbers) >= 6 and len(numbers) % 2 == 0)):
            raise DataError(
                f"{path} line {number}: {line[:60]!r} is not a YOLO polygon; expected a class and at least three "
                "points x y, all between 0 and 1."
            )
        found[number] = (value, np.empty((0, 2)) if box else numbers.reshape(-1, 2))
    return found


def _yolo_mask(path: Path, label: Sequence[int], where: str, size: tuple[int, int]) -> Bytes:
    polygons = yolo_polygons(path)
    mask = np.zeros(size, np.uint8)
    for number in label:
        if number not in polygons or len(polygons[number][1]) < 3:
            raise DataError(
                f"{where}: label {number} is not a line of {path} with a polygon; it has {len(polygons)} lines."
            )
        _fill_polygon(mask, polygons[number][1] * (size[1], size[0]))
    return mask


def annotation_mask(segmentation: object, size: tuple[int, int], name: str) -> Bytes:
    """A COCO segmentation as uint8 H W of 0 and 1.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...], or run lengths {"size": [H, W], "counts": list or string}.
        size: H and W of the image.
        name: what error messages call it.

    Raises:
        DataError: it is of another form, or its run lengths do not fill the image.
    """
    if isinstance(segmentation, dict):
        return _from_run_lengths(segmentation, size, name)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(
            f"{name}: has no segmentation (a box is not a mask); expected polygons or run lengths."
        )

    mask = np.zeros(size, np.uint8)
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: is not a polygon x, y, x, y, ... ({error}).") from error
        if len(points) < 3 or not np.isfinite(points).all():
            raise DataError(f"{name}: a polygon has {len(points)} points; expected at least 3.")
        _fill_polygon(mask, points)
    return mask


def _fill_polygon(mask: Bytes, points: np.ndarray) -> None:
    """Set the pixels whose center lies inside a polygon (x, y in pixels, even-odd); OpenCV would add its outline."""
    ends = np.roll(points, -1, axis=0)
    first = max(0, math.floor(points[:, 1].min()))
    last = min(mask.shape[0], math.ceil(points[:, 1].max()))
    for row in range(first, last):
        y = row + 0.5
        crossing = (points[:, 1] <= y) != (ends[:, 1] <= y)
        start, end = points[crossing], ends[crossing]
        along = (y - start[:, 1]) / (end[:, 1] - start[:, 1])
        columns = np.sort(start[:, 0] + along * (end[:, 0] - start[:, 0]))

        # inside from each odd crossing to the next
        edges = np.clip(np.ceil(columns - 0.5), 0, mask.shape[1]).astype(int)
        for left, right in edges.reshape(-1, 2):
            mask[row, left:right] = 1


def _from_run_lengths(segmentation: dict[str, Any], size: tuple[int, int], name: str) -> Bytes:
    """Run lengths, column by column, beginning with background."""
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise DataError(
            f"{name}: its run lengths are of the size {segmentation.get('size')}, the image has {list(size)}."
        )
    lengths = _decompressed(counts, name) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise DataError(f"{name}: counts should be a list of numbers or a COCO string.")
    if sum(lengths) != size[0] * size[1]:
        raise DataError(
            f"{name}: its run lengths cover {sum(lengths):,} pixels, the image has {size[0] * size[1]:,}."
        )
    values = np.arange(len(lengths)) % 2
    return np.ascontiguousarray(
        np.repeat(values, lengths).reshape(size[1], size[0]).T, dtype=np.uint8
    )


def _decompressed(text: str, name: str) -> list[int]:
    """COCO's string of run lengths: five bits per character, from the third run on as differences."""
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise DataError(f"{name}: {character!r} is not a character of a COCO string.")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # negative: the sign fills the higher bits
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise DataError(f"{name}: its run lengths end within a number.")
    return lengths


@lru_cache(maxsize=4)
def _coco(
    path: Path, size: int, time: int
) -> tuple[list[dict[str, Any]], dict[object, tuple[int, int]]]:
    """The annotations of a file and the size of each image; read again when the file has changed."""
    content = read_json_records(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not isinstance(images, list):
        raise DataError(f"{path}: is not a COCO file; expected the lists images and annotations.")
    sizes: dict[object, tuple[int, int]] = {}
    for image in images:
        height, width = image.get("height"), image.get("width")
        if isinstance(height, int) and isinstance(width, int) and 0 < height * width <= 100_000_000:
            sizes[image.get("id")] = (height, width)
    return annotations, sizes
