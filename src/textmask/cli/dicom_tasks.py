"""`textmask dicom tasks`: what the watcher has done, and what to do with tasks that failed or wait."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.options import FullHelpGroup, say, split_names
from textmask.errors import ConfigError, choose

if TYPE_CHECKING:
    from textmask.pacs.state import State, TaskEntry

tasks_app = typer.Typer(
    cls=FullHelpGroup,
    help="List, retry and drop the tasks of a watcher.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StateFile = Annotated[Path, typer.Option(help="State file of the watcher.")]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        help="Tasks: the id of the list, or the image hash of the log, or the first letters of one (default: none).",
    ),
]
LEAST_LETTERS = 4  # of a hash


@tasks_app.command("list")
def list_tasks(
    state: StateFile = Path("watch.sqlite"),
    status: Annotated[
        str,
        typer.Option(
            help="Comma-separated statuses: started, waiting, stored, failed, skipped, dropped."
        ),
    ] = "failed,waiting,started",
    uids: Annotated[
        bool, typer.Option("--uids", help="Show the UID of each image or series too.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show where in the code a task failed.")
    ] = False,
) -> None:
    """List tasks with their status, faults and reason. The watcher may be running.

    Example: textmask dicom tasks list --state watch.sqlite --status failed
    """
    from textmask.pacs.state import STATUSES, open_state

    wanted = [choose("status", name, STATUSES) for name in split_names(status)]
    with open_state(state, shared=True) as opened:
        entries, counts = opened.entries(wanted), opened.counts()
    for entry in entries:
        say(_task_line(entry))
        if uids:
            say(f"    {entry.key.subject}")
        if trace and entry.trace:
            say("\n".join(f"    {line}" for line in entry.trace.splitlines()))
    total = ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])
    say(f"{len(entries)} listed; in {state}: {total or 'no tasks'}")


@tasks_app.command()
def retry(
    ids: Ids = None,
    state: StateFile = Path("watch.sqlite"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Retry all failed and waiting tasks.")
    ] = False,
) -> None:
    """Let the watcher do tasks again in its next round. The watcher may be running.

    Example: textmask dicom tasks retry --failed --state watch.sqlite
    """
    from textmask.pacs.state import open_state

    with open_state(state, shared=True) as opened:
        found = _named_tasks(opened, ids, failed)
        for entry in found:
            opened.retry(entry.key)
    say(f"{len(found)} tasks are tried again in the next round of the watcher")


@tasks_app.command()
def drop(
    ids: Ids = None,
    state: StateFile = Path("watch.sqlite"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Drop all failed and waiting tasks.")
    ] = False,
) -> None:
    """Give tasks up: the watcher leaves them alone, and kept results are erased.

    Example: textmask dicom tasks drop 0a1b2c3d4e5f --state watch.sqlite
    """
    from textmask.pacs.state import open_state

    with open_state(state, shared=True) as opened:
        found = _named_tasks(opened, ids, failed)
        for entry in found:
            opened.finish(entry.key, "dropped", entry.reason)
    say(f"{len(found)} tasks are dropped; `textmask dicom tasks retry` takes one up again")


def _task_line(entry: TaskEntry) -> str:
    from textmask.pacs.state import short_hash

    parts = [
        entry.key.id,
        entry.status,
        f"image {short_hash(entry.key.subject)}",
        f"prompt {entry.prompt}" if entry.prompt else "",
        f"changed {entry.changed}Z",
    ]
    if entry.status == "waiting":
        due = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(entry.next_try))
        parts.append(f"{entry.faults} faults, next try {due if entry.next_try else 'at once'}")
    parts.append(entry.reason)
    return "  ".join(part for part in parts if part)


def _named_tasks(state: State, ids: list[str] | None, failed: bool) -> list[TaskEntry]:
    """The tasks that the user names.

    Raises:
        ConfigError: none is named, or a name fits no task that could be meant.
    """
    from textmask.pacs.state import short_hash

    if failed == bool(ids):
        raise ConfigError("expected either ids of tasks, or --failed.")
    if failed:
        return state.entries(("failed", "waiting"))

    found = {}
    for name in ids or []:
        fitting = []
        for entry in state.entries():
            names = (entry.key.id, short_hash(entry.key.subject))
            if len(name) >= LEAST_LETTERS and any(one.startswith(name) for one in names):
                fitting.append(entry)
        # a finished task is never meant by the hash of its image alone
        unfinished = [entry for entry in fitting if entry.status != "stored"] or fitting
        if not fitting:
            raise ConfigError(
                f"no task is named {name[:80]!r}; expected an id of `textmask dicom tasks list`, or its first "
                f"{LEAST_LETTERS} letters or more."
            )
        found.update({entry.key: entry for entry in unfinished})
    return list(found.values())
