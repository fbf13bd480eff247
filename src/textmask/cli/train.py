"""Commands that train."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import (
    CacheDir,
    HoldOut,
    Layout,
    MergeValid,
    SplitColumn,
    TextColumn,
    Whose,
    read_data,
    read_recipe,
    say,
)
from textmask.errors import ConfigError, choose


def train_command(
    method: Annotated[
        str | None, typer.Argument(help="See `textmask methods list`; not needed with --recipe.")
    ] = None,
    data: Annotated[
        Path | None, typer.Argument(help="Native table, or a published layout.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder to make.")] = Path("runs/run"),
    preset: Annotated[str, typer.Option(help="paper, lite (CPU) or smoke (seconds).")] = "paper",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value, e.g. seed=1; repeatable.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json instead of METHOD and --preset.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    labelled_fraction: Annotated[
        float | None, typer.Option(help="Share of train that keeps its masks.")
    ] = None,
    labelled_list: Annotated[
        Path | None, typer.Option(help="Text file: the only pictures that keep masks.")
    ] = None,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    devices: Annotated[int, typer.Option(help="Processes; batch sizes stay global.")] = 1,
    tracker: Annotated[
        list[str] | None, typer.Option(help="tensorboard, mlflow; repeatable.")
    ] = None,
    cache_dir: CacheDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a method and leave a run folder.

    Example: textmask train biclip data/table.csv --preset lite --out runs/biclip
    """
    from textmask.training.loop import TrainOptions
    from textmask.training.loop import train as run_training

    if recipe is not None and data is None:
        method, data = None, Path(method) if method else None
    if data is None:
        raise ConfigError(
            "train needs METHOD and DATA (or --recipe FILE and DATA). See textmask train --help."
        )
    changes = list(settings or [])
    if labelled_fraction is not None:
        changes.append(f"stages.*.labelled_fraction={labelled_fraction}")
    chosen = read_recipe(method, preset, recipe)
    if method is not None and method != chosen.method:
        raise ConfigError(
            f"METHOD is {method!r} but {recipe} is a recipe of {chosen.method!r}; leave METHOD out."
        )
    result = run_training(
        chosen.override(*changes),
        read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid),
        out,
        resume=resume,
        cache_dir=cache_dir,
        labelled_list=labelled_list,
        progress=not quiet,
        options=TrainOptions(trackers=tuple(tracker or ()), devices=devices),
    )
    say(
        f"{result.path}: epoch {result.best_epoch} chosen, "
        f"{f'validation score {result.best:.4f}, ' if result.best >= 0 else ''}"
        f"{result.seconds / 60:.1f} minutes. Next: textmask evaluate {result.path} {data} --split test"
    )


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("demo"),
    minutes: Annotated[
        float, typer.Option(help="Time budget in minutes (default: 3).", show_default=False)
    ] = 3.0,
    preset: Annotated[
        str, typer.Option(help="lite, or smoke: a few seconds of training, for tests.")
    ] = "lite",
) -> None:
    """Show the package on synthetic radiographs: the bundled model, then training, evaluation and a report.

    Example: textmask demo --out demo --minutes 3
    """
    started = time.perf_counter()
    choose("preset", preset, ("lite", "smoke"))
    say("Loading PyTorch and the bundled model.")
    from textmask.demo import run_demo as run_demo

    report = run_demo(out, smoke=preset == "smoke", minutes=minutes, started=started, say=say)
    say(f"report: {report}")
