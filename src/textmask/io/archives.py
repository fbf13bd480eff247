"""Zip archives from elsewhere: looked at before anything is written, and unpacked by one function only."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from textmask.errors import DataError

MAX_RATIO = 200  # unpacked to packed; weights hardly shrink, text shrinks tenfold
MAX_BYTES = 8 << 30
MAX_ENTRIES = 10_000
SMALL = 1 << 20  # below that much altogether the ratio does not matter


def check_archive(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive, none of which is dangerous.

    Raises:
        DataError: no zip archive, or an entry that leaves the folder, is a link or a device, or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is no readable zip archive ({error}).") from error
    for entry in entries:
        _check_name(path, entry)
    total, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if (
        len(entries) > MAX_ENTRIES
        or total > MAX_BYTES
        or (total > SMALL and total > MAX_RATIO * packed)
    ):
        raise DataError(
            f"{path}: {len(entries)} entries of {total} bytes from {packed}; at most {MAX_ENTRIES} entries, "
            f"{MAX_BYTES} bytes and {MAX_RATIO} times the size of the archive are unpacked."
        )
    return entries


def _check_name(path: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.filename.replace("\\", "/")
    pure, kind = PurePosixPath(name), stat.S_IFMT(entry.external_attr >> 16)
    if not name or pure.is_absolute() or ".." in pure.parts or ":" in name or "\0" in name:
        raise DataError(
            f"{path}: the entry {entry.filename[:80]!r} would be written outside the folder. Refused."
        )
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(
            f"{path}: the entry {entry.filename[:80]!r} is a link or a device. Refused."
        )


def safe_extract(path: Path, folder: Path) -> None:
    """Unpack a zip archive into an existing folder.

    No more is written than the entries announce, whatever the packed data hold.

    Raises:
        DataError: as `check_archive`, or damaged data.
    """
    entries = check_archive(path)
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(entry) as source, target.open("xb") as out:
                    shutil.copyfileobj(source, out)
            except (
                zipfile.BadZipFile,
                OSError,
                EOFError,
                RuntimeError,
                NotImplementedError,
            ) as error:
                raise DataError(
                    f"{path}: the entry {entry.filename[:80]!r} is damaged ({error})."
                ) from error
