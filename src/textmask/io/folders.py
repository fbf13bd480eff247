"""The files below a folder, with linked folders followed."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

from textmask.errors import DataWarning

SHOWN_LEFT_OUT = 5


def files_below(
    root: Path,
    *,
    enter: Callable[[str], bool] = lambda name: True,
    max_depth: int = 100,
) -> list[str]:
    """Files in a folder and its subfolders, sorted, as paths relative to it with forward slashes.

    Linked files and folders are followed, also out of the folder: data sets are often linked into place. Each real
    folder is read once, under its own name rather than under that of a link, so that loops end. Hidden files and
    folders (`.git`) are left out.

    Args:
        root: the folder.
        enter: called with the name of a subfolder; False leaves it out.
        max_depth: folders on the way to a file, at most, counted from `root`, which is 1.

    Raises:
        OSError: `root` cannot be read.

    Warns:
        DataWarning: a link leads to nothing or to a folder that is read already, or a subfolder may not be read.
    """
    real_root = os.path.realpath(root)
    seen = {real_root}
    files: list[str] = []
    left_out: list[str] = []

    # real folders come before the links to them
    folders = deque([("", real_root)])
    links: deque[str] = deque()
    while folders or links:
        if folders:
            prefix, real = folders.popleft()
        else:
            prefix = links.popleft()
            real = os.path.realpath(os.path.join(root, prefix))
            if real in seen or _is_above(real, real_root):
                target = os.readlink(os.path.join(root, prefix))
                left_out.append(f"{prefix} -> {target} (already read, or above the folder)")
                continue
            seen.add(real)
            prefix += "/"

        try:
            with os.scandir(os.path.join(root, prefix)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise
            left_out.append(f"{prefix.rstrip('/')} ({error.strerror})")
            continue
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                continue
            link = entry.is_symlink()
            if not (os.path.isdir(entry.path) if link else entry.is_dir()):
                if link and not os.path.exists(entry.path):
                    left_out.append(f"{path} -> {os.readlink(entry.path)} (does not exist)")
                else:
                    files.append(path)
            elif enter(entry.name) and path.count("/") + 1 < max_depth:
                if link:
                    links.append(path)
                else:
                    real_folder = os.path.join(real, entry.name)
                    if real_folder not in seen:
                        seen.add(real_folder)
                        folders.append((path + "/", real_folder))

    if left_out:
        more = len(left_out) - SHOWN_LEFT_OUT
        shown = ", ".join(left_out[:SHOWN_LEFT_OUT]) + (f" and {more} more" if more > 0 else "")
        warnings.warn(f"{root}: not read: {shown}.", DataWarning, stacklevel=3)
    return sorted(files)


def _is_above(folder: str, other: str) -> bool:
    """Whether a folder contains another one; both are resolved."""
    return other.startswith(folder.rstrip(os.sep) + os.sep)
