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
        DataError: missing, no file, empty, not readable, or larger than `limit`.
    """
    name = path.name
    if not path.exists():
        raise DataError(f"{name}: no such file. Check the path, and the letter case of its name.")
    if not path.is_file():
        raise DataError(f"{name}: is a folder or device, expected a file.")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1 if path.stat().st_size > limit else -1)
    except OSError as error:
        raise DataError(f"{name}: may not be read ({error.strerror}). Check its permissions.") from error
    check_size(data, name, limit)
    return data


def check_size(data: bytes, name: str, limit: int = MAX_FILE_BYTES) -> None:
    """Refuse an empty or an oversized file.

    Raises:
        DataError: 0 bytes, or more than `limit`.
    """
    if not data:
        raise DataError(f"{name}: is empty (0 bytes). Copy or download it again.")
    if len(data) > limit:
        raise DataError(f"{name}: has more than {limit:,} bytes, which is the limit. Split or crop it first.")


def inflate(data: bytes | memoryview, name: str, limit: int = MAX_FILE_BYTES, gzip: bool = False) -> bytes:
    """Inflate raw deflate (DICOM) or gzip (NIfTI, also of several members), never beyond `limit`.

    Raises:
        DataError: damaged, truncated, or larger than `limit` when inflated; then at most `limit` bytes were made.
    """
    out: list[bytes] = []
    size = 0
    rest = bytes(data)
    while rest:
        engine = zlib.decompressobj(31 if gzip else -15)
        while not engine.eof:
            try:
                part = engine.decompress(rest, min(STEP, limit + 1 - size))
            except zlib.error as error:
                raise DataError(f"{name}: its compressed part is damaged ({error}). Copy it again.") from error
            size += len(part)
            if size > limit:
                raise DataError(f"{name}: inflates to more than {limit:,} bytes, which is the limit.")
            if not part and not engine.unconsumed_tail and not engine.eof:
                raise DataError(f"{name}: its compressed part ends too early. Copy or download it again.")
            out.append(part)
            rest = engine.unconsumed_tail
        rest = engine.unused_data.lstrip(b"\0") if gzip else b""
        if not rest.startswith(GZIP):  # padding behind the last member
            break
    return b"".join(out)


def first_bytes(data: bytes, count: int) -> bytes:
    """The first bytes of a file, inflated where it is gzip; fewer where it is shorter or damaged."""
    if not data.startswith(GZIP):
        return data[:count]
    try:
        return zlib.decompressobj(31).decompress(data, count)
    except zlib.error:
        return b""
