"""The commands of `textmask study` that give one run other sentences or other pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.options import (
    CacheDir,
    DataPath,
    HoldOut,
    Layout,
    MergeValid,
    RunPath,
    SplitColumn,
    TextColumn,
    Whose,
    progress_bars,
    read_data,
    say,
    split_names,
)
from textmask.errors import ConfigError

if TYPE_CHECKING:
    from textmask.studies.robustness.perturbations import RobustnessOptions
    from textmask.studies.robustness.summary import RobustnessStudy

Split = Annotated[str, typer.Option(help="Which split.")]
Limit = Annotated[
    int | None,
    typer.Option(help="At most so many pictures, chosen by patient; fewer are among more."),
]
Seed = Annotated[
    int, typer.Option(help="Of the choice of pictures, all that is drawn, and the bootstrap.")
]
Out = Annotated[
    Path | None, typer.Option(help="Folder; default RUN/studies/. The same command goes on in it.")
]
Zones = Annotated[
    str | None, typer.Option(help="Zone map; else chosen by each sentence's grammar.")
]
Kinds = Annotated[str, typer.Option(help="Some of them, with commas; default all.")]
Draws = Annotated[int, typer.Option("--bootstrap", help="Resamples of an interval.", min=1)]


def prompts(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    zones: Zones = None,
    bootstrap: Draws = 2000,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """Does the run read its sentence? True, empty, foreign, swapped, contradictory, absent and senseless ones.

    Example: textmask study prompts runs/biclip data/table.csv --limit 200
    """
    from textmask.studies.robustness.prompts import study_prompts

    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with _options(out, limit, seed, zones, bootstrap, cache_dir) as options:
        found = study_prompts(run, manifest, split, options)
    _show(found)


def text_noise(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    kinds: Kinds = "",
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    zones: Zones = None,
    bootstrap: Draws = 2000,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """What do misspelt, shortened, reworded, reordered and longer sentences cost, at graded severity?

    Example: textmask study text-noise runs/biclip data/table.csv --kinds keyboard,abbreviation
    """
    from textmask.studies.robustness.severity import study_text_noise

    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with _options(out, limit, seed, zones, bootstrap, cache_dir) as options:
        found = study_text_noise(run, manifest, split, split_names(kinds), options)
    _show(found)


def corruption(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    kinds: Kinds = "",
    severity: Annotated[
        list[str] | None,
        typer.Option("--severity", help="KIND=mild,...,strong, e.g. low_dose=500,140; repeatable."),
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    zones: Zones = None,
    bootstrap: Draws = 2000,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """What do low dose, motion, contrast, gamma, lost resolution and burned-in text cost (BiCLIP, Table 3, and more)?

    Example: textmask study corruption runs/biclip data/table.csv --kinds low_dose,motion_blur
    """
    from textmask.studies.robustness.severity import study_corruption

    values = dict(_severity(text) for text in severity or [])
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with _options(out, limit, seed, zones, bootstrap, cache_dir) as options:
        found = study_corruption(run, manifest, split, split_names(kinds), values, options)
    _show(found)


@contextmanager
def _options(
    out: Path | None,
    limit: int | None,
    seed: int,
    zones: str | None,
    bootstrap: int,
    cache_dir: Path | None,
) -> Iterator[RobustnessOptions]:
    """What all three take, with progress bars while the study runs."""
    from textmask.runs.environment import prepare_cpu
    from textmask.studies.robustness.perturbations import RobustnessOptions

    prepare_cpu()
    with progress_bars() as step:
        yield RobustnessOptions(out, limit, seed, zones, bootstrap, cache_dir, step)


def _show(found: RobustnessStudy) -> None:
    say(found.table)
    say(f"{found.out}: summary.json, table.md, plot.png, per_image.csv, scores.csv")


def _severity(text: str) -> tuple[str, list[float]]:
    name, sep, values = text.partition("=")
    try:
        numbers = [float(value) for value in split_names(values)]
    except ValueError:
        numbers = []
    if not sep or not numbers:
        raise ConfigError(
            f"--severity is {text!r}, expected KIND=numbers with commas, e.g. low_dose=500,140."
        )
    return name.strip(), numbers
