"""The command `textmask study folds`."""

from __future__ import annotations

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


@reads_data(trains=True, without=("hold_out", "merge_valid"))
def folds_command(
    method: MethodName,
    data: DataPath,
    folds: Annotated[int, typer.Option(help="Number of folds, at least 3.")] = 5,
    seed: Annotated[
        int, typer.Option(help="Seed of the trainings and of the folds.", min=0, max=MAX_SEED)
    ] = 0,
    out: Annotated[Path, typer.Option(help="Study folder. Reuse it to resume.")] = Path(
        "runs/folds"
    ),
    preset: Preset = None,
    settings: Settings = None,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
    accept_changes: AcceptChanges = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Hide the line per fold.")] = False,
) -> None:
    """Cross-validate a method: train once per fold and test every image once.

    Rows of one group (patient) or image are never divided. The splits of the data are not used.

    Example: textmask study folds unet data/table.csv --folds 5
    """
    options = given.over(DataOptions())
    chosen = chosen_preset(preset)
    from textmask.runs.read_data import read_data

    manifest = read_data(data, options)

    from textmask.studies.grid.folds import FOLDS, SCORES, run_folds
    from textmask.studies.grid.runner import StudyOptions

    study = StudyOptions(
        seeds=(seed,),
        preset=chosen,
        settings=tuple(settings or ()),
        cache_dir=cache_dir,
        accept_changes=accept_changes,
        device=device,
        data_options=options,
    )
    result = run_folds(method, manifest, out, folds, study, None if quiet else say)
    for line in result.lines():
        say(line)
    say(f"{out}: {FOLDS}, {SCORES}")
