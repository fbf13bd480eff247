"""`textmask predict` and `textmask calibrate`."""

from __future__ import annotations

from collections import Counter
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
    complain,
    known_run,
    progress_bars,
    read_data,
    say,
)
from textmask.errors import ConfigError

if TYPE_CHECKING:
    from textmask.inference.results import BatchResult


def predict_command(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] SOURCE [SENTENCE]",
            help="Run folder (else the model that comes with the package); a picture, a folder, or a csv/json file of "
            "image,text; what to segment, which a jobs file brings along.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks, overlays and results.")] = Path(
        "predictions"
    ),
    laterality: Annotated[
        str | None,
        typer.Option(
            help="Whose left the sentence means: image (of the picture as stored) or patient; else by format."
        ),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            help="What the pictures show: pa, ap, mirrored, lateral or axial; else by the file."
        ),
    ] = None,
    assume: Annotated[
        str | None,
        typer.Option(help="image or patient, where a convention is unknown; this is recorded."),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="The sentence is a report: one mask for each finding it names."
        ),
    ] = False,
    index: Annotated[
        int | None, typer.Option(help="Slice of a volume, or frame of a DICOM file.")
    ] = None,
    abstain: Annotated[
        bool, typer.Option(help="Give an empty mask where the model should not answer.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make existing results again.")
    ] = False,
    probability: Annotated[
        bool, typer.Option("--probability", help="Also a 16-bit probability PNG.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also attention, prior and guide side by side.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: the pictures are shared among a cluster.")
    ] = "local",
    threads: Annotated[int | None, typer.Option(help="CPUs of a task of Ray.")] = None,
    backend: Annotated[
        str, typer.Option(help="torch, onnxruntime or openvino; see `textmask export`.")
    ] = "torch",
    exported: Annotated[
        Path | None, typer.Option("--export", help="Where the export lies; else RUN/onnx.")
    ] = None,
) -> None:
    """Segment own pictures from a sentence.

    Example: textmask predict runs/biclip film.png "lower left lung" --out masks
    """
    from textmask.inference.batch import predict_folder as run_prediction
    from textmask.inference.jobs import read_jobs, split_reports
    from textmask.runs.checkpoint import load_run
    from textmask.runs.environment import prepare_cpu
    from textmask.runs.layout import DEFAULT_RUN, is_run

    where = None
    if engine != "local":
        from textmask.cluster import Launcher

        where = Launcher(engine, threads)
    elif threads is not None:
        raise ConfigError("--threads is of --engine ray; leave it out.")
    prepare_cpu()
    first = Path(what[0])
    run, rest = (known_run(first), what[1:]) if is_run(known_run(first)) else (DEFAULT_RUN, what)
    if not 1 <= len(rest) <= 2:
        raise ConfigError(
            f"got {' '.join(map(repr, what))}, expected [RUN] SOURCE [SENTENCE]. "
            + (
                f"{first} is no run folder."
                if len(rest) > 2
                else "Name a picture, a folder or a jobs file."
            )
        )
    source, sentence = Path(rest[0]), rest[1] if len(rest) > 1 else None
    jobs = read_jobs(source, sentence, laterality=laterality, view=view, index=index)
    notes: list[str] = []
    if report:
        jobs, notes = split_reports(jobs)
    loaded = load_run(run)
    with progress_bars() as step:
        results = run_prediction(
            loaded,
            jobs,
            out,
            overwrite=overwrite,
            probability=probability,
            explain=explain,
            assume=assume,
            abstain=abstain,
            engine=where,
            backend=backend,
            export=exported,
            progress=step,
        )
    for note in notes:
        say(note)
    _tell(results)
    counts = {
        status: sum(r.status == status for r in results) for status in ("done", "skipped", "failed")
    }
    side = loaded.data.get("laterality", "unknown")
    say(
        f"{counts['done']} done, {counts['skipped']} skipped (exist; --overwrite makes them again), "
        f"{counts['failed']} failed, in {out}. For this model left means the {side} side."
    )
    if counts["failed"]:
        raise typer.Exit(1)


def _tell(results: list[BatchResult]) -> None:
    """Each message once: why pictures failed, what is odd about a sentence, and what the contract did."""
    from textmask.inference.screening import CODES

    for message in dict.fromkeys(r.message for r in results if r.status == "failed"):
        complain(f"failed: {message}", "red")
    odd = []
    for result in results:
        for code in result.warnings:
            words = f" ({', '.join(result.unknown_words)})" if code == "out_of_vocabulary" else ""
            odd.append(f"{result.job.text[:80]!r}: {code}: {CODES[code]}{words}")
    for message in dict.fromkeys(
        [*odd, *(r.message for r in results if r.status == "skipped" and r.message)]
    ):
        complain(f"warning: {message}", "yellow")
    for conversion, n in Counter(r.conversion for r in results if r.conversion).items():
        if not conversion.startswith("none"):
            say(f"{n} of {len(results)}: {conversion}")


def calibrate_command(
    run: RunPath,
    data: DataPath,
    split: Annotated[
        str, typer.Option(help="Which split; not the one that is reported.")
    ] = "valid",
    level: Annotated[float, typer.Option(help="Share of its masks that may be withheld.")] = 0.01,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """Learn from the validation split when a run should abstain; `predict` uses it from then on.

    Example: textmask calibrate runs/biclip data/table.csv
    """
    from textmask.inference.calibration import calibrate_run as run_calibration
    from textmask.runs.environment import prepare_cpu
    from textmask.runs.layout import CALIBRATION

    prepare_cpu()
    manifest = read_data(data, layout, text_column, split_column, laterality, hold_out, merge_valid)
    with progress_bars() as step:
        found = run_calibration(
            run,
            manifest,
            split,
            level=level,
            cache_dir=cache_dir,
            progress=lambda done, total: step("pictures", done, total),
        )
    say(
        f"{run / CALIBRATION}: {len(found['vocabulary'])} words. A sentence needs {found['share_needed']:.0%} known "
        f"words, a mask a mean probability of {found['confidence_needed']:.3f}."
    )
    say(
        f"Withheld on {split} (n = {found['n']}): {found['withheld_own_sentence']:.1%} of the answers, "
        f"{found['withheld_other_sentence']:.1%} with the sentences of other pictures."
    )
