"""What a training shows on the console: a progress bar per epoch, then one line with its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from textmask.progress import silenced

SHOWN_SCORES = ("dice_per_image", "dice_pooled")


class TrainConsole:
    """Draws the progress of one training; use it as a context manager.

    Args:
        show: False draws and prints nothing but the line of each epoch.
    """

    def __init__(self, show: bool) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            disable=not show,
            transient=True,
        )
        self.alone = ExitStack()

    def __enter__(self) -> Self:
        """Start drawing."""
        self.alone.enter_context(silenced())
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing and remove the bar."""
        self.bar.stop()
        self.alone.close()

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[str | None], None]]:
        """A bar over `total` steps; call what it yields after each step, with a note to show behind the bar.

        A note that is None leaves the last one.
        """
        task = self.bar.add_task(title, total=total, note="")

        def advance(note: str | None) -> None:
            self.bar.update(task, advance=1)
            if note is not None:
                self.bar.update(task, note=note)

        yield advance
        self.bar.remove_task(task)

    def say(self, text: str) -> None:
        """Print a line above the bar, unchanged."""
        self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def print_epoch(self, epochs: int, entry: Mapping[str, Any], chosen: bool) -> None:
        """Print the line of a finished epoch.

        Args:
            epochs: number of epochs of the stage.
            entry: the epoch's row of the log.
            chosen: whether its weights are the best so far, which is marked with a star.
        """
        # the scores that people compare, then what the method monitors
        figures = {}
        for name in SHOWN_SCORES:
            if f"valid/{name}" in entry:
                figures[f"valid {name}"] = entry[f"valid/{name}"]
        for name, value in entry.items():
            if name.startswith("monitor/"):
                figures[name.removeprefix("monitor/")] = value

        shown = "".join(f"{name} {value:.4f}, " for name, value in figures.items())
        self.bar.console.print(
            f"{entry['stage']} {entry['epoch']}/{epochs}: loss {entry.get('loss', 0.0):.4f}, {shown}"
            f"{entry.get('images_per_s', 0.0):.1f} images/s{' *' if chosen else ''}",
            highlight=False,
        )
