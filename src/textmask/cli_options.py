"""What the commands share: options, and how they print and read data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from textmask.errors import choose

if TYPE_CHECKING:
    from textmask.data.manifest import Manifest

out_console, err_console = Console(), Console(stderr=True)

DataPath = Annotated[Path, typer.Argument(help="Native table, folder or file in a published layout, or any csv.")]


def known_run(path: Path) -> Path:
    """The folder itself; `default`, where there is no such folder, is the model that comes with the package."""
    if str(path) != "default" or path.exists():
        return path
    from textmask.run.checkpoint import DEFAULT_RUN  # brings torch

    return DEFAULT_RUN


RunPath = Annotated[
    Path, typer.Argument(help="Run folder made by `textmask train`, or default: the model inside.", callback=known_run)
]
Layout = Annotated[str, typer.Option(help="Name the layout when it is not recognised.")]
TextColumn = Annotated[str | None, typer.Option(help="Which sentence column, where a table has several.")]
SplitColumn = Annotated[str | None, typer.Option(help="Which split column, where a table has several.")]
HoldOut = Annotated[float, typer.Option(help="Hold this share of train out as `valid`, where there is none.")]
MergeValid = Annotated[bool, typer.Option("--merge-valid", help="Train on `valid` too; see --hold-out.")]
Whose = Annotated[str | None, typer.Option(help="Whose left the sentences mean: image, patient or unknown.")]
Grammar = Annotated[
    str | None,
    typer.Option(
        help="Grammar of the prompts: auto, qata, mosmed, polyp, nuclei, lesion or report (default: as the data say)."
    ),
]
CacheDir = Annotated[Path | None, typer.Option(help="Where decoded pictures are kept.")]


def say(text: str) -> None:
    """Print a line as it is: no markup in it, and no break within a path."""
    out_console.print(text, highlight=False, markup=False, soft_wrap=True)


def complain(text: str, style: str) -> None:
    """Likewise to stderr."""
    err_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def split_names(text: str) -> list[str]:
    """The names of an option that takes several with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_data(
    path: Path,
    layout: str,
    text_column: str | None,
    split_column: str | None,
    laterality: str | None,
    hold_out: float,
    merge_valid: bool = False,
    grammar: str | None = None,
) -> Manifest:
    """The table of a data set as the options above describe it."""
    from textmask.data.layouts import hold_out as hold_some_out
    from textmask.data.layouts import merge_split, read_layout
    from textmask.text.grammar import GRAMMARS
    from textmask.types import Laterality

    side = None if laterality is None else Laterality(choose("laterality", laterality, [str(s) for s in Laterality]))
    manifest = read_layout(path, layout, text_column=text_column, split_column=split_column, laterality=side)
    if grammar is not None:
        choose("grammar", grammar, ["auto", *GRAMMARS])
        manifest = replace(manifest, rows=tuple(replace(row, grammar=grammar) for row in manifest.rows))
    manifest = merge_split(manifest) if merge_valid else manifest
    return hold_some_out(manifest, hold_out) if hold_out else manifest


def print_table(head: list[str], lines: list[list[str]]) -> None:
    """Print a table to the width of the terminal."""
    table = Table(*head)
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    out_console.print(table)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar per named task."""
    from rich.progress import Progress

    tasks: dict[str, Any] = {}
    with Progress(console=err_console, transient=True, disable=not err_console.is_terminal) as bar:

        def step(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(escape(name), total=total)
            bar.update(tasks[name], completed=done)

        yield step
