"""Thread pool with a bounded queue."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from textmask.errors import ConfigError
from textmask.runs.session import find_device
from textmask.serve.problems import Problem

T = TypeVar("T")
MAX_WORKERS = 4  # of `auto`: more would leave one request too few threads on a large machine


def worker_threads(wanted: str, device: str = "auto") -> tuple[int, int]:
    """Requests that run at the same time, and the CPU threads that each of them gets.

    Several small requests with one thread each are faster than one after the other with all of them. A GPU computes
    one at a time.

    Args:
        wanted: a number, or `auto`.
        device: of the model, see `find_device`.

    Raises:
        ConfigError: neither a number of at least 1 nor `auto`, or this machine does not have the device.
    """
    if wanted != "auto" and not (wanted.isdecimal() and int(wanted) >= 1):
        raise ConfigError(f"--workers is {wanted!r}, expected auto or a number of at least 1.")
    available = torch.get_num_threads()
    most = min(MAX_WORKERS, available) if find_device(device).type == "cpu" else 1
    count = most if wanted == "auto" else int(wanted)
    return count, max(1, available // count)


def share_threads(threads: int) -> None:
    """Let every request use that many CPU threads; torch has one setting per process."""
    torch.set_num_threads(threads)


class Workers:
    """Threads behind a bounded queue.

    Args:
        threads: number of threads.
        queue: calls that may wait.

    Attributes:
        refused: number of calls refused because the queue was full.
    """

    def __init__(self, threads: int = 1, queue: int = 16) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="textmask")
        self._threads, self._room = threads, threads + queue
        self._lock = threading.Lock()
        self._pending = 0
        self._seconds = 0.1  # moving average of the time per call
        self.refused = 0

    @property
    def pending(self) -> int:
        """Number of calls that wait or run."""
        return self._pending

    @property
    def full(self) -> bool:
        """Whether the next call is refused."""
        return self._pending >= self._room

    async def run(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Call `work` in a thread and wait for it. A caller that is cancelled while waiting also cancels its call.

        Args:
            work: what to call.
            seconds: time that the call may run, without waiting for a thread; None sets no limit. A call cannot be
                stopped: it keeps its thread until it ends, but nobody waits for it.

        Raises:
            Problem: 429 if the queue is full, 422 if the call takes too long.
        """
        begun: list[float] = []

        def noted() -> T:
            begun.append(time.monotonic())
            return work()

        future = asyncio.wrap_future(self._submit(noted))
        if seconds is None:
            return await future
        try:
            while True:
                # a call that waits for a thread has all its time left
                left = seconds if not begun else begun[0] + seconds - time.monotonic()
                if begun and left <= 0:
                    raise Problem(
                        422,
                        "too_slow",
                        f"the file could not be decoded within {seconds:g} s. Crop or convert it first.",
                    )
                done, _ = await asyncio.wait({future}, timeout=left)
                if done:
                    return future.result()
        finally:
            future.cancel()

    def in_line(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread even if the queue is full; for callers that send one call at a time."""
        return self._pool.submit(self._timed, work).result()

    def close(self) -> None:
        """Cancel waiting calls and finish running ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._pending >= self._room:
                self.refused += 1
                wait = max(1, math.ceil(self._pending * self._seconds / self._threads))
                message = f"{self._pending} requests are waiting. Try again in {wait} s."
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
