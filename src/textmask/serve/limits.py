"""What the service accepts: caps, hosts, the token, places of jobs, and kinds of files by their first bytes."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.errors import ConfigError
from textmask.text.words import MAX_LENGTH

MAX_SENTENCE = (
    MAX_LENGTH  # characters; the grammar reads no further, and a token is at least one character
)
MAX_JSON_BYTES = 64 * 1024
MEBI = 1024 * 1024


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
        small = [
            name
            for name, value in vars(self).items()
            if value < (0 if name in ("queue", "body_seconds") else 1)
        ]
        if small:
            raise ConfigError(f"{small[0]} is {vars(self)[small[0]]}, expected at least 1.")
        if self.store_bytes < 3 * self.max_pixels:
            raise ConfigError(
                f"max_pixels {self.max_pixels:,} is more than the store of {self.store_bytes:,} bytes can hold; "
                f"at most {self.store_bytes // 3:,}."
            )
