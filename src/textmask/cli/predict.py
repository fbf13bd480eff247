"""`textmask predict` and `textmask calibrate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    DataPath,
    Device,
    RunPath,
    complain,
    find_run,
    read_run_data,
    say,
)
from textmask.cluster import Launcher
from textmask.errors import ConfigError
from textmask.progress import report as tell

if TYPE_CHECKING:
    from textmask.inference.results import BatchResult


def predict_command(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] SOURCE [PROMPT]",
            help="Run folder (default: the bundled model); an image, a folder, or a table (csv, json, tsv, xlsx) with "
            "the columns image and text; the prompt, unless the file contains prompts.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Output folder for masks, overlays and results.")
    ] = Path("predictions"),
    laterality: Annotated[
        str | None,
        typer.Option(
            help="Laterality convention of the prompt: image (left side of the stored image) or patient "
            "(default: depends on the file format)."
        ),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            help="View of the images: pa, ap, mirrored, lateral or axial (default: that of the file)."
        ),
    ] = None,
    assume: Annotated[
        str | None,
        typer.Option(
            help="Convention to assume if one is unknown: image or patient; recorded (default: none)."
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="Treat the prompt as a report: one mask per finding."),
    ] = False,
    index: Annotated[
        int | None,
        typer.Option(help="Slice of a volume, or frame of a DICOM file (default: all)."),
    ] = None,
    abstain: Annotated[
        bool, typer.Option(help="Write an empty mask if the model should not answer.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results.")
    ] = False,
    probability: Annotated[
        bool, typer.Option("--probability", help="Write a 16-bit probability PNG too.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Write attention, prior and guide side by side too.")
    ] = False,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="Further prompt, with one label map per image; repeatable (default: none).",
        ),
    ] = None,
    tta: Annotated[
        str,
        typer.Option(help="Test-time augmentation: none, or flip (image and prompt mirrored)."),
    ] = "none",
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option(help="Launcher: local, or ray to share the images among a cluster.")
    ] = "local",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per Ray task (default: 4).")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the images (default: one per CPU core from 32 images each, one on a GPU).",
            min=1,
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Runtime: torch, onnxruntime or openvino, see `textmask export`.")
    ] = "torch",
    exported: Annotated[
        Path | None,
        typer.Option("--export", help="Folder of the exported model (default: RUN/onnx)."),
    ] = None,
) -> None:
    """Segment images from a text prompt.

    Example: textmask predict runs/biclip image.png "lower left lung" --out masks
    """
    from textmask.inference.jobs import read_jobs, split_reports
    from textmask.runs.layout import DEFAULT, is_run, run_path

    launcher = None
    if engine != "local":
        launcher = Launcher(engine, threads)
        if processes is not None:
            raise ConfigError("--processes requires --engine local.")
    elif threads is not None:
        raise ConfigError("--threads requires --engine ray.")

    # the first word is the run if it is the folder of one
    first = run_path(what[0])
    named = is_run(first)
    record = find_run(first if named else Path(DEFAULT))
    rest = what[1:] if named else what
    if not 1 <= len(rest) <= 2:
        problem = "Name an image, a folder or a jobs file."
        if len(rest) > 2:
            problem = f"{what[0]} is not a run folder."
        raise ConfigError(
            f"got {' '.join(map(repr, what))}, expected [RUN] SOURCE [PROMPT]. {problem}"
        )

    asked = [*rest[1:], *(prompts or [])]
    prompt = asked[0] if asked else None
    jobs = read_jobs(Path(rest[0]), prompt, laterality=laterality, view=view, index=index)
    jobs = [replace(job, text=text) for job in jobs for text in asked] if asked else jobs
    notes: list[str] = []
    if report:
        jobs, notes = split_reports(jobs)

    from textmask.inference.batch import predict_folder
    from textmask.inference.screening import NOT_MIRRORED

    results = predict_folder(
        record.path,
        jobs,
        out,
        overwrite=overwrite,
        probability=probability,
        explain=explain,
        assume=assume,
        abstain=abstain,
        engine=launcher,
        backend=backend,
        export=exported,
        device=device,
        tta=tta,
        processes=processes,
        progress=tell,
    )

    for note in notes:
        say(note)
    _show_messages(results)
    counts = Counter(result.status for result in results)
    alone = sum(NOT_MIRRORED in result.warnings for result in results)
    if alone:
        say(
            f"{alone} of {len(results)} without the mirrored image, because the prompt cannot be mirrored."
        )
    side = record.data.get("laterality", "unknown")
    say(
        f"{counts['done']} done, {counts['skipped']} skipped (they exist; use --overwrite to replace them), "
        f"{counts['failed']} failed, in {out}. For this model, left means the {side} side."
    )
    if counts["failed"]:
        raise typer.Exit(1)


def _show_messages(results: list[BatchResult]) -> None:
    """Print each message once: failures, prompt warnings, and conversions of the laterality."""
    from textmask.inference.screening import CODES

    for message in dict.fromkeys(r.message for r in results if r.status == "failed"):
        complain(f"failed: {message}", "red")

    warned: list[str] = []
    for result in results:
        for code in result.warnings:
            words = f" ({', '.join(result.unknown_words)})" if code == "out_of_vocabulary" else ""
            warned.append(f"{result.job.text[:80]!r}: {code}: {CODES[code]}{words}")
    warned += [r.message for r in results if r.status != "failed" and r.message]
    for message in dict.fromkeys(warned):
        complain(f"warning: {message}", "yellow")

    conversions = Counter(r.conversion for r in results if r.conversion)
    for conversion, count in conversions.items():
        if not conversion.startswith("none"):
            say(f"{count} of {len(results)}: {conversion}")


@reads_data()
def calibrate_command(
    run: RunPath,
    data: DataPath,
    split: Annotated[
        str, typer.Option(help="Split to calibrate on; never the one that is reported.")
    ] = "valid",
    out: Annotated[
        Path | None, typer.Option(help="Folder for calibration.json (default: RUN).")
    ] = None,
    level: Annotated[
        float, typer.Option(help="Fraction of the model's own masks that may be withheld.")
    ] = 0.01,
    images_only: Annotated[
        bool,
        typer.Option(
            "--images-only",
            help="Describe the training images without predicting, and keep the rest of the run's calibration "
            "(default: calibrate everything).",
        ),
    ] = False,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Learn on the validation split when a run should abstain; `predict` uses the result.

    The data options are those of the run, unless you give others.

    Example: textmask calibrate runs/biclip data/table.csv
    """
    from textmask.runs.layout import CALIBRATION, output_folder

    record = find_run(run)
    folder = output_folder(record.path, out)
    options = given.over(record.options)
    manifest = read_run_data(record, data, options)
    manifest.rows_of(split)

    from textmask.inference.calibration import calibrate_run

    found = calibrate_run(
        record.path,
        manifest,
        split,
        out=out,
        level=level,
        cache_dir=cache_dir,
        device=device,
        images_only=images_only,
        progress=lambda done, total: tell("images", done, total),
    )
    say(
        f"{folder / CALIBRATION}: {len(found['vocabulary'])} words. A prompt needs {found['share_needed']:.0%} known "
        f"words, a mask a mean probability of {found['confidence_needed']:.3f}."
    )
    say(
        f"Withheld on {split} (n = {found['n']}): {found['withheld_own_sentence']:.1%} of the masks, "
        f"{found['withheld_other_sentence']:.1%} with the prompts of other images."
    )
