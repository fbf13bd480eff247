"""Progress reports of long tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # name of the task, items done, items in total
Item = TypeVar("Item")


def with_progress(
    items: Sequence[Item], task: str, progress: Progress | None = None
) -> Iterator[Item]:
    """Iterate over items and report each one after the body of the loop has run for it.

    Args:
        items: what to iterate over.
        task: name of the task, as a progress bar shows it.
        progress: called with (task, done, total); None reports nothing.
    """
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(task, done, len(items))
