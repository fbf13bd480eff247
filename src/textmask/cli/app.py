"""The command line: one message for a user's mistake, never a traceback."""

from __future__ import annotations

import sys
import warnings
from itertools import chain
from typing import Annotated, Any

import typer

from textmask.cli.cache import cache_app
from textmask.cli.data import data_app
from textmask.cli.dicom import dicom_app
from textmask.cli.evaluate import (
    evaluate_command,
    report_command,
    table_command,
    verify_table_command,
)
from textmask.cli.export import export_command, import_command
from textmask.cli.methods import methods_app
from textmask.cli.options import FullHelpGroup, complain, out_console
from textmask.cli.predict import calibrate_command, predict_command
from textmask.cli.serve import serve
from textmask.cli.study import study_app
from textmask.cli.train import demo_command, train_command
from textmask.errors import TextMaskError, TextMaskWarning

INTERRUPTED = 130  # exit code of Typer after Ctrl-C
DESCRIPTION = (
    "Text-guided medical image segmentation: an image and a text prompt in, a mask out. "
    "Research use only."
)


# the commands in the order of work
PANELS = {
    "Train and evaluate": (
        *("demo", "methods", "train", "evaluate", "report", "study"),
        *("table", "verify-table"),
    ),
    "Predict": ("predict", "calibrate", "serve"),
    "Data": ("data", "cache"),
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
app.command("evaluate")(evaluate_command)
app.command("report")(report_command)
app.command("table")(table_command)
app.command("verify-table")(verify_table_command)
app.add_typer(study_app, name="study")
app.add_typer(methods_app, name="methods")
app.command("predict")(predict_command)
app.command("calibrate")(calibrate_command)
app.command("serve")(serve)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options that come before the command."""


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

    Exit codes: 0 done, 1 some images failed, 2 a mistake of the user, 130 interrupted.
    """
    warnings.showwarning = _show_warning
    try:
        app()
    except (TextMaskError, OSError) as error:  # OSError: a path is missing or may not be read
        if "--debug" in sys.argv:
            raise
        complain(f"error: {error}", "bold red")
        sys.exit(2)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            complain(
                "stopped; resume a training with --resume, and a study with the same command",
                "yellow",
            )
        raise
