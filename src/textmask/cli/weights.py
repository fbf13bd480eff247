"""Commands on published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textmask.cli.options import FullHelpGroup, print_table, say

weights_app = typer.Typer(
    cls=FullHelpGroup,
    help="Fetch published encoder weights once and convert pickled ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@weights_app.command("list")
def list_weights_command() -> None:
    """List the published weights, what is pinned, and what is stored here.

    Example: textmask weights list
    """
    from textmask.errors import WeightsError
    from textmask.weights import PUBLISHED, read_lock, stored_weights, weights_folder

    rows = []
    for name, published in PUBLISHED.items():
        try:
            state = f"revision {read_lock(stored_weights(name))['revision'][:12]}"
        except WeightsError:
            state = "no"
        revision = published.revision[:12] if published.revision else "at the first download"
        digest = published.sha256[:12] if published.sha256 else "at the first download"
        rows.append([name, published.source, published.licence, revision, digest, state])
    print_table(["name", "source", "license", "revision", "sha256", "stored here"], rows)
    say(f"stored in {weights_folder()} (set TEXTMASK_WEIGHTS for another folder)")


@weights_app.command("get")
def get_command(
    name: Annotated[
        str, typer.Argument(help="Encoder: cxr_bert, convnext_tiny, biobert, pubmedbert or clip.")
    ],
    revision: Annotated[
        str | None,
        typer.Option(help="Full commit on the hub (default: the pinned one, else the newest)."),
    ] = None,
) -> None:
    """Download the weights of an encoder once, and record revision and sha256.

    Trainings never use the network: they read what is stored here and check each file against its lock.

    Example: textmask weights get cxr_bert
    """
    from textmask.export.published import get_weights
    from textmask.weights import LOCK, read_lock

    folder = get_weights(name, revision)
    lock = read_lock(folder)
    pinned = lock.get("pinned", {})
    say(f"{name}: {lock['source']}@{lock['revision']}")
    for what in ("revision", "sha256"):
        if not pinned.get(what):
            say(f"the {what} is not pinned by textmask; {LOCK} records what was downloaded")
    say(f"{lock['published']['file']}: sha256 {lock['published']['sha256']}")
    say(str(folder))


@weights_app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Pickled state dict (.bin, .pt).")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write (default: model.safetensors next to pytorch_model.bin, else FILE.safetensors)."
        ),
    ] = None,
) -> None:
    """Convert pickled weights to safetensors. A separate process reads the pickle, tensors only.

    Example: textmask weights convert cxr_bert/pytorch_model.bin
    """
    from textmask.export.published import convert_weights

    say(str(convert_weights(source, out)))
