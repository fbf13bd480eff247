"""A data set that is made in code: rows with arrays or paths become a manifest."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from textmask.data.manifest import Manifest, Row, split_name, write_manifest
from textmask.data.manifest_checks import (
    Problems,
    check_own_masks,
    check_unique,
    text_problem,
)
from textmask.errors import DataError, choose
from textmask.io.arrays import channels_last, pixels_of_array
from textmask.io.images import write_png
from textmask.statement import Laterality
from textmask.text.grammar import GRAMMARS

KEYS = (
    "image",
    "mask",
    "text",
    "split",
    "group",
    "laterality",
    "labelled",
    "grammar",
    "label",
    "window",
)
EXAMPLE = '{"image": array, "mask": array, "text": "lower left lung", "split": "train"}'


def from_rows(
    rows: Sequence[Mapping[str, Any]],
    folder: Path | str | None = None,
    *,
    name: str = "",
    laterality: str = "image",
) -> Manifest:
    """Make a manifest of rows that a program has.

    Args:
        rows: one mapping per image, mask and prompt, with `image` and `text`, and optionally `mask`, `split` (default:
            train), `group`, `laterality`, `labelled`, `grammar`, `label` (values of the mask that are foreground) and
            `window` (of an array, see `textmask.io.arrays`). Images and masks are paths, arrays or tensors; masks are
            bool or whole numbers.
        folder: where arrays are written, files are copied, and manifest.csv is written. None leaves files in their
            place, and writes arrays to a temporary folder, which is removed when the program ends.
        name: of the data set.
        laterality: convention of the prompts of rows that do not say: image, patient or unknown.

    Returns:
        The manifest, ready for `textmask.train` and `textmask.evaluate`.

    Raises:
        DataError: a row is incomplete, has an unknown key, or a value that is not accepted; the row is named.
    """
    if not rows:
        raise DataError(f"got no rows, expected a list of rows like {EXAMPLE}.")
    for number, row in enumerate(rows):
        _check_keys(number, row)

    # files stay where they are if they have a folder in common
    given = [row[key] for row in rows for key in ("image", "mask") if row.get(key) is not None]
    if folder is None and all(isinstance(value, str | Path) for value in given):
        paths = [Path(value).absolute() for value in given]
        root = Path(os.path.commonpath([path.parent for path in paths]))
    elif folder is None:
        root = Path(tempfile.mkdtemp(prefix="textmask-rows-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
    else:
        root = Path(folder)

    writer = _Writer(root, {})
    made = [_row(number, row, writer, laterality) for number, row in enumerate(rows)]
    problems = Problems(root / "rows")
    check_unique(made, range(len(made)), problems)
    check_own_masks(made, range(len(made)), problems)
    problems.raise_any()

    manifest = Manifest(root, tuple(made), name)
    if folder is not None:
        write_manifest(manifest, root / "manifest.csv")
    return manifest


@dataclass(frozen=True)
class _Writer:
    """Puts images and masks below the root, each array or file once."""

    root: Path
    known: dict[object, tuple[object, str]]

    def place(self, value: Any, kind: str, number: int, window: Sequence[float] | None) -> str:
        """The path of an image or mask below the root, with forward slashes."""
        key = str(value) if isinstance(value, str | Path) else id(value)
        if (kind, key) not in self.known:
            # the value is kept, so that no other gets its id
            self.known[kind, key] = value, self._write(value, kind, number, window)
        return self.known[kind, key][1]

    def _write(self, value: Any, kind: str, number: int, window: Sequence[float] | None) -> str:
        if isinstance(value, str | Path):
            path = Path(value).absolute()
            if not path.is_file():
                raise DataError(f"{value}: no such file.")
            if path.is_relative_to(self.root.absolute()):
                return path.relative_to(self.root.absolute()).as_posix()
            target = self.root / f"{kind}s" / f"{number:05d}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            return target.relative_to(self.root).as_posix()

        array = channels_last(value) if isinstance(value, Tensor) else value
        if not isinstance(array, np.ndarray):
            raise DataError(
                f"{kind} is of type {type(value).__name__}, expected a path, a NumPy array or a torch tensor."
            )
        pixels = _mask_pixels_of(array) if kind == "mask" else pixels_of_array(array, window)
        target = self.root / f"{kind}s" / f"{number:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(target, pixels)
        return target.relative_to(self.root).as_posix()


def _check_keys(number: int, row: Mapping[str, Any]) -> None:
    if not isinstance(row, Mapping):
        raise DataError(
            f"row {number} is a {type(row).__name__}, expected a mapping like {EXAMPLE}."
        )
    for key in row:
        if key not in KEYS:
            raise DataError(f"row {number} has the key {key!r}. Valid: {', '.join(KEYS)}.")
    if row.get("image") is None or not isinstance(row.get("text"), str):
        raise DataError(f"row {number} needs an image and a text, like {EXAMPLE}.")
    if problem := text_problem(row["text"]):
        raise DataError(f"row {number}: the text has {problem}.")


def _row(number: int, row: Mapping[str, Any], writer: _Writer, laterality: str) -> Row:
    try:
        image = writer.place(row["image"], "image", number, row.get("window"))
        mask = None
        if row.get("mask") is not None:
            mask = writer.place(row["mask"], "mask", number, None)
        shapes = [np.shape(row[key])[-2:] for key in ("image", "mask") if _is_plane(row.get(key))]
        if len(set(shapes)) > 1:
            raise DataError(
                f"the image is {shapes[0]} and the mask {shapes[1]}, expected one size."
            )
    except DataError as error:
        raise DataError(f"row {number}: {error}") from error

    label = row.get("label", ())
    return Row(
        image,
        mask,
        row["text"],
        split_name(str(row.get("split", "train"))),
        str(row.get("group", "")),
        Laterality(
            choose(
                "laterality", str(row.get("laterality") or laterality), [str(x) for x in Laterality]
            )
        ),
        bool(row.get("labelled", True)) and mask is not None,
        choose("grammar", str(row.get("grammar") or "auto"), ["auto", *GRAMMARS]),
        (int(label),) if isinstance(label, int) else tuple(int(value) for value in label),
    )


def _is_plane(value: object) -> bool:
    return isinstance(value, np.ndarray | Tensor) and value.ndim == 2


def _mask_pixels_of(array: np.ndarray) -> np.ndarray:
    """A mask as uint8 or uint16: True is 255, whole numbers stay as they are."""
    if array.ndim != 2 or not array.size:
        raise DataError(f"got a mask of shape {array.shape}, expected H W.")
    if array.dtype == bool:
        return np.asarray(array * np.uint8(255), np.uint8)
    whole = array.dtype.kind in "ui" or (array.dtype.kind == "f" and (array == array.round()).all())
    if not whole or array.min() < 0 or array.max() > 65535:
        raise DataError(
            f"got a mask of {array.dtype} with values {array.min():g} to {array.max():g}, expected bool or whole "
            "numbers from 0 to 65535. Apply your threshold first: mask = probability > 0.5."
        )
    return array.astype(np.uint8 if array.max() < 256 else np.uint16)
