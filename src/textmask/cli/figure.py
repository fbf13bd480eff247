"""Figures that compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    DataPath,
    Device,
    FullHelpGroup,
    find_run,
    read_run_data,
    say,
)
from textmask.config import MAX_SEED
from textmask.errors import ConfigError, choose
from textmask.progress import report

figure_app = typer.Typer(
    cls=FullHelpGroup,
    help="Draw figures that compare runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@figure_app.command("grid")
@reads_data()
def grid_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, from left to right.")
    ],
    data: DataPath,
    rows: Annotated[
        str,
        typer.Option(help="Names of images, separated by commas, or how many to draw at random."),
    ] = "4",
    split: Annotated[str, typer.Option(help="Split to draw.")] = "test",
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SEVERITY",
            help="Damage, e.g. motion_blur=7; repeatable, one more strip per image (default: none).",
        ),
    ] = None,
    show: Annotated[
        str, typer.Option(help="What to draw of each run: errors or attention.")
    ] = "errors",
    seed: Annotated[
        int, typer.Option(help="Random seed of the images and of the damage.", min=0, max=MAX_SEED)
    ] = 0,
    side: Annotated[int, typer.Option(help="Width of a panel in px.", min=32, max=2048)] = 224,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("grid.png"),
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Draw several runs side by side on the same images, also damaged ones, with their prompts.

    The data options are those of the first run, unless you give others.

    Example: textmask figure grid runs/ssa runs/unet data/table.csv --rows 4
    """
    choose("show", show, ["errors", "attention"])
    damage = [_named_severity(text) for text in corruption or ()]
    records = [find_run(run) for run in runs]
    options = given.over(records[0].options)
    manifest = read_run_data(records[0], data, options)
    manifest.rows_of(split)

    from textmask.runs.environment import prepare_cpu
    from textmask.studies.probes.grid_figure import GridOptions, draw_grid

    prepare_cpu()
    names = tuple(name.strip() for name in rows.split(",") if name.strip())
    figure = GridOptions(
        split=split,
        rows=int(rows) if rows.strip().isdigit() else names,
        corruptions=tuple(damage),
        show="attention" if show == "attention" else "errors",
        seed=seed,
        side_px=side,
        cache_dir=cache_dir,
        device=device,
        progress=lambda done, total: report("runs", done, total),
    )
    keys = draw_grid([record.path for record in records], manifest, out, figure)
    say(f"{out}: {len(records)} runs, {len(keys)} images of {manifest.name}, split {split}")


def _named_severity(text: str) -> tuple[str, float]:
    """`motion_blur=7` -> name and severity."""
    name, sep, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        found = f"{text!r} has no number" if sep else f"{text!r} has no severity"
        raise ConfigError(f"--corruption {found}. Write for example motion_blur=7.") from None
