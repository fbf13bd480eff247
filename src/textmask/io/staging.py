"""A folder that appears as a whole: written next to its place, then renamed once."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from textmask.io.files import flush_to_disk, remove_unfinished, temporary_name

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # of renameat2(2): two names change places in one step


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder next to `out` that takes its place when the block ends; after an error it is removed.

    What dead writers left unfinished next to it is removed first.

    Readers see the old folder or the new one, never a mixture. Where the file system cannot exchange two names in one
    step (network file systems), the old folder is renamed away first, and between the two renames there is none.
    Files of an old `out` that the block did not write stay in it.

    Args:
        out: the folder; its parent is created if it is missing.

    Raises:
        OSError: the folder cannot be created or renamed; an old one is unchanged.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out.parent)
    folder = temporary_name(out)
    folder.mkdir()
    try:
        yield folder
        if out.is_dir():
            _keep_others(out, folder)
        flush_to_disk(folder)
        _take_place(folder, out)
        flush_to_disk(out.parent)
    finally:
        # the unfinished folder, or the old one after the exchange
        shutil.rmtree(folder, ignore_errors=True)


def _keep_others(old: Path, new: Path) -> None:
    """Give the new folder what only the old one holds; linked, so that a kill loses nothing."""
    for path in old.iterdir():
        target = new / path.name
        if target.exists() or target.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=_link)
        else:
            _link(path, target)


def _link(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _take_place(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`; what was there before has the name of `folder` afterwards."""
    if not out.is_dir():
        os.rename(folder, out)
        return
    if _exchange(folder, out):
        return

    # in two steps
    aside = temporary_name(out)
    os.rename(out, aside)
    try:
        os.rename(folder, out)
    except OSError:
        os.rename(aside, out)
        raise
    with suppress(OSError):
        os.rename(aside, folder)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False if this system cannot do it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)
