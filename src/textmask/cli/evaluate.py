"""Commands that measure and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    DataPath,
    Device,
    RunPath,
    Split,
    TaskEngine,
    TaskThreads,
    Verify,
    ZoneMap,
    check_zone_map,
    find_run,
    print_table,
    read_run_data,
    say,
    task_launcher,
    verify_data,
)
from textmask.config import MAX_SEED
from textmask.errors import ConfigError
from textmask.progress import report


@reads_data()
def evaluate_command(
    run: RunPath,
    data: DataPath,
    split: Split = "test",
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder (default: RUN/evaluation/SPLIT, and a report in RUN)."),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Run to compare with; repeatable (default: baselines in the folder of RUN).",
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Folder of masks of another tool, one file per image of the split; repeatable (default: none).",
        ),
    ] = None,
    given: GivenOptions = NOTHING_GIVEN,
    surface: Annotated[bool, typer.Option(help="Compute HD95 and ASSD too.")] = True,
    native: Annotated[
        bool, typer.Option("--native", help="Score at the size of each mask file.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Random seed of shuffling and bootstrap.", min=0, max=MAX_SEED)
    ] = 0,
    zones: ZoneMap = None,
    device: Device = "auto",
    engine: TaskEngine = "local",
    threads: TaskThreads = None,
    cache_dir: CacheDir = None,
    verify: Verify = False,
) -> None:
    """Score a run next to its baselines, with intervals, and write a report.

    The data options are those of the run, unless you give others.

    Example: textmask evaluate runs/biclip data/table.csv --split test
    """
    launcher = task_launcher(engine, threads)
    record = find_run(run)
    neighbors = tuple(find_run(path).path for path in beside or ())
    folders = _mask_folders(masks or [])
    check_zone_map(zones)
    folder = _evaluation_folder(record.path, out, split)
    options = given.over(record.options)
    manifest = read_run_data(record, data, options)
    if verify:
        verify_data(manifest, cache_dir)
    manifest.rows_of(split)

    from textmask.evaluation.agreement import agreement_cells, agreement_lines
    from textmask.evaluation.evaluate import EvaluationOptions
    from textmask.evaluation.evaluate import evaluate as run_evaluation
    from textmask.evaluation.protocol import provenance_lines
    from textmask.evaluation.structures import structure_cells
    from textmask.evaluation.tables import difference_lines, protocol_line, table_cells
    from textmask.reports.page import write_report
    from textmask.runs.environment import prepare_cpu

    prepare_cpu()
    scoring = EvaluationOptions(
        beside=neighbors,
        masks=folders,
        out=out,
        surface=surface,
        native=native,
        seed=seed,
        zones=zones,
        cache_dir=cache_dir,
        device=device,
        progress=report,
        engine=launcher,
    )
    summary = run_evaluation(record.path, manifest, split, scoring)

    print_table(*table_cells(summary.rows, summary.missing_rows))
    if summary.structures:
        print_table(*structure_cells(summary.structures))
    say(protocol_line(summary.protocol))
    for line in difference_lines(summary.differences):
        say(f"  {record.path.name} {line}")
    for line in provenance_lines(summary):
        say(f"  {line}")

    if summary.agreement_bounds is not None:
        print_table(*agreement_cells(summary.rows, summary.agreement_bounds))
        for line in agreement_lines(summary):
            say(f"  {line}")

    # the report of a run shows what is in its folder
    if out is None:
        say(f"report: {write_report(record.path)}")
    else:
        say(f"{folder}: table.md, per_image.csv, scores.csv, summary.json, cases")


def _mask_folders(given: list[str]) -> dict[str, Path]:
    """Name of a row -> folder of masks, of `--masks`."""
    found: dict[str, Path] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise ConfigError(
                f"--masks {text}: expected NAME=FOLDER, for example --masks nnU-Net=predictions."
            )
        if name in found:
            raise ConfigError(
                f"--masks: two folders have the name {name!r}. Give each one its own."
            )
        found[name] = Path(folder)
    return found


def _evaluation_folder(run: Path, out: Path | None, split: str) -> Path:
    """Where the evaluation is written; refuses the installed package."""
    from textmask.runs.layout import EVALUATION, output_folder

    return output_folder(run, out, EVALUATION, split)


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write (default: report.html in the run, or next to the first of several)."
        ),
    ] = None,
) -> None:
    """Write one HTML report of one run, or of several compared on the same images.

    Example: textmask report runs/biclip runs/unet --out comparison.html
    """
    from textmask.runs.layout import is_bundled

    paths = [find_run(run).path for run in runs]
    if out is None and is_bundled(paths[0]):
        raise ConfigError(
            "the report of the bundled model cannot be written into the installed package. "
            "Give a file with --out."
        )

    from textmask.reports.page import write_report

    say(str(write_report(paths, out)))


def table_command(
    summaries: Annotated[
        list[Path],
        typer.Argument(
            metavar="SUMMARY...",
            help="Files summary.json of `textmask evaluate`, or of `textmask study prompts`, text-noise or corruption.",
        ),
    ],
    brief: Annotated[
        bool, typer.Option("--brief", help="Leave out differences and provenance.")
    ] = False,
) -> None:
    """Print summaries as Markdown: one table per protocol, or per robustness study.

    Example: textmask table results/qata-*.json
    """
    from textmask.studies.tables import summary_tables

    say(summary_tables(summaries, brief))


def verify_table_command(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIRS...", help="DICE IOU DICE IOU ..., or tables (.md, .csv, .xlsx)."
        ),
    ],
) -> None:
    """Check whether published (Dice, IoU) pairs can be pooled, per image, or neither.

    One confusion matrix gives Dice = 2 IoU / (1 + IoU). Means over images are below that, and nothing is above. The
    number of digits says how much rounding can change.

    Example: textmask verify-table 91.65 84.60 83.66 75.11
    """
    from textmask.studies.claims.printed_pairs import find_pairs, pair_cells

    print_table(*pair_cells(find_pairs(pairs)))
