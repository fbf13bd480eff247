"""What a command shows while it works: a bar per running task, or a spinner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

SILENCE_S = 1.0  # on a terminal, something is drawn after so long without a line of text
LINE_AFTER_S, LINE_EVERY_S = 10.0, 60.0  # elsewhere, e.g. in the log of a job, lines are printed
WORKING = "working"


class Bars:
    """Draws the progress of one command; use it as a context manager.

    A quick command draws nothing. On a terminal, bars appear when nothing was printed for a second, and are removed
    before the next line. Elsewhere a long task prints a line from time to time.

    Args:
        console: where to draw; nothing is drawn on the standard output, which may be piped.
        clock: seconds that never run backwards.
        silence_s: see `SILENCE_S`.
    """

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.console, self.clock, self.silence_s = console, clock, silence_s
        self._running: dict[str, tuple[int, int]] = {}
        self._bars: Progress | None = None
        self._drawn: dict[str, TaskID] = {}
        self._silent_since = clock()
        self._next_line: dict[str, float] = {}
        self._pauses = 0
        self._lock = threading.RLock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        """Begin to watch for silence."""
        if self.console.is_terminal:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what is drawn."""
        self._ended.set()
        self.hide()

    def step(self, task: str, done: int, total: int) -> None:
        """Show that so many items of a task are done; all of them end the task."""
        with self._lock:
            if self._pauses:
                return
            if done < total:
                self._running[task] = (done, total)
            else:
                self._running.pop(task, None)
            if self._bars is not None:
                self._update(self._bars)
            elif not self.console.is_terminal:
                self._print_line(task, done, total)

    def hide(self) -> None:
        """Remove what is drawn, because a line is about to be printed; it comes back after another silence."""
        with self._lock:
            self._silent_since = self.clock()
            if self._bars is not None:
                self._bars.stop()
                self._bars, self._drawn = None, {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Draw nothing for a while."""
        with self._lock:
            self._pauses += 1
            self._running.clear()
            self.hide()
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                self._silent_since = self.clock()

    def look(self) -> None:
        """Draw if nothing was printed for long enough."""
        with self._lock:
            silent = self.clock() - self._silent_since >= self.silence_s
            busy = self._pauses or self._ended.is_set() or self._bars is not None
            if busy or not silent or not self.console.is_terminal:
                return
            # the streams stay as they are: a redirected standard output is not for the terminal
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._update(self._bars)
            self._bars.start()

    def _watch(self) -> None:
        while not self._ended.wait(self.silence_s / 5):
            self.look()

    def _update(self, bars: Progress) -> None:
        """Bring the drawn tasks in line with the running ones."""
        shown = self._running or {WORKING: (0, 0)}
        for name in [name for name in self._drawn if name not in shown]:
            bars.remove_task(self._drawn.pop(name))
        for name, (done, total) in shown.items():
            if name not in self._drawn:
                # a total of None draws a bar without an end
                self._drawn[name] = bars.add_task(escape(name), total=total or None)
            bars.update(self._drawn[name], completed=done)

    def _print_line(self, task: str, done: int, total: int) -> None:
        now = self.clock()
        due = self._next_line.setdefault(task, now + LINE_AFTER_S)
        if done >= total:
            self._next_line.pop(task)
        elif now >= due:
            self._next_line[task] = now + LINE_EVERY_S
            self.console.print(f"{task}: {done} of {total}", highlight=False, markup=False)
