"""What the files of a data set contain: a hash of each, reread only where size or time of the file has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import Path

import xxhash

from textmask.data.cache_folder import cache_folder
from textmask.data.manifest import Manifest, Row
from textmask.io.files import write_whole
from textmask.progress import Progress, with_progress

FORMAT = 2  # 2: in columns
THREADS = 4
MISSING = ""  # the hash of a file that cannot be read; who decodes it says why
Stamp = tuple[int, int]
ABSENT: Stamp = (-1, 0)


def file_stamp(path: Path | str) -> Stamp:
    """Size and time of a file, which change when it is written; `ABSENT` if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return ABSENT
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
    wanted = sorted(dict.fromkeys(paths))
    root = f"{manifest.root}/"  # joining strings is far quicker than joining paths
    stamps = [file_stamp(root + path) for path in wanted]

    # nothing has changed: what every call but the first finds
    if not verify and known.names == wanted and known.stamps == stamps and ABSENT not in stamps:
        return dict(zip(wanted, known.hashes, strict=True))

    entries = known.entries()
    stale = []
    for path, stamp in zip(wanted, stamps, strict=True):
        if verify or stamp == ABSENT or path not in entries or entries[path][0] != stamp:
            stale.append((path, stamp))
    if stale:
        with ThreadPoolExecutor(THREADS) as pool:
            hashes = pool.map(hash_file, [manifest.root / path for path, _ in stale])
            for path, stamp in with_progress(stale, "file contents", progress):
                entries[path] = (stamp, next(hashes))
        _store_index(index, entries)
    return {path: entries[path][1] for path in wanted}


def content_hash(manifest: Manifest, rows: Iterable[Row], hashes: Mapping[str, str]) -> str:
    """SHA-256 (hex) of rows, their files and the mask rule, independent of the order of the rows and of their place.

    Args:
        manifest: the data set, with its mask rule.
        rows: the rows that matter, e.g. those of one split.
        hashes: of all their files (`file_hashes`).
    """
    lines = []
    for row in rows:
        mask = hashes.get(row.mask or "")
        key, text = encode_basestring_ascii(manifest.key(row)), encode_basestring_ascii(row.text)
        label = ", ".join(map(str, row.label))
        ending = "null" if mask is None else f'"{mask}"'
        lines.append(f'[{key}, {text}, [{label}], "{hashes[row.image]}", {ending}]')  # as JSON
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


@dataclass(frozen=True)
class _Index:
    """The remembered hashes, in columns: names in order, their stamps and hashes."""

    names: list[str]
    stamps: list[Stamp]
    hashes: list[str]

    def entries(self) -> dict[str, tuple[Stamp, str]]:
        """Stamp and hash by name."""
        found = zip(self.stamps, self.hashes, strict=True)
        return dict(zip(self.names, found, strict=True))


@lru_cache(maxsize=1)
def _load_index(path: Path, stamp: Stamp) -> _Index:
    """The index of a folder; empty if it is absent, damaged or of another version. Read again with a new stamp."""
    try:
        version, names, sizes, times, hashes = json.loads(path.read_text(encoding="utf-8"))
        if version == FORMAT and {*map(type, names), *map(type, hashes)} <= {str}:
            stamps = list(zip(sizes, times, strict=True))
            if len(names) == len(stamps) == len(hashes):
                return _Index(names, stamps, hashes)
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return _Index([], [], [])


def _store_index(path: Path, entries: Mapping[str, tuple[Stamp, str]]) -> None:
    """Write the index; a read-only cache only costs the next call the same reading."""
    names = sorted(name for name, (_, digest) in entries.items() if digest)
    stamps = [entries[name][0] for name in names]
    sizes, times = [size for size, _ in stamps], [time for _, time in stamps]
    hashes = [entries[name][1] for name in names]
    with contextlib.suppress(Exception):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps([FORMAT, names, sizes, times, hashes]).encode())
