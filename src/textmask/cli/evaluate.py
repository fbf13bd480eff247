"""Commands that measure and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    print_table,
    progress_bars,
    read_data,
    say,
)


def evaluate_command(
    run: RunPath,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    beside: Annotated[
        list[Path] | None, typer.Option(help="Further runs to set beside; repeatable.")
    ] = None,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    surface: Annotated[bool, typer.Option(help="Also HD95 and ASSD.")] = True,
    native: Annotated[
        bool, typer.Option("--native", help="Score at each mask's own size.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of shuffling and bootstrap.")] = 0,
    zones: Annotated[
        str | None, typer.Option(help="Zone map; else chosen by each sentence's grammar.")
    ] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Score a run beside its baselines, with intervals, and write a report.

    Example: textmask evaluate runs/biclip data/table.csv --split test
    """
    from textmask.evaluation.agreement import agreement_cells, agreement_lines
    from textmask.evaluation.evaluate import EvaluationOptions
    from textmask.evaluation.evaluate import evaluate as run_evaluation
    from textmask.evaluation.protocol import provenance_lines
    from textmask.evaluation.tables import difference_lines, protocol_line, table_cells
    from textmask.reports.page import write_report as write_report
    from textmask.runs.environment import prepare_cpu

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with progress_bars() as step:
        options = EvaluationOptions(
            beside=tuple(beside or ()),
            surface=surface,
            native=native,
            seed=seed,
            zones=zones,
            cache_dir=cache_dir,
            progress=step,
        )
        summary = run_evaluation(run, manifest, split, options)

    print_table(*table_cells(summary.rows, summary.missing_rows))
    say(protocol_line(summary.protocol))
    for line in difference_lines(summary.differences):
        say(f"  {run.name} {line}")
    for line in provenance_lines(summary):
        say(f"  {line}")

    if summary.agreement_bounds is not None:
        print_table(*agreement_cells(summary.rows, summary.agreement_bounds))
        for line in agreement_lines(summary):
            say(f"  {line}")
    say(f"report: {write_report(run)}")


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders made by `textmask train`.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; else in the run, or beside the first of many."),
    ] = None,
) -> None:
    """Write one self-contained HTML report of one run, or of many compared on the same images.

    Example: textmask report runs/biclip runs/unet --out comparison.html
    """
    from textmask.reports.page import write_report as write_report

    say(str(write_report(runs, out)))


def table_command(
    summaries: Annotated[
        list[Path],
        typer.Argument(
            help="summary.json of `textmask evaluate`, or of `study prompts` and its like."
        ),
    ],
    brief: Annotated[
        bool, typer.Option("--brief", help="Without differences and provenance.")
    ] = False,
) -> None:
    """Print one markdown table a protocol from evaluation summaries, or one a study with a column a run.

    Example: textmask table results/qata-*.json
    """
    from textmask.studies.tables import summary_tables

    typer.echo(summary_tables(summaries, brief))


def verify_table_command(
    pairs: Annotated[
        list[str], typer.Argument(help="DICE IOU DICE IOU ..., or tables (.md, .csv, .xlsx).")
    ],
) -> None:
    """Tell whether published (Dice, IoU) pairs can be pooled, per image, or neither.

    One confusion matrix gives Dice = 2 IoU / (1 + IoU); means over images lie below; nothing lies above. The digits as
    typed say how far rounding reaches.

    Example: textmask verify-table 91.65 84.60 83.66 75.11
    """
    from textmask.studies.claims.printed_pairs import find_pairs, pair_cells

    print_table(*pair_cells(find_pairs(pairs)))
