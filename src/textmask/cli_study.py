"""The commands of `textmask study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli_options import (
    CacheDir,
    DataPath,
    HoldOut,
    Layout,
    MergeValid,
    RunPath,
    SplitColumn,
    TextColumn,
    Whose,
    print_table,
    progress_bars,
    read_data,
    say,
    split_names,
)
from textmask.cli_variants import corruption, prompts, text_noise
from textmask.errors import ConfigError

study_app = typer.Typer(
    help="Compare runs (ablation, features) or try one out (prompts, text-noise, corruption, ambiguity).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _command in (prompts, text_noise, corruption):
    study_app.command()(_command)


@study_app.command()
def ablation(
    method: Annotated[str, typer.Argument(help="See `textmask methods list`.")],
    data: Annotated[Path | None, typer.Argument(help="Native table, or a published layout.")] = None,
    study: Annotated[str, typer.Option("--list", help="Name of the method's list of arms.")] = "",
    arms: Annotated[str, typer.Option(help="Some of them, e.g. a,d,f; default all.")] = "",
    seeds: Annotated[str, typer.Option(help="Of the trainings, e.g. 0,1,2.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder of the study; the same one to go on.")] = Path("runs/study"),
    preset: Annotated[str, typer.Option(help="paper, lite (CPU) or smoke (seconds).")] = "lite",
    settings: Annotated[list[str] | None, typer.Option("--set", help="field=value for all arms; repeatable.")] = None,
    labelled_fraction: Annotated[float | None, typer.Option(help="Share of train that keeps its masks.")] = None,
    labelled_list: Annotated[Path | None, typer.Option(help="Text file: the only pictures that keep masks.")] = None,
    split: Annotated[str, typer.Option(help="What is scored.")] = "test",
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
    show: Annotated[bool, typer.Option("--show", help="Only print the arms and their settings.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line per training.")] = False,
) -> None:
    """Train a method's list of ablations over seeds and compare them; called again it goes on where it was stopped.

    Example: textmask study ablation c2seg data/table.csv --list table3 --arms a,d,f --seeds 0,1,2 --out runs/table3
    """
    from textmask.run.study import ablation as run_ablation
    from textmask.run.study import find_arms
    from textmask.run.study_table import table

    names = split_names(arms) or None
    if show:
        for arm in find_arms(method, study, names):
            say(f"{arm.name}: {arm.title}; {arm.method or method} {' '.join(arm.settings) or 'as it is'}")
        return
    if data is None:
        raise ConfigError("study ablation needs METHOD and DATA (or --show). See textmask study ablation --help.")
    chosen = find_arms(method, study, names)  # before the data are read
    summary = run_ablation(
        method,
        read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid),
        out,
        study=study,
        arms=[arm.name for arm in chosen],
        seeds=_numbers(seeds),
        preset=preset,
        settings=tuple(settings or ()),
        labelled_fraction=labelled_fraction,
        labelled_list=labelled_list,
        split=split,
        cache_dir=cache_dir,
        progress=None if quiet else say,
    )
    say(table(summary))
    say(f"{out}: table.md, study.csv, study.json, study.png")


@study_app.command()
def features(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, a panel each.")],
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    top: Annotated[int, typer.Option(help="How many of its most frequent sentences.")] = 5,
    stage: Annotated[str | None, typer.Option(help="Weights of an earlier stage, e.g. pretrain.")] = None,
    out: Annotated[Path, typer.Option(help="PNG to write, with a JSON file beside.")] = Path("features.png"),
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """Draw the image vectors of runs, coloured by sentence, and say how well the sentences separate.

    Example: textmask study features runs/table3/d-seed0 runs/table3/f-seed0 data/table.csv --out features.png
    """
    from textmask.run.features import features as draw_features
    from textmask.run.machine import prepare_cpu

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    for found in draw_features(runs, manifest, out, split=split, top=top, stage=stage, cache_dir=cache_dir):
        say(
            f"{found.run}: silhouette {found.silhouette:.3f} (sentences shuffled {found.floor:.3f}), n = {found.n}, "
            f"the picture holds {found.explained * 100:.0f} % of the variance"
        )
    say(str(out))


@study_app.command()
def ambiguity(
    run: RunPath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    pictures: Annotated[int, typer.Option(help="How many to draw.")] = 4,
    count: Annotated[int, typer.Option(help="How many to measure on.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the choice of pictures and the wording.")] = 0,
    out: Annotated[Path, typer.Option(help="PNG to write, with a JSON file beside.")] = Path("ambiguity.png"),
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    cache_dir: CacheDir = None,
) -> None:
    """Draw where a run looks for similar sentences: reworded, without place, with a vague one, on the other side.

    Example: textmask study ambiguity runs/dusss data/table.csv --out ambiguity.png
    """
    from textmask.run.ambiguity import ambiguity as run_ambiguity
    from textmask.run.ambiguity import lines
    from textmask.run.machine import prepare_cpu

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out)
    with progress_bars() as step:
        summary = run_ambiguity(
            run,
            manifest,
            out,
            split=split,
            pictures=pictures,
            count=count,
            seed=seed,
            cache_dir=cache_dir,
            progress=lambda done, total: step("pictures", done, total),
        )
    print_table(["sentence", "cosine to own", "overlap with own", "inside mask", "inside minus own"], lines(summary))
    say(
        f"{out}: n = {summary['n']} of {summary['usable']} usable pictures, split {split}, seed {seed}; "
        f"the masks cover {summary['mask_share'] * 100:.1f} % of the picture, which is what a flat map has inside"
    )


@study_app.command()
def claims(
    results: Annotated[Path, typer.Option(help="Folder of committed summaries.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Page to write; a picture goes beside it.")] = Path("docs/claims.md"),
) -> None:
    """Judge the numbered claims of the five papers by the results of this project.

    Example: textmask study claims --results results --out docs/claims.md
    """
    from textmask.run.claims_page import write_claims
    from textmask.run.verdicts import VERDICTS, tally

    found = tally(write_claims(results, out))
    say(f"{out}: {found.total()} claims; {', '.join(f'{found[verdict]} {verdict}' for verdict in VERDICTS)}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(name) for name in split_names(text)]
    except ValueError:
        raise ConfigError(f"--seeds is {text!r}, expected whole numbers with commas, e.g. 0,1,2.") from None
