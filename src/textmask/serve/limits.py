"""What the service accepts: caps, hosts, the token, places of jobs, and kinds of files by their first bytes."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from textmask.errors import ConfigError
from textmask.serve.problems import Problem
from textmask.text.words import MAX_LENGTH

MAX_SENTENCE = MAX_LENGTH  # characters; the grammar reads no further, and a token is at least one character
MAX_JSON_BYTES = 64 * 1024
MEBI = 1024 * 1024
# kind of a file: where its mark stands, and the mark
MARKS = (
    ("png", 0, b"\x89PNG\r\n\x1a\n"),
    ("jpeg", 0, b"\xff\xd8\xff"),
    ("tiff", 0, b"II*\0"),
    ("tiff", 0, b"MM\0*"),
    ("bmp", 0, b"BM"),
    ("dicom", 128, b"DICM"),
    ("gzip", 0, b"\x1f\x8b"),
    ("nifti", 344, b"n+1\0"),
)


@dataclass(frozen=True)
class Limits:
    """Everything that bounds what a client can make the service do.

    Attributes:
        max_bytes: of one uploaded file with its multipart envelope.
        max_pixels: of one picture, rows times columns, checked before it is decoded.
        queue: requests that may wait for a worker; more are refused with 429.
        workers: threads that decode and segment.
        body_seconds: in which the whole body of a request must arrive.
        images: pictures kept open; the one unused for longest goes first.
        store_bytes: of all kept pictures together.
        keep_seconds: after which an unused picture is forgotten.
        jobs: folders that may wait or run at once.
        job_rows: pictures of one job.

    Raises:
        ConfigError: a bound below 1, or a store that cannot hold the largest picture.
    """

    max_bytes: int = 64 * MEBI
    max_pixels: int = 25_000_000
    queue: int = 16
    workers: int = 1
    body_seconds: float = 30.0
    images: int = 1000
    store_bytes: int = 1024 * MEBI
    keep_seconds: float = 1800.0
    jobs: int = 8
    job_rows: int = 10_000

    def __post_init__(self) -> None:
        small = [name for name, value in vars(self).items() if value < (0 if name in ("queue", "body_seconds") else 1)]
        if small:
            raise ConfigError(f"{small[0]} is {vars(self)[small[0]]}, expected at least 1.")
        if self.store_bytes < 3 * self.max_pixels:
            raise ConfigError(
                f"max_pixels {self.max_pixels:,} is more than the store of {self.store_bytes:,} bytes can hold; "
                f"at most {self.store_bytes // 3:,}."
            )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name in a Host header or an origin, without port, lower case: "[::1]:8000" -> "::1"."""
    try:
        return urlsplit(header if "//" in header else f"//{header}").hostname or ""
    except ValueError:
        return ""


def same_token(got: str, expected: str) -> bool:
    """Compare in a time that does not tell how much of it was right."""
    return hmac.compare_digest(got.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


def kind_of(head: bytes) -> str | None:
    """png, jpeg, tiff, bmp, dicom, nifti or gzip by the first 512 bytes of a file; None when it is none of them."""
    return next((kind for kind, at, mark in MARKS if head[at : at + len(mark)] == mark), None)


def below(root: Path, text: str) -> Path:
    """The path `text` names below `root`, symbolic links followed.

    Raises:
        Problem: 403, when it is absolute, leads out, or is no path.
    """
    outside = Problem(403, "outside_jobs_root", "the path must be relative and stay inside the jobs folder.")
    if "\0" in text or "\\" in text or Path(text).is_absolute():
        raise outside
    try:
        base, path = root.resolve(), (root / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise outside from error
    if not path.is_relative_to(base):
        raise outside
    return path
