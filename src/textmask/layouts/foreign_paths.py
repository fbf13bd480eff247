"""Absolute paths in a table, as another machine or another folder wrote them: what begins them is cut off."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from textmask.errors import DataError, DataWarning
from textmask.layouts.pairing import Tree

ABSOLUTE = re.compile(r"/|[A-Za-z]:[/\\]")


def below_the_root(cells: Sequence[str], tree: Tree, where: str) -> list[str]:
    """The cells of a column of files, with paths that start from the folder of the data.

    One beginning is cut off all absolute paths of the column, so that the rest is a file of the data set in every row;
    the longest such rest is taken. Nothing is changed if there is no such beginning.

    Args:
        cells: the column.
        tree: the files of the data set.
        where: table and column, for messages.

    Raises:
        DataError: a path names an existing file outside the folder, and another file inside has the same name.

    Warns:
        DataWarning: what is cut off is not the folder itself.
    """
    paths = [cell.replace("\\", "/") if ABSOLUTE.match(cell) else cell for cell in cells]
    absolute = [path for path in paths if ABSOLUTE.match(path)]
    beginning = _beginning(absolute, tree.known)
    if beginning is None:
        _refuse_outside(absolute, tree, where)
        return list(cells)

    # a file that exists there is not the one of the same name here, unless it is linked
    for path in absolute:
        here = tree.root / path.removeprefix(beginning)
        if os.path.exists(path) and not os.path.samefile(path, here):
            _refuse_outside([path], tree, where)
    if os.path.realpath(beginning) != os.path.realpath(tree.root):
        warnings.warn(
            f"{where}: the paths begin with {beginning}, which is read as {tree.root}{os.sep}.",
            DataWarning,
            stacklevel=5,
        )
    return [path.removeprefix(beginning) if ABSOLUTE.match(path) else path for path in paths]


def _beginning(paths: Sequence[str], known: frozenset[str]) -> str | None:
    """What all paths begin with, so that each rest is known; None if there is nothing like it."""
    if not paths:
        return None
    parts = paths[0].split("/")
    for i in range(1, len(parts)):
        beginning = "/".join(parts[:i]) + "/"
        if all(
            path.startswith(beginning) and path.removeprefix(beginning) in known for path in paths
        ):
            return beginning
    return None


def _refuse_outside(paths: Sequence[str], tree: Tree, where: str) -> None:
    """Say how to read files that lie outside the folder.

    Raises:
        DataError: the first path exists.
    """
    if not paths or not os.path.exists(paths[0]):
        return
    folder = Path(paths[0]).parent
    raise DataError(
        f"{where}: {paths[0]} exists outside {tree.root}. Link its folder into the data set, for example "
        f"ln -s {folder} {tree.root / folder.name}, or give a table in a folder above the files."
    )
