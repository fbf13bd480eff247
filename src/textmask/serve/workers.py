"""A few threads that do the work, and a queue that is full at some point."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from textmask.serve.problems import Problem

T = TypeVar("T")


class Workers:
    """Threads behind a bounded queue.

    Attributes:
        refused: how often there was no room.
    """

    def __init__(self, threads: int = 1, queue: int = 16) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="textmask")
        self._threads, self._room = threads, threads + queue
        self._lock = threading.Lock()
        self._pending = 0
        self._seconds = 0.1  # of one piece of work, moving average
        self.refused = 0

    @property
    def pending(self) -> int:
        """Pieces of work that wait or run."""
        return self._pending

    @property
    def full(self) -> bool:
        """Whether the next one is refused."""
        return self._pending >= self._room

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread and wait for it; a caller that is cancelled while it waits takes its work along.

        Raises:
            Problem: 429, the queue is full.
        """
        return await asyncio.wrap_future(self._submit(work))

    def in_line(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread however full the queue is; for a caller that sends one after the other."""
        return self._pool.submit(self._timed, work).result()

    def close(self) -> None:
        """Let go of what waits and finish what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._pending >= self._room:
                self.refused += 1
                wait = max(1, math.ceil(self._pending * self._seconds / self._threads))
                message = f"{self._pending} requests wait already; try again in {wait} s."
                raise Problem(429, "busy", message, {"Retry-After": str(wait)})
            self._pending += 1
        try:
            future = self._pool.submit(self._timed, work)
        except RuntimeError as error:
            self._leave()
            raise Problem(503, "stopping", "the service is stopping.") from error
        future.add_done_callback(lambda _: self._leave())
        return future

    def _leave(self) -> None:
        with self._lock:
            self._pending -= 1

    def _timed(self, work: Callable[[], T]) -> T:
        begin = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds += 0.1 * (time.perf_counter() - begin - self._seconds)
