"""The commands of `textmask study` that test one run with other prompts or corrupted images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    DataPath,
    Device,
    RunPath,
    Split,
    ZoneMap,
    check_zone_map,
    find_run,
    read_run_data,
    say,
    split_names,
)
from textmask.config import MAX_SEED
from textmask.errors import ConfigError, choose
from textmask.progress import report

if TYPE_CHECKING:
    from textmask.data.manifest import Manifest
    from textmask.runs.data_options import DataOptions
    from textmask.runs.record import RunRecord
    from textmask.studies.robustness.perturbations import RobustnessOptions
    from textmask.studies.robustness.summary import RobustnessStudy

# the keys of `textmask.data.corruptions.CORRUPTIONS`, which imports torch
CORRUPTION_KINDS = ("low_dose", "motion_blur", "contrast", "gamma", "downsample", "burned_text")

Limit = Annotated[
    int | None,
    typer.Option(
        help="Evaluate at most N images, sampled by patient; smaller subsets are nested in larger ones (default: all)."
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Random seed of image sampling, perturbation and bootstrap.", min=0, max=MAX_SEED
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(help="Study folder (default: in RUN/studies). Reuse it to resume."),
]
Kinds = Annotated[
    str, typer.Option(help="Comma-separated subset of kinds (default: all).", show_default=False)
]
Draws = Annotated[int, typer.Option("--bootstrap", help="Number of resamples per interval.", min=1)]


@reads_data()
def prompts(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    limit: Limit = None,
    seed: Seed = 0,
    out: OutFolder = None,
    zones: ZoneMap = None,
    bootstrap: Draws = 2000,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Measure prompt sensitivity: original, empty, mismatched, side-swapped and other prompts.

    The data options are those of the run, unless you give others.

    Example: textmask study prompts runs/biclip data/table.csv --limit 200
    """
    record = find_run(run)
    options = given.over(record.options)
    manifest = _read_split(record, data, options, split, zones)

    from textmask.studies.robustness.prompts import study_prompts

    with _study_options(out, limit, seed, zones, bootstrap, device, cache_dir) as study_options:
        found = study_prompts(record.path, manifest, split, study_options)
    _show(found)


@reads_data()
def text_noise(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    kinds: Kinds = "",
    limit: Limit = None,
    seed: Seed = 0,
    out: OutFolder = None,
    zones: ZoneMap = None,
    bootstrap: Draws = 2000,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Measure what misspelled, shortened, reworded, reordered and longer prompts cost.

    The data options are those of the run, unless you give others.

    Example: textmask study text-noise runs/biclip data/table.csv --kinds keyboard
    """
    from textmask.text.noise import TEXT_NOISE

    names = split_names(kinds)
    for name in names:
        choose("text noise", name, list(TEXT_NOISE))
    record = find_run(run)
    options = given.over(record.options)
    manifest = _read_split(record, data, options, split, zones)

    from textmask.studies.robustness.severity import study_text_noise

    with _study_options(out, limit, seed, zones, bootstrap, device, cache_dir) as study_options:
        found = study_text_noise(record.path, manifest, split, names, study_options)
    _show(found)


@reads_data()
def corruption(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    kinds: Kinds = "",
    severity: Annotated[
        list[str] | None,
        typer.Option(
            "--severity",
            metavar="KIND=VALUES",
            help="Severities of a kind, mild to strong, e.g. low_dose=500,140; repeatable (default: 3 per kind).",
        ),
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    out: OutFolder = None,
    zones: ZoneMap = None,
    bootstrap: Draws = 2000,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Measure what low dose, motion, contrast, gamma, blur and burned-in text cost.

    The data options are those of the run, unless you give others.

    Example: textmask study corruption runs/biclip data/table.csv --kinds low_dose
    """
    severities = dict(_severity(text) for text in severity or [])
    names = split_names(kinds)
    for name in [*names, *severities]:
        choose("corruption", name, CORRUPTION_KINDS)
    record = find_run(run)
    options = given.over(record.options)
    manifest = _read_split(record, data, options, split, zones)

    from textmask.studies.robustness.severity import study_corruption

    with _study_options(out, limit, seed, zones, bootstrap, device, cache_dir) as study_options:
        found = study_corruption(record.path, manifest, split, names, severities, study_options)
    _show(found)


def _read_split(
    record: RunRecord, data: Path, options: DataOptions, split: str, zones: str | None
) -> Manifest:
    """The data of a study; everything that can be wrong is found before torch is loaded."""
    check_zone_map(zones)
    manifest = read_run_data(record, data, options)
    manifest.rows_of(split)
    return manifest


@contextmanager
def _study_options(
    out: Path | None,
    limit: int | None,
    seed: int,
    zones: str | None,
    bootstrap: int,
    device: str,
    cache_dir: Path | None,
) -> Iterator[RobustnessOptions]:
    """The options that all three studies take, with progress bars as long as the study runs."""
    from textmask.runs.environment import prepare_cpu
    from textmask.studies.robustness.perturbations import RobustnessOptions

    prepare_cpu()
    yield RobustnessOptions(
        out=out,
        limit=limit,
        seed=seed,
        zones=zones,
        n_bootstrap=bootstrap,
        cache_dir=cache_dir,
        progress=report,
        device=device,
    )


def _show(found: RobustnessStudy) -> None:
    say(found.table)
    say(f"{found.out}: summary.json, table.md, plot.png, per_image.csv, scores.csv")


def _severity(text: str) -> tuple[str, list[float]]:
    """Split `low_dose=500,140` into the kind and its severities."""
    name, sep, values = text.partition("=")
    try:
        numbers = [float(value) for value in split_names(values)]
    except ValueError:
        numbers = []
    if not sep or not numbers:
        raise ConfigError(
            f"--severity is {text!r}, expected KIND=comma-separated numbers, e.g. low_dose=500,140."
        )
    return name.strip(), numbers
