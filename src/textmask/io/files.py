"""Atomic writes, hashes, and size limits on what is read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError, DataError

MAX_FILE_BYTES = 1 << 30  # also the limit for the inflated content of a compressed file
STEP = 1 << 20
GZIP = b"\x1f\x8b"
UNFINISHED = ".part"  # the end of the names of files and folders that are being written


def temporary_name(path: Path) -> Path:
    """A new hidden name next to `path`, unique also among the hosts of shared storage: it names its writer."""
    writer = f"{this_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:32]}.{writer}{UNFINISHED}")


def this_host() -> str:
    """The name of this machine, as it stands in the names of unfinished files."""
    return re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:32] or "host"


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove the unfinished files and folders that writers of this machine left here or one folder below.

    What another machine writes is left alone: nobody can see from here whether its writer still runs.

    Returns:
        What was removed.
    """
    removed = []
    for path in sorted((*folder.glob(f".*{UNFINISHED}"), *folder.glob(f"*/.*{UNFINISHED}"))):
        found = re.fullmatch(rf"\..*\.([^.]+)-(\d+)-[0-9a-f]+{re.escape(UNFINISHED)}", path.name)
        if found is None or found[1] != this_host() or is_running(int(found[2])):
            continue

        # best effort: a folder that may not be written keeps its leftovers
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        removed.append(path)
    return removed


def is_running(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new path in the same folder, renamed to `path` when the block ends; readers see the old or the new file.

    The content is on the disk before the rename makes it visible, and the file has the permissions that the umask
    gives. If the block raises, the file at `path` is left unchanged and the new one is removed.
    """
    temporary = temporary_name(path)
    try:
        # created here, because some writers (safetensors) create files that only the owner can read
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        if temporary.stat().st_mode & 0o777 != mode:
            temporary.chmod(mode)

        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def flush_to_disk(path: Path) -> None:
    """Return when a file or the list of a folder is on the disk; folders of some file systems cannot be flushed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # a full disk may show only now
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(handle)


def what_to_do(number: int | None) -> str:
    """What a user can do about the error number of a file that cannot be written."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space on the disk, or choose another folder."
    if number in (errno.EACCES, errno.EPERM):
        return "Change the permissions of the folder, or choose another one."
    if number == errno.EROFS:
        return "The file system is read-only; choose another folder."
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "Check that the folder exists; it may have been deleted or moved."
    return "Check that the folder exists and is writable, and that the disk has space left."


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        DataError: the folder is missing or read-only, or the disk is full. An existing file is left unchanged.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}). {what_to_do(error.errno)}"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON with two spaces of indentation, atomically.

    Raises:
        DataError: as `write_whole`.
        ValueError: the value contains NaN or an infinite number.
    """
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a run folder.

    Raises:
        CheckpointError: the file is missing, unreadable, or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist. Is {path.parent} a run folder made by `textmask train`?"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged: it is not JSON ({error}). Copy it again from where it was made; a damaged recipe.json "
            f"is restored by: textmask train --resume {path.parent}"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} contains a {type(value).__name__}, expected a JSON object.")
    return value


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Read the bytes of a file.

    Args:
        path: the file.
        limit: largest accepted size in bytes.

    Raises:
        DataError: the file is missing, not a regular file, unreadable, empty, or larger than `limit`.
    """
    name = path.name
    if not path.exists():
        raise DataError(f"{name}: no such file. Check the path and the case of the letters.")
    if not path.is_file():
        raise DataError(f"{name}: is a directory or a device, expected a file.")
    try:
        check_size(path.stat().st_size, name, limit)
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror}). Check its permissions."
        ) from error


def check_size(size: int, name: str, limit: int = MAX_FILE_BYTES) -> None:
    """Refuse an empty or an oversized file.

    Raises:
        DataError: 0 bytes, or more than `limit`.
    """
    if not size:
        raise DataError(f"{name}: is empty (0 bytes). Copy or download it again.")
    if size > limit:
        raise DataError(
            f"{name}: has {size:,} bytes; the limit is {limit:,}. Split or crop it first."
        )


def inflate(
    data: bytes | memoryview, name: str, limit: int = MAX_FILE_BYTES, gzip: bool = False
) -> bytes:
    """Inflate raw deflate (DICOM) or gzip (NIfTI), in steps, so that never more than `limit` bytes are held.

    Args:
        data: the compressed bytes.
        name: what error messages call the file.
        limit: largest accepted size of the result in bytes.
        gzip: `data` is gzip, possibly of several members, instead of raw deflate.

    Raises:
        DataError: the data are damaged or truncated, or inflate to more than `limit` bytes.
    """
    view, at, size = memoryview(data), 0, 0
    out: list[bytes] = []
    try:
        while True:
            member = zlib.decompressobj(31 if gzip else -15)
            while not member.eof:
                fresh = b"" if member.unconsumed_tail else view[at : at + STEP]
                at += len(fresh)
                part = member.decompress(
                    member.unconsumed_tail or fresh, min(STEP, limit + 1 - size)
                )

                # one byte more than the limit is enough to refuse the rest unread
                size += len(part)
                if size > limit:
                    raise DataError(
                        f"{name}: inflates to more than {limit:,} bytes, which is the limit. Split or crop it first."
                    )
                if not (part or fresh or member.unconsumed_tail or member.eof):
                    raise DataError(
                        f"{name}: the compressed data end too early. Copy or download it again."
                    )
                out.append(part)

            # what follows the last member is padding
            at -= len(member.unused_data)
            if not gzip or bytes(view[at : at + 2]) != GZIP:
                return b"".join(out)
    except zlib.error as error:
        raise DataError(
            f"{name}: the compressed data are damaged ({error}). Copy or download it again."
        ) from error


def first_bytes(data: bytes, count: int) -> bytes:
    """The first `count` bytes of a file, inflated if it is gzip; fewer if the file is shorter or damaged."""
    if not data.startswith(GZIP):
        return data[:count]
    try:
        return zlib.decompressobj(31).decompress(data, count)
    except zlib.error:
        return b""
