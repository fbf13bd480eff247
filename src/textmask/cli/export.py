"""The commands that take a run out of the library and weights into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.options import (
    CacheDir,
    Device,
    RunPath,
    find_run,
    read_run_data,
    say,
)
from textmask.errors import ConfigError, choose
from textmask.progress import report

if TYPE_CHECKING:
    from textmask.data.manifest import Manifest

TARGETS = ("onnx", "monai", "hf")


@reads_data()
def export_command(
    run: RunPath,
    folder: Annotated[Path | None, typer.Argument(metavar="OUT", hidden=True)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write (default: RUN/TARGET, where `predict` looks for onnx)."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="Format: onnx, monai (a bundle) or hf (config, safetensors, card).")
    ] = "onnx",
    precision: Annotated[
        str, typer.Option(help="Precision: fp32, bf16 (OpenVINO only) or int8.")
    ] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option(help="Data of the run; masks are compared on its validation images."),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            help="Maximum tolerated deviation from eager fp32: fraction of flipped pixels (fp32) or Dice loss "
            "(default: per precision)."
        ),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Compare the masks with eager fp32.")
    ] = True,
    split: Annotated[str, typer.Option(help="Split to compare on.")] = "valid",
    note: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Sentence for the card of hf; repeatable (default: none)."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX",
            help="Name prefix of graph nodes to keep in fp32; repeatable (default: none).",
        ),
    ] = None,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    cache_dir: CacheDir = None,
) -> None:
    """Export a run as ONNX graphs, a MONAI bundle or a hub folder, if its masks still agree.

    The data options are those of the run, unless you give others.

    Example: textmask export runs/biclip --target onnx --data data/table.csv
    """
    from textmask.runs.layout import output_folder

    choose("target", target, TARGETS)
    if folder is not None and out is not None:
        raise ConfigError(f"got two output folders, {folder} and --out {out}. Give only --out.")
    record = find_run(run)
    written = output_folder(record.path, out or folder, target)
    manifest: Manifest | None = None
    if data is not None:
        options = given.over(record.options)
        manifest = read_run_data(record, data, options)
        manifest.rows_of(split)

    from textmask.export.export import export, gate_report

    result = export(
        record.path,
        written,
        target,
        data=manifest,
        precision=precision,
        bound=bound,
        gate=gate,
        split=split,
        kept=keep or (),
        notes=note or (),
        cache_dir=cache_dir,
        device=device,
        progress=report,
    )

    for line in gate_report(result):
        say(line)
    if target != "hf" and result.gate:
        say(f"bound {result.bound:g}; runs with {', '.join(result.runtimes)}")
    elif target != "hf":
        say("not compared with eager fp32 (--no-gate), and the card says so")
    say(f"{written}: {target}")


def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="State dict (.pt), or a MONAI bundle exported by textmask (folder or .zip).",
        ),
    ],
    run: Annotated[Path | None, typer.Argument(metavar="OUT", hidden=True)] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write (required).")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="File recipe.json of the weights (default: that of the bundle)."),
    ] = None,
    laterality: Annotated[
        str,
        typer.Option(help="Laterality convention of its prompts: image, patient or unknown."),
    ] = "unknown",
) -> None:
    """Convert pickled weights to a run folder. A separate process reads the pickle, tensors only.

    Example: textmask import-weights model.pt --recipe recipe.json --out runs/a
    """
    from textmask.statement import Laterality as Convention

    folder = out or run
    if folder is None or (out is not None and run is not None):
        raise ConfigError("import-weights needs one output folder. Give it with --out.")
    choose("laterality", laterality, [str(side) for side in Convention])

    from textmask.export.import_weights import import_weights

    say(str(import_weights(source, folder, recipe=recipe, laterality=laterality)))
