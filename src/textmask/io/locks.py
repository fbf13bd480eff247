"""One writer per folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from textmask.errors import BusyError, DataError
from textmask.io.files import remove_unfinished, this_host, what_to_do, write_whole

P = ParamSpec("P")
R = TypeVar("R")
LOCK = ".lock"
HOLDER = ".lock.json"  # who holds the lock; only for the message
_HELD: ContextVar[tuple[Path, ...]] = ContextVar("held_locks", default=())


@contextmanager
def only_writer(folder: Path, doing: str = "written") -> Iterator[None]:
    """Hold the lock of a folder, and first remove what dead writers left unfinished in it.

    The lock is a file in the folder, so it works between the hosts of shared storage. A block inside another one of
    the same folder does nothing: a study that trains a run holds the lock already.

    Args:
        folder: created if it is missing.
        doing: what the message says of the folder: it is being ... by another process.

    Raises:
        BusyError: another process or thread writes there; the message names it.
        DataError: the folder cannot be created or written.
    """
    with _held(folder, folder, LOCK, HOLDER, doing):
        remove_unfinished(folder)
        yield


@contextmanager
def only_replacer(path: Path) -> Iterator[None]:
    """Like `only_writer`, for a file or folder that is replaced as a whole: the lock stands next to it.

    Args:
        path: the file or folder; its parent is created if it is missing.

    Raises:
        BusyError, DataError: as `only_writer`.
    """
    names = f".{path.name}{LOCK}", f".{path.name}{HOLDER}"
    with _held(path, path.parent, *names, "written"):
        remove_unfinished(path.parent)
        yield


@contextmanager
def _held(what: Path, folder: Path, lock_name: str, holder_name: str, doing: str) -> Iterator[None]:
    key = folder.resolve() / lock_name
    held = _HELD.get()
    if key in held:
        yield
        return

    lock, is_new = FileLock(folder / lock_name, timeout=0), not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BusyError(_busy(what, folder / holder_name, doing)) from None
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). {what_to_do(error.errno)}"
        ) from error

    token = _HELD.set((*held, key))
    try:
        # the message of another process can do without it
        with suppress(DataError):
            write_whole(folder / holder_name, json.dumps(_this_process()).encode())
        yield
    finally:
        _HELD.reset(token)
        for name in (holder_name, lock_name):  # removed while the lock is held
            with suppress(OSError):
                (folder / name).unlink()
        if is_new:  # nothing was written: leave no empty folder
            with suppress(OSError):
                folder.rmdir()
        lock.release()


def one_writer(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function with an argument `out` hold the lock of that folder while it runs, see `only_writer`.

    Of several processes of one training, only the first takes the lock.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        ranks = {os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK")}
        if ranks != {"0"}:
            return function(*args, **kwargs)
        with only_writer(Path(signature.bind(*args, **kwargs).arguments["out"])):
            return function(*args, **kwargs)

    return locked


def _this_process() -> dict[str, str | int]:
    return {
        "host": this_host(),
        "pid": os.getpid(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _busy(what: Path, holder: Path, doing: str) -> str:
    """The message for a file or folder that another writer holds."""
    try:
        who = json.loads(holder.read_text(encoding="utf-8"))
        writer = f"`{who['command']}` (process {who['pid']} on {who['host']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        writer = "another process"
    return (
        f"{what} is being {doing} by {writer}. Wait until it has ended, stop it, or choose another place with "
        "--out. The lock is released when that process ends."
    )
