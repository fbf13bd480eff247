"""Progress reports of long tasks: a loop reports, and the command line, if there is one, draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

Progress = Callable[[str, int, int], None]  # name of the task, items done, items in total
Item = TypeVar("Item")


class Display(Protocol):
    """Something that draws the progress of a program."""

    def step(self, task: str, done: int, total: int) -> None:
        """Show that so many items of a task are done; all of them end the task."""

    def hide(self) -> None:
        """Remove what is drawn, because a line is about to be printed."""

    def paused(self) -> AbstractContextManager[None]:
        """Draw nothing for a while."""


# the display of the program; a library has none
_displays: list[Display] = []


@contextmanager
def displayed_by(display: Display) -> Iterator[None]:
    """Everything that reports in this block is drawn by a display, without being handed through the calls."""
    _displays.append(display)
    try:
        yield
    finally:
        _displays.pop()


def report(task: str, done: int, total: int) -> None:
    """Report to the display of the program, if it has one.

    Args:
        task: name of the task, as a progress bar shows it.
        done: items that are done.
        total: items in total.
    """
    if _displays:
        _displays[-1].step(task, done, total)


def make_way() -> None:
    """Remove what is drawn, because a line is about to be printed."""
    if _displays:
        _displays[-1].hide()


@contextmanager
def silenced() -> Iterator[None]:
    """Keep the display away while something else draws on the terminal, or waits for other people's requests."""
    if not _displays:
        yield
        return
    with _displays[-1].paused():
        yield


def with_progress(
    items: Sequence[Item], task: str, progress: Progress | None = None
) -> Iterator[Item]:
    """Iterate over items, and report before the first one and after the body of the loop has run for each.

    Args:
        items: what to iterate over.
        task: name of the task, as a progress bar shows it.
        progress: called with (task, done, total); None reports to the display of the program.
    """
    tell = progress or report
    tell(task, 0, len(items))
    for done, item in enumerate(items, start=1):
        yield item
        tell(task, done, len(items))
