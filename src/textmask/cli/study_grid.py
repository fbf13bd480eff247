"""The commands of `textmask study` that train several arms: ablation, labels, sensitivity."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    DEFAULT_PRESET,
    AcceptChanges,
    CacheDir,
    Device,
    LabelledFraction,
    LabelledList,
    MethodName,
    OptionalData,
    Preset,
    Settings,
    Split,
    chosen_preset,
    read_seeds,
    require_file,
    say,
    split_names,
)
from textmask.cluster import Launcher
from textmask.errors import ConfigError
from textmask.runs.data_options import DataOptions

if TYPE_CHECKING:
    from textmask.studies.grid.design import StudyPlan

Seeds = Annotated[str, typer.Option(help="Random seeds of the trainings, e.g. 0,1,2.")]
StudyOut = Annotated[Path, typer.Option(help="Study folder. Reuse it to resume.")]
LauncherName = Annotated[
    str, typer.Option("--engine", help="Launcher of the trainings: local, slurm or ray.")
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads per training run (default: all when local, 4 on a cluster)."),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=VALUE",
        help="Parameter of submitit, e.g. slurm_partition=gpu; repeatable (default: none).",
    ),
]
Show = Annotated[bool, typer.Option("--show", help="Only print the arms and their settings.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Hide the line per training.")]


@dataclass(frozen=True)
class StudyRequest:
    """What the three commands have in common.

    Attributes:
        data: path of the data; None only together with `show`.
        options: how the data are read.
        out: folder of the study.
        seeds: as typed, e.g. "0,1,2".
        preset: as typed; None is the default.
        settings: overrides for all arms.
        labelled_fraction: fraction of train that keeps its masks.
        labelled_list: text file with the train images that keep their masks.
        split: split that is scored.
        launcher: where the trainings run.
        device: of training and prediction.
        cache_dir: folder of the decoded images.
        accept_changes: resume trainings although data or machine differ.
        show: only print the arms.
        quiet: print no line per training.
    """

    data: Path | None
    options: DataOptions
    out: Path
    seeds: str
    preset: str | None
    settings: tuple[str, ...]
    labelled_fraction: float | None
    labelled_list: Path | None
    split: str
    launcher: Launcher
    device: str
    cache_dir: Path | None
    accept_changes: bool
    show: bool
    quiet: bool


@reads_data(trains=True)
def ablation_command(
    method: MethodName,
    data: OptionalData = None,
    table: Annotated[
        str,
        typer.Option(
            help="Ablation table of the method, see `textmask methods show` (required).",
            show_default=False,
        ),
    ] = "",
    old_table: Annotated[str, typer.Option("--list", hidden=True)] = "",
    arms: Annotated[
        str, typer.Option(help="Comma-separated subset of arms (default: all).", show_default=False)
    ] = "",
    seeds: Seeds = "0",
    out: StudyOut = Path("runs/study"),
    preset: Preset = None,
    settings: Settings = None,
    labelled_fraction: LabelledFraction = None,
    labelled_list: LabelledList = None,
    split: Split = "test",
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    engine: LauncherName = "local",
    threads: Threads = None,
    slurm: Slurm = None,
    cache_dir: CacheDir = None,
    accept_changes: AcceptChanges = False,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Train the arms of an ablation table over seeds and compare them.

    Rerun the same command to resume.

    Example: textmask study ablation c2seg data/table.csv --table table3
    """
    from textmask.studies.grid.design import plan_ablation

    plan = plan_ablation(method, table or old_table, split_names(arms) or None)
    request = StudyRequest(
        data=data,
        options=given.over(DataOptions()),
        out=out,
        seeds=seeds,
        preset=preset,
        settings=tuple(settings or ()),
        labelled_fraction=labelled_fraction,
        labelled_list=labelled_list,
        split=split,
        launcher=Launcher(engine, threads, tuple(slurm or ())),
        device=device,
        cache_dir=cache_dir,
        accept_changes=accept_changes,
        show=show,
        quiet=quiet,
    )
    _run_plan(plan, request)


@reads_data(trains=True)
def labels_command(
    method: MethodName,
    data: OptionalData = None,
    fractions: Annotated[
        str, typer.Option(help="Fractions of train that keep their masks.")
    ] = "0.01,0.05,0.1,0.25,1",
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="Method to compare with; repeatable (default: none)."),
    ] = None,
    seeds: Seeds = "0",
    out: StudyOut = Path("runs/labels"),
    preset: Preset = None,
    settings: Settings = None,
    split: Split = "test",
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    engine: LauncherName = "local",
    threads: Threads = None,
    slurm: Slurm = None,
    cache_dir: CacheDir = None,
    accept_changes: AcceptChanges = False,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Train methods with fewer and fewer labels and draw the curves.

    Rerun the same command to resume.

    Example: textmask study labels c2seg data/table.csv --beside unet --seeds 0,1
    """
    from textmask.studies.grid.design import plan_labels

    plan = plan_labels(method, _fractions(fractions), beside or ())
    request = StudyRequest(
        data=data,
        options=given.over(DataOptions()),
        out=out,
        seeds=seeds,
        preset=preset,
        settings=tuple(settings or ()),
        labelled_fraction=None,
        labelled_list=None,
        split=split,
        launcher=Launcher(engine, threads, tuple(slurm or ())),
        device=device,
        cache_dir=cache_dir,
        accept_changes=accept_changes,
        show=show,
        quiet=quiet,
    )
    _run_plan(plan, request)


@reads_data(trains=True)
def sensitivity_command(
    method: MethodName,
    data: OptionalData = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUES",
            help="Field and its values, e.g. tau=0.05,0.1; repeatable (required).",
        ),
    ] = None,
    seeds: Seeds = "0",
    out: StudyOut = Path("runs/sensitivity"),
    preset: Preset = None,
    settings: Settings = None,
    labelled_fraction: LabelledFraction = None,
    labelled_list: LabelledList = None,
    split: Split = "test",
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    engine: LauncherName = "local",
    threads: Threads = None,
    slurm: Slurm = None,
    cache_dir: CacheDir = None,
    accept_changes: AcceptChanges = False,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Vary one recipe field at a time around the preset.

    Rerun the same command to resume.

    Example: textmask study sensitivity c2seg data/table.csv --field tau=0.05,0.1
    """
    from textmask.studies.grid.design import plan_sensitivity

    fields = [read_field(text) for text in field or ()]
    plan = plan_sensitivity(method, fields, preset or DEFAULT_PRESET, settings or ())
    request = StudyRequest(
        data=data,
        options=given.over(DataOptions()),
        out=out,
        seeds=seeds,
        preset=preset,
        settings=tuple(settings or ()),
        labelled_fraction=labelled_fraction,
        labelled_list=labelled_list,
        split=split,
        launcher=Launcher(engine, threads, tuple(slurm or ())),
        device=device,
        cache_dir=cache_dir,
        accept_changes=accept_changes,
        show=show,
        quiet=quiet,
    )
    _run_plan(plan, request)


def _run_plan(plan: StudyPlan, request: StudyRequest) -> None:
    """Print the arms of a plan, or train, compare and summarise them."""
    if request.show:
        for arm in plan.arms:
            settings = " ".join(arm.settings) or "unchanged"
            say(f"{arm.name}: {arm.title}; {arm.method or plan.method} {settings}")
        return
    if request.data is None:
        raise ConfigError(
            f"study {plan.kind} needs METHOD and DATA (or --show). See textmask study {plan.kind} --help."
        )

    # everything that can be wrong is found before torch is loaded
    seeds = read_seeds(request.seeds)
    preset = chosen_preset(request.preset)
    require_file(request.labelled_list, "the list of labelled images, one name per line")
    from textmask.runs.read_data import read_data

    manifest = read_data(request.data, request.options)
    manifest.rows_of(request.split)

    from textmask.studies.grid.runner import StudyOptions, run_study
    from textmask.studies.grid.summary import study_table

    options = StudyOptions(
        seeds=seeds,
        preset=preset,
        settings=request.settings,
        labelled_fraction=request.labelled_fraction,
        labelled_list=request.labelled_list,
        split=request.split,
        launcher=request.launcher,
        cache_dir=request.cache_dir,
        accept_changes=request.accept_changes,
        device=request.device,
        data_options=request.options,
        source=request.data,
        progress=None if request.quiet else say,
    )
    summary = run_study(plan, manifest, request.out, options)
    say(study_table(summary))
    say(f"{request.out}: table.md, study.csv, study.json, study.png, scores.csv")


def _fractions(text: str) -> list[float]:
    try:
        return [float(name) for name in split_names(text)]
    except ValueError:
        raise ConfigError(
            f"--fractions is {text!r}, expected comma-separated numbers, e.g. 0.01,0.05,0.25."
        ) from None


def read_field(text: str) -> tuple[str, list[str]]:
    """Split `tau=0.05,0.07` into the field and its values; a comma inside brackets is part of a value."""
    name, _, values = text.partition("=")
    parts = re.split(r",(?![^\[]*\])", values)
    return name.strip(), [part.strip() for part in parts if part.strip()]
