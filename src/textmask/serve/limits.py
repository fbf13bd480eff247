"""Limits of the service."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.errors import ConfigError
from textmask.text.words import MAX_LENGTH

MAX_SENTENCE = MAX_LENGTH  # characters; the grammar reads no further
MAX_JSON_BYTES = 64 * 1024
MEBI = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Limits on what clients can make the service do.

    Attributes:
        max_bytes: maximum size of an upload in bytes, with its multipart envelope.
        max_pixels: maximum number of pixels per image, checked before decoding.
        queue: requests that may wait for a worker; more are refused with 429.
        workers: threads that segment.
        body_seconds: time in which the whole body of a request must arrive.
        decode_seconds: time in which an upload must be decoded, without waiting.
        images: images kept in memory; the least recently used is evicted first.
        store_bytes: maximum size of all kept images together.
        keep_seconds: time after which an unused image is evicted.
        jobs: jobs that may wait or run at the same time.
        job_rows: maximum number of images per job.

    Raises:
        ConfigError: a limit is below 1, or the store cannot hold the largest image.
    """

    max_bytes: int = 64 * MEBI
    max_pixels: int = 25_000_000
    queue: int = 16
    workers: int = 1
    body_seconds: float = 30.0
    decode_seconds: float = 20.0
    images: int = 1000
    store_bytes: int = 1024 * MEBI
    keep_seconds: float = 1800.0
    jobs: int = 8
    job_rows: int = 10_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("queue", "body_seconds", "decode_seconds") else 1
            if value < least:
                raise ConfigError(f"{name} is {value}, expected at least {least}.")
        if self.store_bytes < 3 * self.max_pixels:
            raise ConfigError(
                f"max_pixels is {self.max_pixels:,}, expected at most {self.store_bytes // 3:,}: the image store has "
                f"{self.store_bytes:,} bytes."
            )
