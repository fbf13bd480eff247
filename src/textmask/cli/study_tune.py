"""The command `textmask study tune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    AcceptChanges,
    CacheDir,
    DataPath,
    Device,
    MethodName,
    Preset,
    Settings,
    chosen_preset,
    say,
)
from textmask.config import MAX_SEED
from textmask.runs.data_options import DataOptions


@reads_data(trains=True)
def tune_command(
    method: MethodName,
    data: DataPath,
    over: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD=VALUES",
            help="Recipe field and its range or values, e.g. threshold=0.3..0.7; repeatable.",
        ),
    ],
    trials: Annotated[
        int, typer.Option(help="Number of trials in all; finished ones count.", min=1, max=100_000)
    ] = 20,
    seed: Annotated[
        int, typer.Option(help="Seed of the trainings and of the search.", min=0, max=MAX_SEED)
    ] = 0,
    out: Annotated[Path, typer.Option(help="Study folder. Reuse it to resume.")] = Path(
        "runs/tune"
    ),
    preset: Preset = None,
    settings: Settings = None,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
    accept_changes: AcceptChanges = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Hide the line per trial.")] = False,
) -> None:
    """Search recipe fields for the best validation score, with Optuna.

    Rerun the same command to resume. The test split is not read.

    Example: textmask study tune unet table.csv --over threshold=0.3..0.7
    """
    options = given.over(DataOptions())

    from textmask.methods.registry import preset_recipe
    from textmask.runs.read_data import read_data
    from textmask.studies.grid.search_space import Dimension, OptunaSampler, check_space

    # everything typed is checked before the data are read
    chosen = chosen_preset(preset)
    space = [Dimension.parse(text) for text in over]
    check_space(preset_recipe(method, chosen).override(*(settings or ())), space)
    sampler = OptunaSampler(seed)
    manifest = read_data(data, options)

    from textmask.studies.grid.runner import StudyOptions
    from textmask.studies.grid.tune import PLOT, TABLE, tune

    study = StudyOptions(
        seeds=(seed,),
        preset=chosen,
        settings=tuple(settings or ()),
        cache_dir=cache_dir,
        accept_changes=accept_changes,
        device=device,
        data_options=options,
        source=data,
        progress=None if quiet else say,
    )
    result = tune(method, manifest, space, out, trials, sampler, study)
    failed = sum(bool(trial.error) for trial in result.trials)
    best = result.best
    say(
        f"best of {len(result.trials)} trials ({failed} failed): {out / best.folder}, "
        f"validation score {best.score:.4f}"
    )
    words = [word for text in result.best_settings() for word in ("--set", text)]
    say(f"settings: {shlex.join(words)}")
    say(f"{out}: {TABLE}, {PLOT}")
