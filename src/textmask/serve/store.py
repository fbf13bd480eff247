"""Memory for uploads, limited in number, bytes and time."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from textmask.errors import ConfigError

T = TypeVar("T")
ID_PATTERN = r"^[A-Za-z0-9_-]{22}$"


def new_id() -> str:
    """A random id of 128 bits; an id reveals nothing about another."""
    return secrets.token_urlsafe(16)


@dataclass
class _Kept(Generic[T]):
    value: T
    size_bytes: int
    used: float


class Store(Generic[T]):
    """Values by unguessable id; the least recently used is evicted first. Safe to use from several threads.

    Args:
        most: maximum number of values.
        most_bytes: maximum size of all values together.
        seconds: time after which an unused value is evicted.
        clock: monotonic time in seconds.
        shed: makes a value smaller and returns its new size; called before any value is evicted for its size.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        shed: Callable[[T], int] | None = None,
    ) -> None:
        self._most, self._most_bytes, self._seconds, self._clock = most, most_bytes, seconds, clock
        self._shed = shed
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    def __len__(self) -> int:
        """Number of values."""
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Size of all values together."""
        return self._bytes

    def put(self, value: T, size_bytes: int) -> str:
        """Keep a value and evict older ones if needed; returns its id.

        Args:
            value: what to keep.
            size_bytes: its size.

        Raises:
            ConfigError: the value is larger than the whole store.
        """
        if size_bytes > self._most_bytes:
            raise ConfigError(
                f"{size_bytes:,} bytes do not fit a store of {self._most_bytes:,} bytes."
            )

        with self._lock:
            self._expire()
            self._fit(size_bytes)
            while len(self._kept) >= self._most:
                self._drop(next(iter(self._kept)))

            name = new_id()
            self._kept[name] = _Kept(value, size_bytes, self._clock())
            self._bytes += size_bytes
        return name

    def get(self, name: str) -> T | None:
        """The value with this id, which counts as used now; None if there is none or it has expired."""
        with self._lock:
            self._expire()
            kept = self._kept.get(name)
            if kept is None:
                return None
            kept.used = self._clock()
            self._kept.move_to_end(name)
            return kept.value

    def recount(self, name: str, size_bytes: int) -> None:
        """State the size of a value that has grown; others, or in the end it, are made smaller or evicted for it."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                return
            self._bytes += size_bytes - kept.size_bytes
            kept.size_bytes = size_bytes
            self._fit(0)

    def remove(self, name: str) -> bool:
        """Remove a value; returns whether there was one."""
        with self._lock:
            self._expire()
            if name not in self._kept:
                return False
            self._drop(name)
            return True

    def expire(self) -> None:
        """Evict values that were unused for too long; `put`, `get` and `remove` do this too."""
        with self._lock:
            self._expire()

    def _fit(self, size_bytes: int) -> None:
        """Make room; what can be computed again goes before what a client would have to upload again."""
        for kept in list(self._kept.values()):
            if self._shed is None or self._bytes + size_bytes <= self._most_bytes:
                break
            smaller = self._shed(kept.value)
            self._bytes += smaller - kept.size_bytes
            kept.size_bytes = smaller
        while self._kept and self._bytes + size_bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _expire(self) -> None:
        oldest = self._clock() - self._seconds
        while self._kept:
            name, kept = next(iter(self._kept.items()))
            if kept.used > oldest:
                return
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._bytes -= self._kept.pop(name).size_bytes
