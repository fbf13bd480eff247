"""What the commands share: options, and how they find runs, read data and print."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from textmask.cluster import Launcher
from textmask.config import MAX_SEED
from textmask.errors import CheckpointError, ConfigError, DataError, choose
from textmask.progress import make_way

if TYPE_CHECKING:
    from textmask.config import Recipe
    from textmask.data.manifest import Manifest
    from textmask.runs.data_options import DataOptions
    from textmask.runs.record import RunRecord

out_console, err_console = Console(), Console(stderr=True)

DEFAULT_PRESET = "lite"
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,2})?")
MAX_DEVICES = 4096


class FullHelpGroup(TyperGroup):
    """A group whose help shows the whole first line of each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in their order."""
        self.write_section(formatter, "Commands", self.list_commands(ctx))

    def write_section(self, formatter: Any, title: str, names: Iterable[str]) -> None:
        """Write some of the commands under a heading."""
        rows = [(name, self.commands[name].get_short_help_str(limit=200)) for name in names]
        with formatter.section(title):
            formatter.write_dl(rows)


def check_device(name: str) -> str:
    """Refuse a device name that no machine has, before torch is loaded.

    Raises:
        ConfigError: the name is unknown.
    """
    if not DEVICE.fullmatch(name):
        raise ConfigError(f"unknown device {name!r}, expected auto, cpu, cuda, cuda:N or mps.")
    return name


RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, or `default` for the bundled model.")
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read every image and mask again, whatever its size and time (default: changed files).",
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Resume stopped trainings although data, device or threads differ (default: refuse).",
    ),
]
DataPath = Annotated[
    Path, typer.Argument(metavar="DATA", help="Manifest, or data in a published layout.")
]
OptionalData = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", help="Manifest, or data in a published layout."),
]
MethodName = Annotated[
    str, typer.Argument(metavar="METHOD", help="Method name, see `textmask methods list`.")
]
Split = Annotated[str, typer.Option(help="Split to score.")]
Device = Annotated[
    str, typer.Option(help="Device: auto, cpu, cuda, cuda:N or mps.", callback=check_device)
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Recipe preset: lite (for a CPU), paper (as published, for a GPU) or smoke (seconds) (default: lite)."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Recipe setting, e.g. seed=1; repeatable (default: none).",
    ),
]
LabelledFraction = Annotated[
    float | None,
    typer.Option(help="Fraction of train images that keep their masks (default: the recipe's)."),
]
LabelledList = Annotated[
    Path | None,
    typer.Option(help="Text file with the train images that keep their masks (default: all)."),
]
ZoneMap = Annotated[
    str | None,
    typer.Option(help="Zone map of the masks (default: that of each prompt's grammar)."),
]

CacheDir = Annotated[
    Path | None,
    typer.Option(help="Folder for decoded images (default: the user cache)."),
]

TaskEngine = Annotated[
    str,
    typer.Option("--engine", help="Launcher: local, or ray to share the images among a cluster."),
]
TaskThreads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads per Ray task (default: 4).")
]


def task_launcher(engine: str, threads: int | None) -> Launcher | None:
    """The launcher of `--engine` and `--threads`; None means this process.

    Raises:
        ConfigError: the launcher is unknown, or threads are given without it.
    """
    if engine == "local":
        if threads is not None:
            raise ConfigError("--threads requires --engine ray.")
        return None
    return Launcher(engine, threads)


def say(text: str) -> None:
    """Print a line unchanged: without markup, and without a line break inside a path."""
    make_way()
    out_console.print(text, highlight=False, markup=False, soft_wrap=True)


def complain(text: str, style: str) -> None:
    """Print a line unchanged to stderr."""
    make_way()
    err_console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def read_seeds(text: str) -> list[int]:
    """The numbers in `--seeds`.

    Raises:
        ConfigError: not whole numbers, or none.
    """
    try:
        found = [int(name) for name in split_names(text)]
    except ValueError:
        found = []
    if not found or min(found) < 0 or max(found) > MAX_SEED:
        raise ConfigError(
            f"--seeds is {text!r:.80}, expected comma-separated whole numbers from 0 to {MAX_SEED}, e.g. 0,1,2."
        )
    return found


def split_names(text: str) -> list[str]:
    """The names in a comma-separated option."""
    return [name.strip() for name in text.split(",") if name.strip()]


def find_run(run: Path) -> RunRecord:
    """What a run says about itself; its weights are not read and torch is not loaded.

    Raises:
        CheckpointError: there is no run folder of that name, or it is damaged.
    """
    from textmask.runs.layout import is_run, run_path
    from textmask.runs.record import read_record

    path = run_path(run)
    if not is_run(path):
        found = "contains no recipe.json" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"{run} {found}. Expected a run folder made by `textmask train`, or `default`."
        )
    return read_record(path)


def verify_data(manifest: Manifest, cache_dir: Path | None = None) -> None:
    """Read every file of a data set again, and say which changed without a new size or time."""
    from textmask.data.content import verify_contents

    changed = verify_contents(manifest, cache_dir)
    if not changed:
        say(f"{manifest.name or manifest.root}: every file has the content that is known of it")
        return
    shown = ", ".join(changed[:5])
    complain(
        f"warning: {len(changed)} files changed although their size and time did not, e.g. {shown}. "
        "What was decoded from them is decoded again.",
        "yellow",
    )


def read_run_data(record: RunRecord, path: Path, options: DataOptions) -> Manifest:
    """The manifest of a data set for a run; says which options come from the run.

    Raises:
        DataError: the data cannot be read with these options.
        ConfigError: an option does not fit the data.
    """
    from textmask.runs.read_data import read_data

    kept = record.options.words()
    if not kept:
        return read_data(path, options)

    say(f"data options of {record.path}: {kept}")
    try:
        return read_data(path, options)
    except (DataError, ConfigError) as error:
        raise type(error)(
            f"{error} {record.path} was trained with {kept}, which applies unless you give other values "
            "(--layout auto, --text-column '', --hold-out 0, --no-merge-valid, --grammar auto, --sheet '', "
            "--image-column '', --mask-column '', --classes '', --mask-values '', --resize-masks '')."
        ) from error


def print_table(head: list[str], lines: list[list[str]]) -> None:
    """Print a table to the width of the terminal; what does not fit is folded and never cut."""
    table = Table()
    # names of the rows stay whole where they take at most a quarter of the width
    longest = max((len(cells[0]) for cells in lines), default=0)
    for i, name in enumerate(head):
        whole = i == 0 and longest <= out_console.width // 4
        table.add_column(escape(name), overflow="fold", no_wrap=whole)
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    make_way()
    out_console.print(table)


def chosen_preset(preset: str | None) -> str:
    """The preset of a training; prints which one it is and why.

    Raises:
        ConfigError: there is no such preset.
    """
    from textmask.methods.registry import PRESETS

    if preset is not None:
        choose("preset", preset, PRESETS)
        say(f"preset: {preset}")
        return preset
    say(
        f"preset: {DEFAULT_PRESET}, the default on every machine because it also trains on a CPU. "
        "Use --preset paper for the published settings."
    )
    return DEFAULT_PRESET


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        ConfigError: the file cannot be read, or is not a recipe.
    """
    from textmask.methods.registry import load_recipe

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {error}.") from error
    try:
        return load_recipe(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def require_file(path: Path | None, what: str) -> None:
    """Refuse a file that does not exist.

    Raises:
        DataError: naming the file and what it should be.
    """
    if path is not None and not path.is_file():
        raise DataError(f"{path} does not exist. Expected {what}.")


def check_zone_map(name: str | None) -> None:
    """Refuse an unknown zone map.

    Raises:
        ConfigError: listing the zone maps.
    """
    from textmask.text.zones import ZONE_MAPS

    if name is not None:
        choose("zone map", name, list(ZONE_MAPS))
