"""Reading and inflating with a limit: a small file that grows to gigabytes is refused while it grows."""

from __future__ import annotations

import zlib
from pathlib import Path

from textmask.errors import DataError

MAX_FILE_BYTES = 1 << 30  # also of what a compressed file inflates to
STEP = 1 << 20
GZIP = b"\x1f\x8b"


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
        raise DataError(f"{name}: may not be read ({error.strerror}). Check its permissions.") from error


def check_size(size: int, name: str, limit: int = MAX_FILE_BYTES) -> None:
    """Refuse an empty or an oversized file.

    Raises:
        DataError: 0 bytes, or more than `limit`.
    """
    if not size:
        raise DataError(f"{name}: is empty (0 bytes). Copy or download it again.")
    if size > limit:
        raise DataError(f"{name}: has {size:,} bytes, at most {limit:,} are read. Split or crop it first.")


def inflate(data: bytes | memoryview, name: str, limit: int = MAX_FILE_BYTES, gzip: bool = False) -> bytes:
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
                part = engine.decompress(engine.unconsumed_tail or fresh, min(STEP, limit + 1 - size))
                size += len(part)
                if size > limit:
                    raise DataError(f"{name}: inflates to more than {limit:,} bytes, at most these are read.")
                if not (part or fresh or engine.unconsumed_tail or engine.eof):
                    raise DataError(f"{name}: its compressed part ends too early. Copy or download it again.")
                out.append(part)
            at -= len(engine.unused_data)
            if not gzip or bytes(view[at : at + 2]) != GZIP:  # no further member: padding
                return b"".join(out)
    except zlib.error as error:
        raise DataError(f"{name}: its compressed part is damaged ({error}). Copy or download it again.") from error


def first_bytes(data: bytes, count: int) -> bytes:
    """The first bytes of a file, inflated where it is gzip; fewer where it is shorter or damaged."""
    if not data.startswith(GZIP):
        return data[:count]
    try:
        return zlib.decompressobj(31).decompress(data, count)
    except zlib.error:
        return b""
