"""Files written whole or not at all, their hashes, and limits on what is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError, DataError

MAX_FILE_BYTES = 1 << 30  # also of what a compressed file inflates to
STEP = 1 << 20
GZIP = b"\x1f\x8b"


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old or the new file, never half of one.

    Raises:
        OSError: e.g. a full disk; the previous file is left as it was.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes may write the same file
    try:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: into a neighbour first, then renamed over `path`.

    Raises:
        DataError: the folder is missing or read-only, or the disk is full; an older file at `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name[:32]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{path}: cannot be written ({error.strerror}). Check that the folder exists, is yours, and has space left."
        ) from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder.

    Raises:
        CheckpointError: missing or no JSON object.
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
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object.")
    return value


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: missing, no file, not readable, empty, or larger than `limit`.
    """
    name = path.name
    if not path.exists():
        raise DataError(f"{name}: no such file. Check the path, and the letter case of its name.")
    if not path.is_file():
        raise DataError(f"{name}: is a folder or device, expected a file.")
    try:
        check_size(path.stat().st_size, name, limit)
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{name}: may not be read ({error.strerror}). Check its permissions."
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
            f"{name}: has {size:,} bytes, at most {limit:,} are read. Split or crop it first."
        )


def inflate(
    data: bytes | memoryview, name: str, limit: int = MAX_FILE_BYTES, gzip: bool = False
) -> bytes:
    """Inflate raw deflate (DICOM) or gzip (NIfTI, also of several members), never beyond `limit`.

    Raises:
        DataError: damaged, truncated, or larger than `limit` when inflated; then at most `limit` bytes were made.
    """
    view, at, size = memoryview(data), 0, 0
    out: list[bytes] = []
    try:
        while True:
            engine = zlib.decompressobj(31 if gzip else -15)
            while not engine.eof:
                fresh = b"" if engine.unconsumed_tail else view[at : at + STEP]
                at += len(fresh)
                part = engine.decompress(
                    engine.unconsumed_tail or fresh, min(STEP, limit + 1 - size)
                )
                size += len(part)
                if size > limit:
                    raise DataError(
                        f"{name}: inflates to more than {limit:,} bytes, at most these are read."
                    )
                if not (part or fresh or engine.unconsumed_tail or engine.eof):
                    raise DataError(
                        f"{name}: its compressed part ends too early. Copy or download it again."
                    )
                out.append(part)
            at -= len(engine.unused_data)
            if not gzip or bytes(view[at : at + 2]) != GZIP:  # no further member: padding
                return b"".join(out)
    except zlib.error as error:
        raise DataError(
            f"{name}: its compressed part is damaged ({error}). Copy or download it again."
        ) from error


def first_bytes(data: bytes, count: int) -> bytes:
    """The first bytes of a file, inflated where it is gzip; fewer where it is shorter or damaged."""
    if not data.startswith(GZIP):
        return data[:count]
    try:
        return zlib.decompressobj(31).decompress(data, count)
    except zlib.error:
        return b""
