"""Restore the recipe of a run whose recipe.json is torn: the last checkpoint holds a copy. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from textmask.errors import ConfigError
from textmask.io.files import write_whole
from textmask.methods.registry import load_recipe
from textmask.runs.layout import LAST, RECIPE

MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself


def restore_recipe(run: Path) -> bool:
    """Write recipe.json again if it is damaged and the last checkpoint holds a valid copy.

    Args:
        run: a run folder.

    Returns:
        Whether it was restored; False if it is whole, missing, or there is no copy.
    """
    path = run / RECIPE
    if not path.is_file():
        return False
    try:
        json.loads(path.read_text(encoding="utf-8"))["method"]
    except (ValueError, KeyError, TypeError):
        copy = _stored_copy(run / LAST)
        if copy is None:
            return False
        write_whole(path, copy.encode())
        return True
    return False


def _stored_copy(path: Path) -> str | None:
    """The recipe in the header of a checkpoint; None if there is none or the file is damaged."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, MAX_HEADER)))
        text = str(json.loads(header["__metadata__"]["textmask"])["recipe"])
        load_recipe(text)
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None
    return text
