"""The command line: one message for a user's mistake, never a traceback."""

from __future__ import annotations

import io
import platform
import shlex
import sys
import tempfile
import traceback
import warnings
from itertools import chain
from typing import Annotated, Any

import typer

from textmask.cli.bars import Bars
from textmask.cli.cache import cache_app
from textmask.cli.data import data_app
from textmask.cli.dicom import dicom_app
from textmask.cli.ensemble import ensemble_command
from textmask.cli.evaluate import (
    evaluate_command,
    report_command,
    table_command,
    verify_table_command,
)
from textmask.cli.export import export_command, import_command
from textmask.cli.figure import figure_app
from textmask.cli.methods import methods_app
from textmask.cli.options import FullHelpGroup, complain, err_console, out_console
from textmask.cli.predict import calibrate_command, predict_command
from textmask.cli.serve import serve
from textmask.cli.signals import INTERRUPTED, handle_signals
from textmask.cli.study import study_app
from textmask.cli.train import demo_command, train_command
from textmask.cli.weights import weights_app
from textmask.errors import TextMaskError, TextMaskWarning
from textmask.io.files import what_to_do
from textmask.progress import displayed_by

UNEXPECTED = 3  # exit status after a fault of the program
DESCRIPTION = (
    "Text-guided medical image segmentation: an image and a text prompt in, a mask out. "
    "Research use only."
)


# the commands in the order of work
PANELS = {
    "Train and evaluate": (
        *("demo", "methods", "train", "ensemble", "evaluate", "report", "study"),
        *("figure", "table", "verify-table"),
    ),
    "Predict": ("predict", "calibrate", "serve"),
    "Data": ("data", "cache", "weights"),
    "Clinical": ("dicom",),
    "Export": ("export", "import-weights"),
}


class CommandPanels(FullHelpGroup):
    """A group whose help lists the commands in panels, in the order of work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, panel by panel."""
        return list(chain.from_iterable(PANELS.values()))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel."""
        for panel, names in PANELS.items():
            self.write_section(formatter, panel, names)


app = typer.Typer(
    name="textmask",
    cls=CommandPanels,
    help=DESCRIPTION,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo_command)
app.command("train")(train_command)
app.command("ensemble")(ensemble_command)
app.command("evaluate")(evaluate_command)
app.command("report")(report_command)
app.command("table")(table_command)
app.command("verify-table")(verify_table_command)
app.add_typer(study_app, name="study")
app.add_typer(figure_app, name="figure")
app.add_typer(methods_app, name="methods")
app.command("predict")(predict_command)
app.command("calibrate")(calibrate_command)
app.command("serve")(serve)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(weights_app, name="weights")
app.add_typer(dicom_app, name="dicom")
app.command("export")(export_command)
app.command("import-weights")(import_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from textmask import __version__

        out_console.print(__version__)
        raise typer.Exit


@app.callback(help=DESCRIPTION)
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options that come before the command."""
    # bars of whatever the command does, until it ends
    context.with_resource(displayed_by(context.with_resource(Bars(err_console))))


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
    """Entry point of the `textmask` command.

    Exit codes: 0 done, 1 some images failed, 2 a mistake of the user, 3 a fault of the program, 130 interrupted.
    """
    warnings.showwarning = _show_warning
    handle_signals()

    # a terminal that cannot show a character shows its code, instead of failing after the work is done
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (TextMaskError, OSError) as error:  # OSError: a path is missing or may not be read
        if "--debug" in sys.argv:
            raise
        complain(f"error: {_described(error)}", "bold red")
        sys.exit(2)
    except KeyboardInterrupt:
        _say_stopped()
        sys.exit(INTERRUPTED)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            _say_stopped()
        raise
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        first = next(iter(str(error).splitlines()), "")
        complain(
            f"error: unexpected {type(error).__name__}: {first} This is a fault of textmask, not yours. "
            f"{_write_traceback(error)}",
            "bold red",
        )
        sys.exit(UNEXPECTED)


def _say_stopped() -> None:
    complain(
        "stopped; resume a training with --resume, and a study with the same command", "yellow"
    )


def _described(error: TextMaskError | OSError) -> str:
    """The message of an error, with the file and what to do if the system refused something."""
    if isinstance(error, TextMaskError) or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}. {what_to_do(error.errno)}"


def _write_traceback(error: Exception) -> str:
    """Write a report file for the authors; returns the sentence that names it."""
    from textmask import __version__

    lines = [
        f"textmask {__version__}, Python {platform.python_version()}, {platform.platform()}",
        shlex.join(sys.argv),
        "",
        *traceback.format_exception(error),
    ]
    try:
        handle, name = tempfile.mkstemp(prefix="textmask-error-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("\n".join(lines))
    except OSError:
        return "Run the command again with --debug to see where it happened."
    return f"Please report it with the file {name}, which may contain paths and prompts."
