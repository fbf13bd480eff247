"""Thread pool with a bounded queue."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import torch

from textmask.errors import ConfigError
from textmask.runs.session import find_device
from textmask.serve.problems import Problem

T = TypeVar("T")
MOST_ABANDONED = 4  # threads whose call took too long
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


class _Call(Generic[T]):
    """A call that waits or runs."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work, self.future = work, Future[T]()
        self.begun: float | None = None
        self.thread: threading.Thread | None = None
        self.abandoned = False

    def run(self) -> None:
        """Call `work` unless it was cancelled, and hand on its result or its exception."""
        if not self.future.set_running_or_notify_cancel():
            return
        self.begun, self.thread = time.monotonic(), threading.current_thread()
        try:
            result = self.work()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Workers:
    """Threads behind a bounded queue.

    Python cannot stop a thread. A call that takes too long is left to its thread, which another one replaces, so that
    it keeps nobody waiting; of such threads there are at most `MOST_ABANDONED`.

    Args:
        threads: number of threads.
        queue: calls that may wait.

    Attributes:
        refused: number of calls refused because the queue was full.
    """

    def __init__(self, threads: int = 1, queue: int = 16) -> None:
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._threads, self._room = threads, threads + queue
        self._lock = (
            threading.RLock()
        )  # a call that is cancelled leaves in the thread that cancels it
        self._running: set[threading.Thread] = set()
        self._pending = self._abandoned = 0
        self._closed = False
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
            seconds: time that the call may run, without waiting for a thread; None sets no limit. After it nobody
                waits for the call, and another thread takes the place of its own.

        Raises:
            Problem: 429 if the queue is full, 422 if the call takes too long.
        """
        call = self._submit(work)
        future = asyncio.wrap_future(call.future)
        if seconds is None:
            return await future
        try:
            while True:
                # a call that waits for a thread has all its time left
                begun = call.begun
                left = seconds if begun is None else begun + seconds - time.monotonic()
                if begun is not None and left <= 0:
                    self._abandon(call)
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
        call = _Call(lambda: self._timed(work))
        with self._lock:
            self._refuse_closed()
            self._put(call)
        return call.future.result()

    def close(self) -> None:
        """Cancel waiting calls and finish running ones; those that took too long are left alone."""
        with self._lock:
            self._closed = True
            with suppress(Empty):
                while (call := self._calls.get_nowait()) is not None:
                    call.future.cancel()
            threads = list(self._running)
            for _ in threads:
                self._calls.put(None)
        for thread in threads:
            thread.join()

    def _submit(self, work: Callable[[], T]) -> _Call[T]:
        call = _Call(lambda: self._timed(work))
        with self._lock:
            self._refuse_closed()
            if self._pending >= self._room:
                self.refused += 1
                wait = max(1, math.ceil(self._pending * self._seconds / self._threads))
                message = f"{self._pending} requests are waiting. Try again in {wait} s."
                raise Problem(429, "busy", message, {"Retry-After": str(wait)})
            self._pending += 1
            call.future.add_done_callback(lambda _: self._leave(call))
            self._put(call)
        return call

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Problem(503, "stopping", "the service is stopping.")

    def _put(self, call: _Call[Any]) -> None:
        """Queue a call, and start a thread if there are fewer than there may be."""
        self._calls.put(call)
        if len(self._running) < self._threads:
            self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="textmask-worker", daemon=True)
        self._running.add(thread)
        thread.start()

    def _work(self) -> None:
        mine = threading.current_thread()
        while (call := self._calls.get()) is not None:
            call.run()
            with self._lock:
                if call.abandoned:  # another thread has its place
                    self._abandoned -= 1
                    return
        with self._lock:
            self._running.discard(mine)

    def _abandon(self, call: _Call[Any]) -> None:
        """Give the place of a call that runs too long, and of its thread, to others."""
        with self._lock:
            if call.future.done() or self._abandoned >= MOST_ABANDONED or self._closed:
                return
            call.abandoned = True
            self._abandoned += 1
            self._pending -= 1
            if call.thread is not None:
                self._running.discard(call.thread)
            self._start()

    def _leave(self, call: _Call[Any]) -> None:
        with self._lock:
            self._pending -= not call.abandoned

    def _timed(self, work: Callable[[], T]) -> T:
        begin = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds += 0.1 * (time.perf_counter() - begin - self._seconds)
