"""Zip archives from untrusted sources: checked before anything is written, and unpacked by one function only."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from textmask.errors import DataError

MAX_RATIO = 200  # unpacked to packed size; weights hardly shrink, text shrinks tenfold
MAX_BYTES = 8 << 30
MAX_ENTRIES = 10_000
SMALL = 1 << 20  # bytes in total, below which the ratio does not matter


def check_archive(path: Path) -> list[zipfile.ZipInfo]:
    """List the entries of a zip archive and refuse dangerous ones.

    Raises:
        DataError: the file is not a zip archive, an entry leaves the folder, is a link or a device, or the archive
            unpacks to more than the limits.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a readable zip archive ({error}).") from error
    for entry in entries:
        _check_name(path, entry)

    # a bomb shows in the sizes that the entries announce
    total, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if (
        len(entries) > MAX_ENTRIES
        or total > MAX_BYTES
        or (total > SMALL and total > MAX_RATIO * packed)
    ):
        raise DataError(
            f"{path}: {len(entries)} entries unpack to {total} bytes from {packed}. The limits are {MAX_ENTRIES} "
            f"entries, {MAX_BYTES} bytes and {MAX_RATIO} times the size of the archive."
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

    No more is written than the entries announce, whatever the packed data contain.

    Args:
        path: the archive.
        folder: existing folder to unpack into.

    Raises:
        DataError: as `check_archive`, or the data are damaged.
    """
    entries = check_archive(path)
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue

            # "x" also refuses an entry that is there twice
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
