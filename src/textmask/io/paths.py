"""Checks that paths in a manifest stay below its folder, by their text and through symbolic links."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

WINDOWS = re.compile(r"[A-Za-z]:|\\\\")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Fence:
    """Keeps paths inside a folder, symbolic links included."""

    root: Path

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.root)

    @cached_property
    def _parents(self) -> dict[str, bool]:
        return {}

    def problem(self, relative: str) -> str | None:
        """What is wrong with a path below the root; None if nothing is."""
        if problem := path_problem(relative):
            return problem
        full = os.path.join(self.root, relative)
        parent = os.path.dirname(full)
        if parent not in self._parents:  # one lookup per folder, not per file
            self._parents[parent] = self._inside(parent)
        if not self._parents[parent] or (os.path.islink(full) and not self._inside(full)):
            return f"{relative!r} is a symbolic link that leaves {self.root}; copy the files below it instead"
        return None

    def _inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)


def path_problem(text: str) -> str | None:
    """Why `text` cannot be a path below a root, judged by the text alone; None if it can."""
    if not text.strip():
        return "is empty; write a path relative to the table's folder"
    if CONTROL.search(text):
        return f"{text!r} contains a NUL or control character; rename the file"
    if WINDOWS.match(text) or "://" in text:
        return f"{text!r} names a drive, a server or a URL; write a path relative to the table's folder"
    if "\\" in text:
        return f"{text!r} uses backslashes; write forward slashes"
    if text.startswith("/"):
        return f"{text!r} is absolute; write a path relative to the table's folder"
    if ".." in text.split("/"):
        return f"{text!r} climbs out with '..'; put the files below the table's folder"
    return None
