"""The folder of decoded images and of what is known about files: what is in it, its size limit, and damage."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from textmask.errors import ConfigError
from textmask.io.files import temporary_name

BLOCK = 1 << 26  # bytes that share a checksum
ALWAYS_CHECKED = (
    1 << 30
)  # bytes; larger files are read for their checksums only if their size or time has changed
MAPS = ("images", "masks")
UNPACKED = "unpacked"  # folder of the files of shards
SUFFIXES = (".json", *(f".{name}.memmap" for name in MAPS))
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Cache folder: `cache_dir`, or $TEXTMASK_CACHE, or `.cache/textmask` in the home folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(os.environ.get("TEXTMASK_CACHE") or Path.home() / ".cache" / "textmask")


def size_limit() -> int | None:
    """The owner's limit in bytes, $TEXTMASK_CACHE_LIMIT such as 20G; None without one.

    Raises:
        ConfigError: the variable is not a size.
    """
    text = os.environ.get("TEXTMASK_CACHE_LIMIT", "").strip()
    return byte_count(text, "TEXTMASK_CACHE_LIMIT") if text else None


def byte_count(text: str, what: str) -> int:
    """The number of bytes in a size such as 500M or 20G.

    Raises:
        ConfigError: it is not a size; the message begins with `what`.
    """
    plain = text.strip().upper().removesuffix("B")
    number, unit = (plain[:-1], plain[-1]) if plain[-1:] in ("K", "M", "G", "T") else (plain, "")
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, OverflowError):
        raise ConfigError(f"{what} is {text!r}, expected a size such as 500M or 20G.") from None


@dataclass(frozen=True)
class CacheEntry:
    """One decoded split.

    Attributes:
        stem: its files are named `stem` and a suffix of `SUFFIXES`.
        data, split, rows: what was decoded.
        size: bytes of its files.
        used: seconds since 1970 of its last use.
    """

    stem: Path
    data: str
    split: str
    rows: int
    size: int
    used: float


def cache_entries(cache_dir: Path | None = None) -> list[CacheEntry]:
    """What the cache holds, the longest unused first."""
    found = []
    for info in cache_folder(cache_dir).glob("*.json"):
        stem = info.with_suffix("")
        files = [stem.with_suffix(suffix) for suffix in SUFFIXES]
        meta = read_meta(info) or {}
        with contextlib.suppress(OSError):
            size = sum(path.stat().st_size for path in files if path.exists())
            rows = len(meta.get("images", ()))
            names = str(meta.get("data", "?")), str(meta.get("split", "?"))
            found.append(CacheEntry(stem, *names, rows, size, info.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def read_meta(info: Path) -> dict[str, Any] | None:
    """The description of a decoded split; None if it is absent or damaged."""
    try:
        meta = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def remove_entries(entries: Iterable[CacheEntry]) -> int:
    """Remove decoded splits; returns the bytes that became free."""
    freed = 0
    for entry in entries:
        # the description first, so that a reader never finds it without the rest
        for suffix in SUFFIXES:
            entry.stem.with_suffix(suffix).unlink(missing_ok=True)
        freed += entry.size
    return freed


def remove_other_files(cache_dir: Path | None = None, older_than: float = 0.0) -> int:
    """Remove the rest of the cache that is `older_than` seconds old: leftovers, unpacked shards. Returns the bytes."""
    freed = 0
    for path in cache_folder(cache_dir).glob("*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            if path.suffix in (".part", ".maskvalues", ".contents", ".memmap") and (
                time.time() - stat.st_mtime >= older_than
            ):
                path.unlink()
                freed += stat.st_size
    for folder in unpacked_folders(cache_dir):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime >= older_than:
                size, gone = folder_bytes(folder), temporary_name(folder)
                folder.rename(gone)  # half a folder must not count as unpacked
                freed += size
                shutil.rmtree(gone, ignore_errors=True)
    return freed


def unpacked_folders(cache_dir: Path | None = None) -> list[Path]:
    """The folders of the files of shards; the time of each says when it was last used."""
    return sorted(path for path in (cache_folder(cache_dir) / UNPACKED).glob("*") if path.is_dir())


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def keep_to_limit(keep: Path, cache_dir: Path | None = None) -> None:
    """Remove the longest unused splits, never `keep`, until the cache is below the owner's limit."""
    limit = size_limit()
    if limit is None:
        return
    entries = cache_entries(cache_dir)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        if total <= limit:
            return
        if entry.stem != keep:
            total -= remove_entries([entry])


def describe_file(path: Path) -> dict[str, Any]:
    """Size, time and checksums of a file of the cache, for `is_intact`."""
    stat = path.stat()
    return {"size": stat.st_size, "time": stat.st_mtime_ns, "blocks": _checksums(path)}


def is_intact(path: Path, told: dict[str, Any]) -> bool:
    """Whether a file is still what was written; large ones are read only if their size or time has changed."""
    try:
        stat = path.stat()
        if stat.st_size != told["size"]:
            return False
        if stat.st_size > ALWAYS_CHECKED and stat.st_mtime_ns == told["time"]:
            return True
        return bool(_checksums(path) == told["blocks"])
    except (OSError, KeyError, TypeError):
        return False


def _checksums(path: Path) -> list[str]:
    with path.open("rb") as stream:
        return [xxhash.xxh3_64_hexdigest(block) for block in iter(lambda: stream.read(BLOCK), b"")]
