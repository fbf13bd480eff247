"""The command line."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.callback()
def root() -> None:
    """Text-guided medical image segmentation."""


@app.command()
def train(
    method: str,
    data: Path,
    out: Annotated[Path, typer.Option()],
    preset: str = "paper",
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    resume: bool = False,
) -> None:
    """Train a method on a data set."""
    from textmask.data.layouts import read_layout
    from textmask.method import get_method
    from textmask.run.train import train as run

    recipe = get_method(method).recipe()
    recipe = recipe if preset == "paper" else getattr(recipe, preset)()
    run(recipe.override(*set_), read_layout(data), out, resume=resume)


def main() -> None:
    """Entry point."""
    app()
