"""The commands that bring a run out of the library and weights into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import (
    CacheDir,
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
)
from textmask.errors import choose


def add_commands(app: typer.Typer) -> None:
    """Register `export` and `import-weights`."""
    app.command("export")(export_command)
    app.command("import-weights")(import_command)


def export_command(
    run: RunPath,
    out: Annotated[Path, typer.Argument(help="Folder to make; RUN/onnx is where --backend looks.")],
    target: Annotated[
        str, typer.Option(help="onnx, monai (a bundle) or hf (config, safetensors, card).")
    ] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, bf16 (OpenVINO) or int8.")] = "fp32",
    data: Annotated[
        Path | None, typer.Option(help="The run's data: masks are compared on its validation rows.")
    ] = None,
    bound: Annotated[
        float | None, typer.Option(help="Refuse above it: flipped pixels (fp32), loss of Dice.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Compare with eager fp32.")] = True,
    split: Annotated[str, typer.Option(help="Rows to compare on.")] = "valid",
    note: Annotated[
        list[str] | None, typer.Option(help="Sentence for the card of hf; repeatable.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Start of graph nodes to keep in fp32; repeatable.")
    ] = None,
    layout: Layout = "auto",
    text_column: TextColumn = None,
    split_column: SplitColumn = None,
    laterality: Whose = None,
    hold_out: HoldOut = 0.0,
    merge_valid: MergeValid = False,
    cache_dir: CacheDir = None,
) -> None:
    """Write a run as ONNX graphs, a MONAI bundle or a hub folder; refused where its masks differ too much.

    Example: textmask export runs/biclip runs/biclip/onnx --target onnx --data data/table.csv
    """
    from textmask.export.export import export, gate_report

    manifest = None
    if data is not None:
        manifest = read_data(
            data, layout, text_column, split_column, laterality, hold_out, merge_valid
        )
    with progress_bars() as step:
        result = export(
            run,
            out,
            target,
            data=manifest,
            precision=precision,
            bound=bound,
            gate=gate,
            split=split,
            kept=keep or (),
            notes=note or (),
            cache_dir=cache_dir,
            progress=step,
        )
    for line in gate_report(result):
        say(line)
    if target != "hf":
        say(
            f"bound {result.bound:g}; may be run by {', '.join(result.runtimes)}"
            if result.gate
            else "not compared with eager fp32 (--no-gate); the card says so"
        )
    say(f"{out}: {target}")


def import_command(
    source: Annotated[
        Path, typer.Argument(help="A state dict (.pt), or a MONAI bundle of ours (folder or .zip).")
    ],
    run: Annotated[Path, typer.Argument(help="Run folder to make.")],
    recipe: Annotated[
        Path | None, typer.Option(help="recipe.json of the weights; a bundle brings its own.")
    ] = None,
    laterality: Annotated[
        str, typer.Option(help="Whose left its sentences mean: image, patient, unknown.")
    ] = "unknown",
) -> None:
    """Turn pickled weights into a run folder; the pickle is opened in a process of its own and may hold tensors only.

    Example: textmask import-weights model.pt runs/imported --recipe recipe.json
    """
    from textmask.export.import_weights import import_weights
    from textmask.statement import Laterality

    choose("laterality", laterality, [str(side) for side in Laterality])
    say(str(import_weights(source, run, recipe=recipe, laterality=laterality)))
