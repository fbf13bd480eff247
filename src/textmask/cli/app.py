"""The command line: one message for a user's mistake, never a traceback."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from textmask.cli.data import data_app
from textmask.cli.dicom import dicom_app
from textmask.cli.evaluate import (
    evaluate_command,
    report_command,
    table_command,
    verify_table_command,
)
from textmask.cli.export import add_commands
from textmask.cli.methods import methods_app
from textmask.cli.options import complain, out_console
from textmask.cli.predict import calibrate_command, predict_command
from textmask.cli.serve import serve
from textmask.cli.study import study_app
from textmask.cli.train import demo_command, train_command
from textmask.errors import TextMaskError, TextMaskWarning

INTERRUPTED = 130  # what Typer makes of Ctrl-C

app = typer.Typer(
    name="textmask",
    help="Text-guided medical image segmentation: an image and a sentence in, a mask out. Research use only.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("report")(report_command)
app.command("table")(table_command)
app.command("verify-table")(verify_table_command)
app.command("predict")(predict_command)
app.command("calibrate")(calibrate_command)
app.add_typer(methods_app, name="methods")
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")
app.command()(serve)
app.add_typer(dicom_app, name="dicom")
add_commands(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from textmask import __version__

        out_console.print(__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Text-guided medical image segmentation: an image and a sentence in, a mask out. Research use only."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    if issubclass(category, TextMaskWarning):
        complain(f"warning: {message}", "yellow")


def main() -> None:
    """Entry point of the `textmask` command: 0 done, 1 some pictures failed, 2 a mistake, 130 interrupted."""
    warnings.showwarning = _show_warning
    try:
        app()
    except (
        TextMaskError,
        OSError,
    ) as error:  # OSError: a path that is missing, a folder, or may not be read
        if "--debug" in sys.argv:
            raise
        complain(f"error: {error}", "bold red")
        sys.exit(2)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            complain(
                "stopped; a training run continues with --resume, a study with the same command",
                "yellow",
            )
        raise
