"""Cache of decoded images: each is decoded and resized once, then read through a memory map."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedWriter
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.cache_folder import (
    MAPS,
    cache_folder,
    describe_file,
    is_intact,
    keep_to_limit,
    read_meta,
)
from textmask.data.content import content_hash, file_hashes
from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import decide_rule, refuse_same_pixels, row_mask
from textmask.data.mask_sizes import may_be_fitted
from textmask.errors import DataError, DataWarning
from textmask.io.files import remove_unfinished, temporary_name, write_json
from textmask.io.images import Bytes, read_image, resize_image, resize_label_map, resize_mask
from textmask.parallel import map_in_order
from textmask.progress import Progress, report
from textmask.statement import Statement
from textmask.text.grammar import parse

FORMAT = 5  # 3: PNG and WebP are turned by their orientation tag; 4 and 5: keyed by content


@dataclass(frozen=True)
class SplitData:
    """One split, decoded.

    Attributes:
        rows: the N manifest rows, in order.
        images: uint8 N C H W; C is 1 when every image is gray, else 3. An image with several rows is stored once.
        masks: uint8 N H W, 0 or 1 (label maps keep their values); all 0 if `has_mask` is False.
        has_mask: N booleans.
        prompts, statements, keys: the N prompts, their parsed claims, and the row keys.
        native_sizes: N 2, rows and columns before resizing.
        content: SHA-256 of the rows and of what their files contain; "" for a selection of rows.
    """

    rows: tuple[Row, ...]
    images: np.ndarray | SharedRows
    masks: np.ndarray
    has_mask: np.ndarray
    prompts: tuple[str, ...]
    statements: tuple[Statement, ...]
    keys: tuple[str, ...]
    native_sizes: np.ndarray
    content: str = ""

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.rows)

    def take(self, rows: np.ndarray) -> SplitData:
        """Select rows (numbers or N booleans); their images and masks are copied into memory."""
        numbers = np.arange(len(self))[rows]
        return SplitData(
            rows=tuple(self.rows[i] for i in numbers),
            images=np.asarray(self.images[numbers]),
            masks=np.asarray(self.masks[numbers]),
            has_mask=self.has_mask[numbers],
            prompts=tuple(self.prompts[i] for i in numbers),
            statements=tuple(self.statements[i] for i in numbers),
            keys=tuple(self.keys[i] for i in numbers),
            native_sizes=self.native_sizes[numbers],
        )


@dataclass(frozen=True)
class SharedRows:
    """An array with a row per manifest row, of which equal ones are stored once; indexed like a NumPy array.

    Attributes:
        stored: the distinct rows.
        numbers: for each of the N rows, which of them it is.
    """

    stored: np.ndarray
    numbers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """N and the shape of one row."""
        return (len(self.numbers), *self.stored.shape[1:])

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows by number, slice, numbers or N booleans."""
        return np.asarray(self.stored[self.numbers[rows]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All N rows, copied into memory."""
        return np.asarray(self[:], dtype)


def open_split(
    manifest: Manifest,
    split: str,
    image_size: tuple[int, int],
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> SplitData:
    """Open a split: decode it on the first call, read the cache afterwards.

    Args:
        manifest: the data set.
        split: name of the split.
        image_size: rows and columns to resize to.
        cache_dir: folder of the cache; None means the user's.
        progress: called with (task, done, total) while decoding.

    Raises:
        DataError: an image is unreadable, a mask has another size than its image or is an image, the values of the
            masks do not say what is foreground, the cache is corrupt, or the disk is full.
    """
    rows = manifest.rows_of(split)
    # the rule of masks is that of all splits
    has_masks = any(row.mask for row in manifest.rows)
    wanted = _files_of(manifest.rows if has_masks else rows)
    known = file_hashes(manifest, wanted, cache_dir, progress)
    manifest = decide_rule(manifest, cache_dir, progress, known)

    # a new cache for any change of the rows, their order, what the files contain, and how masks are read
    read = repr(manifest.mask_rule) + (" nearest" if manifest.resize_masks else "")
    parts = [f"{FORMAT} {read} {image_size[0]} {image_size[1]}"]
    for row in rows:
        mask = f"{row.mask}\t{known[row.mask]}\t{row.label}" if row.mask else ""
        parts.append(f"{row.image}\t{known[row.image]}\t{mask}")  # a path has no control character
    identity = "\n".join(parts)
    stem = cache_folder(cache_dir) / hashlib.sha256(identity.encode()).hexdigest()[:24]
    opened = _open_maps(stem, len(rows), image_size)
    if opened is None:
        _decode_rows(manifest, rows, image_size, stem, progress, split)
        keep_to_limit(stem, cache_dir)
        opened = _open_maps(stem, len(rows), image_size)
    if opened is None:
        raise DataError(
            f"the decoded cache {stem}.* cannot be read back. Check the disk, or point TEXTMASK_CACHE to another one."
        )
    # its time says when it was last used
    with contextlib.suppress(OSError):
        os.utime(stem.with_suffix(".json"))

    meta, images, masks = opened
    numbers = np.array(meta["images"], dtype=np.int64)
    return SplitData(
        rows=rows,
        images=images if len(images) == len(rows) else SharedRows(images, numbers),
        masks=masks,
        has_mask=np.array([row.mask is not None for row in rows], dtype=bool),
        prompts=tuple(row.text for row in rows),
        statements=tuple(parse(row.text, row.grammar, row.laterality) for row in rows),
        keys=tuple(manifest.key(row) for row in rows),
        native_sizes=np.array(meta["native_sizes"], dtype=np.int64).reshape(-1, 2),
        content=content_hash(manifest, rows, known),
    )


def _files_of(rows: Iterable[Row]) -> list[str]:
    """Each file once, in the order of the rows."""
    return list(dict.fromkeys(path for row in rows for path in (row.image, row.mask) if path))


def _open_maps(
    stem: Path, rows: int, size: tuple[int, int]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | None:
    """Description, images and masks of a decoded split; None if it is absent, and after a warning if it is damaged."""
    info = stem.with_suffix(".json")
    if not info.exists():
        return None
    meta = read_meta(info) or {}
    paths = {name: stem.with_suffix(f".{name}.memmap") for name in MAPS}
    told = meta.get("files", {})
    if not all(name in told and is_intact(path, told[name]) for name, path in paths.items()):
        warnings.warn(
            f"the decoded cache {stem}.* is damaged; it is built again.", DataWarning, stacklevel=3
        )
        return None
    try:
        stored = max(meta["images"], default=-1) + 1
        shape = (stored, meta["channels"], *size)
        images = np.memmap(paths["images"], np.uint8, "r", shape=shape)
        return meta, images, np.memmap(paths["masks"], np.uint8, "r", shape=(rows, *size))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _decode_rows(
    manifest: Manifest,
    rows: tuple[Row, ...],
    size: tuple[int, int],
    stem: Path,
    progress: Progress | None,
    split: str,
) -> None:
    """Write two memory maps under temporary names, then rename them; the JSON comes last and makes them valid."""
    # several hosts may build the same cache
    parts = {name: temporary_name(stem.with_suffix(f".{name}.memmap")) for name in MAPS}
    # all images are gray until the first color image
    channels, sizes = 1, []
    numbers: list[int] = []
    seen: dict[str, int] = {}
    done_rows, tell = 0, progress or report
    tell("decoding", 0, len(rows))
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(stem.parent)
        with parts["images"].open("wb") as image_file, parts["masks"].open("wb") as mask_file:
            # decoded on all cores, written in order
            def decode(same: tuple[Row, ...]) -> _Decoded:
                return _decode_same(manifest, same, size)

            for found in map_in_order(decode, _rows_of_images(rows)):
                # an image is stored at its first rows
                new = found.image not in seen
                number = seen.setdefault(found.image, len(seen))
                if new:
                    if len(found.planes) == 3 and channels == 1:
                        channels = 3
                        _spread(image_file, number, size)
                    planes = np.broadcast_to(found.planes, (channels, *size))
                    np.ascontiguousarray(planes).tofile(image_file)

                for mask in found.masks:
                    mask.tofile(mask_file)
                    numbers.append(number)
                    sizes.append(list(found.native_size))
                    done_rows += 1
                    tell("decoding", done_rows, len(rows))

        meta = {
            "data": manifest.name or str(manifest.root),
            "split": split,
            "channels": channels,
            "native_sizes": sizes,
            "images": numbers,
            "files": {name: describe_file(part) for name, part in parts.items()},
        }
        for name, part in parts.items():
            part.replace(stem.with_suffix(f".{name}.memmap"))
        write_json(stem.with_suffix(".json"), meta)
    except OSError as error:
        raise DataError(
            f"cannot write the decoded cache {stem.parent}: {error}. "
            "Free some space or point TEXTMASK_CACHE to another disk."
        ) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Decoded:
    """One image, C H W at the size of the cache, with the masks of its rows."""

    image: str
    planes: Bytes
    masks: list[Bytes]
    native_size: tuple[int, int]


def _rows_of_images(rows: tuple[Row, ...]) -> Iterator[tuple[Row, ...]]:
    """The rows in order; those of one image mostly follow each other, and are decoded together."""
    for _, same in groupby(rows, key=lambda row: row.image):
        yield tuple(same)


def _decode_same(manifest: Manifest, rows: tuple[Row, ...], size: tuple[int, int]) -> _Decoded:
    image = read_image(manifest.image_path(rows[0]))
    rule = manifest.mask_rule
    resize = resize_label_map if rule is not None and rule.kind == "labels" else resize_mask
    masks = []
    for row in rows:
        masks.append(np.ascontiguousarray(resize(_mask_of(manifest, row, image), size)))
    planes = resize_image(image, size)
    planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)
    return _Decoded(rows[0].image, planes, masks, (image.shape[0], image.shape[1]))


def _spread(image_file: BufferedWriter, done: int, size: tuple[int, int]) -> None:
    """Rewrite the gray planes written so far as three equal ones, for the first color image."""
    image_file.flush()
    gray = np.fromfile(image_file.name, np.uint8).reshape(done, 1, *size)
    image_file.seek(0)
    np.ascontiguousarray(np.broadcast_to(gray, (done, 3, *size))).tofile(image_file)


def _mask_of(manifest: Manifest, row: Row, image: Bytes) -> Bytes:
    if row.mask is None:
        return np.zeros(image.shape[:2], np.uint8)
    mask = row_mask(manifest, row)
    if tuple(mask.shape) != tuple(image.shape[:2]):
        raise DataError(
            f"{row.image} has {image.shape[0]} x {image.shape[1]} pixels, its mask {row.mask} has "
            f"{mask.shape[0]} x {mask.shape[1]}. They must have the same size: remove the row, or resize one of them"
            + (
                "; --resize-masks nearest does it for a pixel or a common factor."
                if may_be_fitted((mask.shape[0], mask.shape[1]), (image.shape[0], image.shape[1]))
                else "."
            )
        )
    refuse_same_pixels(row, image, mask)
    return mask
