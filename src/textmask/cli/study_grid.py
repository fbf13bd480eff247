"""The commands of `textmask study` that train a grid: ablation, labels, sensitivity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    say,
    split_names,
)
from textmask.errors import ConfigError

if TYPE_CHECKING:
    from textmask.studies.grid.design import StudyPlan

MethodName = Annotated[str, typer.Argument(help="See `textmask methods list`.")]
OptionalData = Annotated[Path | None, typer.Argument(help="Native table, or a published layout.")]
Seeds = Annotated[str, typer.Option(help="Of the trainings, e.g. 0,1,2.")]
Out = Annotated[Path, typer.Option(help="Folder of the study; the same one to go on.")]
Preset = Annotated[str, typer.Option(help="paper, lite (CPU) or smoke (seconds).")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="field=value for all arms; repeatable.")
]
Share = Annotated[float | None, typer.Option(help="Share of train that keeps its masks.")]
NameList = Annotated[
    Path | None, typer.Option(help="Text file: the only pictures that keep masks.")
]
Split = Annotated[str, typer.Option(help="What is scored.")]
EngineName = Annotated[str, typer.Option(help="Where the trainings run: local, slurm or ray.")]
Threads = Annotated[
    int | None, typer.Option(help="Of each training; default all here, 4 elsewhere.")
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(help="submitit's field=value, e.g. slurm_partition=gpu; repeatable."),
]
Show = Annotated[bool, typer.Option("--show", help="Only print the arms and their settings.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No line per training.")]


def ablation_command(
    method: MethodName,
    data: OptionalData = None,
    study: Annotated[
        str,
        typer.Option("--table", help="Ablation table of the method, see `textmask methods show`."),
    ] = "",
    arms: Annotated[str, typer.Option(help="Some of them, e.g. a,d,f; default all.")] = "",
    seeds: Seeds = "0",
    out: Out = Path("runs/study"),
    preset: Preset = "lite",
    settings: Settings = None,
    labelled_fraction: Share = None,
    labelled_list: NameList = None,
    split: Split = "test",
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    engine: EngineName = "local",
    threads: Threads = None,
    slurm: Slurm = None,
    cache_dir: CacheDir = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Train a method's list of ablations over seeds and compare them; called again it goes on where it was stopped.

    Example: textmask study ablation c2seg data/table.csv --table table3 --arms a,d,f --seeds 0,1,2 --out runs/table3
    """
    from textmask.studies.grid.design import plan_ablation as design

    _run(design(method, study, split_names(arms) or None), locals())


def labels_command(
    method: MethodName,
    data: OptionalData = None,
    fractions: Annotated[
        str, typer.Option(help="Shares of train that keep their masks.")
    ] = "0.01,0.05,0.1,0.25,1",
    beside: Annotated[list[str] | None, typer.Option(help="Further methods; repeatable.")] = None,
    seeds: Seeds = "0",
    out: Out = Path("runs/labels"),
    preset: Preset = "lite",
    settings: Settings = None,
    split: Split = "test",
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    engine: EngineName = "local",
    threads: Threads = None,
    slurm: Slurm = None,
    cache_dir: CacheDir = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Train methods with fewer and fewer labels and draw the curves; called again it goes on where it was stopped.

    Example: textmask study labels c2seg data/table.csv --fractions 0.01,0.05,0.25 --beside unet --seeds 0,1
    """
    from textmask.studies.grid.design import plan_labels as design

    _run(design(method, _floats(fractions), beside or ()), locals())


def sensitivity_command(
    method: MethodName,
    data: OptionalData = None,
    field: Annotated[
        list[str] | None, typer.Option(help="A field and its values; repeatable.")
    ] = None,
    seeds: Seeds = "0",
    out: Out = Path("runs/sensitivity"),
    preset: Preset = "lite",
    settings: Settings = None,
    labelled_fraction: Share = None,
    labelled_list: NameList = None,
    split: Split = "test",
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    engine: EngineName = "local",
    threads: Threads = None,
    slurm: Slurm = None,
    cache_dir: CacheDir = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Vary one field at a time around the preset; called again it goes on where it was stopped.

    Example: textmask study sensitivity c2seg data/table.csv --field tau=0.05,0.07,0.1 --field rho=0.6,1.0
    """
    from textmask.studies.grid.design import plan_sensitivity as design

    _run(
        design(method, [read_field(text) for text in field or ()], preset, settings or ()), locals()
    )


def _run(design: StudyPlan, given: dict[str, Any]) -> None:
    """Run the study of a design with the options its command was given, by their names."""
    from textmask.cluster import Launcher
    from textmask.studies.grid.runner import StudyOptions, run_study
    from textmask.studies.grid.summary import study_table

    if given["show"]:
        for arm in design.arms:
            say(
                f"{arm.name}: {arm.title}; {arm.method or design.method} {' '.join(arm.settings) or 'as it is'}"
            )
        return
    if given["data"] is None:
        raise ConfigError(
            f"study {design.kind} needs METHOD and DATA (or --show). See textmask study {design.kind} --help."
        )
    layout = ("layout", "text_column", "split_column", "laterality", "hold_out", "merge_valid")
    options = StudyOptions(
        seeds=_numbers(given["seeds"]),
        preset=given["preset"],
        settings=tuple(given["settings"] or ()),
        labelled_fraction=given.get("labelled_fraction"),
        labelled_list=given.get("labelled_list"),
        split=given["split"],
        cache_dir=given["cache_dir"],
        launcher=Launcher(given["engine"], given["threads"], tuple(given["slurm"] or ())),
        progress=None if given["quiet"] else say,
    )
    manifest = read_data(given["data"], *(given[name] for name in layout))
    summary = run_study(design, manifest, given["out"], options)
    say(study_table(summary))
    say(f"{given['out']}: table.md, study.csv, study.json, study.png, scores.csv")


def _numbers(text: str) -> list[int]:
    try:
        return [int(name) for name in split_names(text)]
    except ValueError:
        raise ConfigError(
            f"--seeds is {text!r}, expected whole numbers with commas, e.g. 0,1,2."
        ) from None


def _floats(text: str) -> list[float]:
    try:
        return [float(name) for name in split_names(text)]
    except ValueError:
        raise ConfigError(
            f"--fractions is {text!r}, expected numbers with commas, e.g. 0.01,0.05,0.25."
        ) from None


def read_field(text: str) -> tuple[str, list[str]]:
    """`tau=0.05,0.07` as the field and its values; a comma within brackets belongs to a value."""
    name, _, values = text.partition("=")
    return name.strip(), [
        value.strip() for value in re.split(r",(?![^\[]*\])", values) if value.strip()
    ]
