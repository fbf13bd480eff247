"""The decoded cache: every picture is decoded and resized once, then read through a memory map."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import numpy as np

from textmask.config import write_json
from textmask.data.manifest import Manifest, Row
from textmask.errors import DataError
from textmask.io.images import read_image, read_mask, resize_image, resize_mask
from textmask.text.grammar import parse
from textmask.text.statement import Statement

FORMAT = 1


@dataclass(frozen=True)
class SplitData:
    """One split, decoded.

    Attributes:
        rows: the N manifest rows, in order.
        images: uint8 N C H W; C is 1 when every picture is grey, else 3.
        masks: uint8 N H W, 0 or 1; all 0 where `has_mask` is False.
        has_mask: N booleans.
        prompts, statements, keys: the N sentences, their parsed claims, and the row keys.
        native_sizes: N 2, rows and columns before resizing.
    """

    rows: tuple[Row, ...]
    images: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray
    prompts: tuple[str, ...]
    statements: tuple[Statement, ...]
    keys: tuple[str, ...]
    native_sizes: np.ndarray

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.rows)

    def take(self, rows: np.ndarray) -> SplitData:
        """The split of some rows (numbers or N booleans), pictures and masks copied into memory."""
        numbers = np.arange(len(self))[rows]
        listed = (self.rows, self.prompts, self.statements, self.keys)
        kept, prompts, statements, keys = (tuple(values[i] for i in numbers) for values in listed)
        arrays = (self.images, self.masks, self.has_mask)
        images, masks, has_mask = (np.asarray(values[numbers]) for values in arrays)
        return SplitData(kept, images, masks, has_mask, prompts, statements, keys, self.native_sizes[numbers])


def cache_folder(cache_dir: Path | None = None) -> Path:
    """`cache_dir`, else $TEXTMASK_CACHE, else the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(os.environ.get("TEXTMASK_CACHE") or Path.home() / ".cache" / "textmask")


def open_split(
    manifest: Manifest,
    split: str,
    image_size: tuple[int, int],
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SplitData:
    """Open a split, decoding it on the first call and reading the cache afterwards.

    Args:
        manifest: the table.
        split: which rows.
        image_size: rows and columns to resize to.
        cache_dir: where to keep the decoded pictures.
        progress: called with (done, total) while decoding.

    Raises:
        DataError: an unreadable picture, sizes that differ between picture and mask, or a full disk.
    """
    rows = manifest.rows_of(split)
    root = str(manifest.root.resolve())
    identity = json.dumps([FORMAT, root, manifest.hash(), split, list(image_size)])
    stem = cache_folder(cache_dir) / hashlib.sha256(identity.encode()).hexdigest()[:24]
    info = stem.with_suffix(".json")
    if not info.exists():
        _decode(manifest, rows, image_size, stem, progress)
    meta = json.loads(info.read_text(encoding="utf-8"))
    shape = (len(rows), meta["channels"], *image_size)
    try:
        images = np.memmap(stem.with_suffix(".images.memmap"), np.uint8, "r", shape=shape)
        masks = np.memmap(stem.with_suffix(".masks.memmap"), np.uint8, "r", shape=(len(rows), *image_size))
    except (OSError, ValueError) as error:
        raise DataError(f"the cache {stem}.* is damaged ({error}). Delete it; it is made anew.") from error
    return SplitData(
        rows=rows,
        images=images,
        masks=masks,
        has_mask=np.array([row.mask is not None for row in rows], dtype=bool),
        prompts=tuple(row.text for row in rows),
        statements=tuple(parse(row.text, row.grammar, row.laterality) for row in rows),
        keys=tuple(row.image for row in rows),
        native_sizes=np.array(meta["native_sizes"], dtype=np.int64).reshape(-1, 2),
    )


def _decode(
    manifest: Manifest,
    rows: tuple[Row, ...],
    size: tuple[int, int],
    stem: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the two memory maps beside their final names, then rename; the JSON comes last and makes them valid."""
    parts = {name: stem.with_suffix(f".{name}.{os.getpid()}.part") for name in ("images", "masks")}
    channels, sizes = 1, []
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with parts["images"].open("wb") as image_file, parts["masks"].open("wb") as mask_file:
            for i, row in enumerate(rows):
                image, mask = _read_pair(manifest, row)
                sizes.append(list(image.shape[:2]))
                if image.ndim == 3 and channels == 1:
                    channels = 3
                    _spread(image_file, i, size)
                planes = resize_image(image, size)
                planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)
                np.ascontiguousarray(np.broadcast_to(planes, (channels, *size))).tofile(image_file)
                np.ascontiguousarray(resize_mask(mask, size)).tofile(mask_file)
                if progress:
                    progress(i + 1, len(rows))
        for name, part in parts.items():
            part.replace(stem.with_suffix(f".{name}.memmap"))
        write_json(stem.with_suffix(".json"), {"channels": channels, "native_sizes": sizes})
    except OSError as error:
        raise DataError(
            f"cannot write the decoded cache {stem.parent}: {error}. "
            "Free some space or point TEXTMASK_CACHE to another disk."
        ) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _spread(image_file: BufferedWriter, done: int, size: tuple[int, int]) -> None:
    """The first colour picture: rewrite the grey planes written so far as three equal ones."""
    image_file.flush()
    grey = np.fromfile(image_file.name, np.uint8).reshape(done, 1, *size)
    image_file.seek(0)
    np.ascontiguousarray(np.broadcast_to(grey, (done, 3, *size))).tofile(image_file)


def _read_pair(manifest: Manifest, row: Row) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(manifest.image_path(row))
    if row.mask is None:
        return image, np.zeros(image.shape[:2], np.uint8)
    mask = read_mask(manifest.mask_path(row))
    if tuple(mask.shape) != tuple(image.shape[:2]):
        raise DataError(
            f"{row.image} has {image.shape[0]} x {image.shape[1]} pixels, its mask {row.mask} has "
            f"{mask.shape[0]} x {mask.shape[1]}. They must agree; remove the row or resize one of them."
        )
    return image, mask
