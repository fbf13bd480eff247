"""Write results while the next image is predicted: the disk and PNG compression wait for nobody's model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from textmask.errors import TextMaskError
from textmask.inference.results import BatchResult

AHEAD = 4  # results that may wait, each with its probabilities


class ResultWriter:
    """One thread that writes in the order of the calls, at most `AHEAD` results behind the model.

    At the end of the block everything is written; if the block raises (Ctrl-C), what has not begun is dropped.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="textmask-writer")
        self._waiting: deque[Future[BatchResult]] = deque()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)

    def write(self, write: Callable[[], None], result: BatchResult) -> Future[BatchResult]:
        """Call `write`, then give `result`, or a failed one if the files cannot be written."""
        return self._submit(lambda: _written(write, result))

    def write_after(
        self, earlier: Future[BatchResult], write: Callable[[], None]
    ) -> Future[BatchResult]:
        """Call `write` after what was written for an earlier result, which fails if `write` does."""
        # one thread: everything that was submitted before has ended
        return self._submit(lambda: _written(write, earlier.result()))

    def _submit(self, work: Callable[[], BatchResult]) -> Future[BatchResult]:
        while len(self._waiting) >= AHEAD:
            self._waiting.popleft().exception()
        future = self._thread.submit(work)
        self._waiting.append(future)
        return future


def _written(write: Callable[[], None], result: BatchResult) -> BatchResult:
    try:
        write()
    except TextMaskError as error:
        return replace(
            result,
            status="failed",
            message=str(error),
            warnings=(),
            unknown_words=(),
            conversion="",
        )
    return result


def known(result: BatchResult) -> Future[BatchResult]:
    """A result that needs no file."""
    future: Future[BatchResult] = Future()
    future.set_result(result)
    return future
