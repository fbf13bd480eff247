"""What the files of a data set contain: a hash of each, reread only where size or time of the file has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import xxhash

from textmask.data.cache_folder import cache_folder
from textmask.data.manifest import Manifest, Row
from textmask.io.files import write_whole
from textmask.progress import Progress, with_progress

FORMAT = 1
THREADS = 4
MISSING = ""  # the hash of a file that cannot be read; who decodes it says why
Stamp = tuple[int, int]


def file_stamp(path: Path | str) -> Stamp:
    """Size and time of a file, which change when it is written; (-1, 0) if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


def hash_file(path: Path) -> str:
    """XXH3 (128 bits, hex) of the bytes of a file; `MISSING` if it cannot be read."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
    except OSError:
        return MISSING
    return digest.hexdigest()


def file_hashes(
    manifest: Manifest,
    paths: Iterable[str],
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    *,
    verify: bool = False,
) -> dict[str, str]:
    """The content hash of each file; known ones are remembered in the cache folder, by size and time of the file.

    Args:
        manifest: the data set.
        paths: files relative to its root.
        cache_dir: folder of the cache; None means the user's.
        progress: called with (task, done, total) while files are read.
        verify: read every file again, whatever its size and time.
    """
    index = _index_path(manifest, cache_dir)
    known = _load_index(index, file_stamp(index))
    wanted = sorted(set(paths))
    root = str(manifest.root)  # joining strings is far quicker than joining paths
    stamps = {path: file_stamp(os.path.join(root, path)) for path in wanted}
    stale = [
        path
        for path in wanted
        if verify or path not in known or known[path][0] != stamps[path] or stamps[path][0] < 0
    ]
    if stale:
        known = dict(known)
        with ThreadPoolExecutor(THREADS) as pool:
            hashes = pool.map(hash_file, [manifest.root / path for path in stale])
            for path in with_progress(stale, "file contents", progress):
                known[path] = (stamps[path], next(hashes))
        # a read-only cache only costs the next call the same reading
        with contextlib.suppress(Exception):
            index.parent.mkdir(parents=True, exist_ok=True)
            readable = {path: entry for path, entry in known.items() if entry[1]}
            write_whole(index, json.dumps([FORMAT, readable]).encode())
    return {path: known[path][1] for path in wanted}


def content_hash(manifest: Manifest, rows: Iterable[Row], hashes: Mapping[str, str]) -> str:
    """SHA-256 (hex) of rows, their files and the mask rule, independent of the order of the rows and of their place.

    Args:
        manifest: the data set, with its mask rule.
        rows: the rows that matter, e.g. those of one split.
        hashes: of all their files (`file_hashes`).
    """
    lines = [
        json.dumps(
            [manifest.key(row), row.text, row.label, hashes[row.image], hashes.get(row.mask or "")]
        )
        for row in rows
    ]
    read = repr(manifest.mask_rule) + (" nearest" if manifest.resize_masks else "")
    return hashlib.sha256("\n".join([read, *sorted(lines)]).encode()).hexdigest()


def verify_contents(
    manifest: Manifest, cache_dir: Path | None = None, progress: Progress | None = None
) -> list[str]:
    """Read every file of a data set again; returns those that changed although their size and time did not."""
    paths = [path for row in manifest.rows for path in (row.image, row.mask) if path]
    before = file_hashes(manifest, paths, cache_dir, progress)
    after = file_hashes(manifest, paths, cache_dir, progress, verify=True)
    return sorted(path for path in after if after[path] != before[path])


def _index_path(manifest: Manifest, cache_dir: Path | None) -> Path:
    root = hashlib.sha256(str(manifest.root.resolve()).encode()).hexdigest()[:24]
    return cache_folder(cache_dir) / f"{root}.contents"


@lru_cache(maxsize=1)
def _load_index(path: Path, stamp: Stamp) -> Mapping[str, tuple[Stamp, str]]:
    """The remembered hashes; none if the file is absent, damaged or of another version. Read again with a new stamp."""
    try:
        version, entries = json.loads(path.read_text(encoding="utf-8"))
        if version != FORMAT:
            return {}
        return {
            name: ((int(size), int(time)), str(found))
            for name, ((size, time), found) in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
