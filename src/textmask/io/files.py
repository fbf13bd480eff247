"""Atomic writes, hashes, and size limits on what is read."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError, DataError

MAX_FILE_BYTES = 1 << 30  # also the limit for the inflated content of a compressed file
STEP = 1 << 20
GZIP = b"\x1f\x8b"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new path in the same folder, renamed to `path` when the block ends; readers see the old or the new file.

    If the block raises, the file at `path` is left unchanged and the new one is removed.
    """
    # random, because processes on several hosts may write the same file and their numbers may be equal
    temporary = path.with_name(f".{path.name[:32]}.{secrets.token_hex(8)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


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
            f"{path}: cannot be written ({error.strerror}). Check that the folder exists and is writable, and that "
            "the disk has space left."
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
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
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
