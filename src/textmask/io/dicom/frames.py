"""Check compressed DICOM frames before a decoder sees them: a small frame must not inflate to gigabytes."""

from __future__ import annotations

import itertools
import struct

RLE = "1.2.840.10008.1.2.5"
SOF = frozenset(
    {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
)  # frame headers of JPEG and JPEG-LS


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns according to a JPEG, JPEG-LS or JPEG 2000 code stream; None if it does not say."""
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:  # SOC and SIZ of JPEG 2000
        right, bottom, left, top = struct.unpack(">4I", frame[8:24])
        return bottom - top, right - left
    if frame[:2] != b"\xff\xd8":
        return None

    # walk along the JPEG markers up to the frame header
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in SOF:
            return struct.unpack(">2H", frame[at + 5 : at + 9])
        else:
            at += 2 + max(2, int.from_bytes(frame[at + 2 : at + 4], "big"))
    return None


def rle_length(frame: bytes) -> int:
    """Number of bytes that all segments of an RLE frame inflate to."""
    if len(frame) < 64:
        return 0
    count, *offsets = struct.unpack("<16I", frame[:64])
    offsets = [*offsets[: min(count, 15)], len(frame)]
    return sum(_segment(frame, at, min(end, len(frame))) for at, end in itertools.pairwise(offsets))


def _segment(frame: bytes, at: int, end: int) -> int:
    size = 0
    while at < end:
        run = frame[at]
        if run > 128:  # the next byte, repeated
            size += 257 - run
            at += 2
        elif run < 128:  # this many literal bytes
            size += run + 1
            at += run + 2
        else:
            at += 1
    return size
