"""What a report reads of run folders: recipe, log, evaluations with their figures per image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, DataError
from textmask.evaluation.protocol import comparable_key, not_a_summary
from textmask.io.files import read_json
from textmask.io.spreadsheets import read_csv
from textmask.metrics.overlap import Counts, Floats
from textmask.runs.layout import EVALUATION, LOG, PER_IMAGE, SUMMARY, run_path
from textmask.runs.record import RunRecord, read_record

_COUNTED = ("intersection", "predicted", "true")


@dataclass(frozen=True)
class PerImage:
    """The N images of a split as a run's own row scored them; `dice` is NaN where the policy leaves an image out."""

    images: tuple[str, ...]
    groups: tuple[str, ...]
    texts: tuple[str, ...]
    dice: Floats
    counts: Counts


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a run: its folder, its summary and the figures per image of the run's own row `model`."""

    folder: Path
    summary: dict[str, Any]
    model: str
    per_image: PerImage

    @property
    def protocol(self) -> dict[str, Any]:
        """What was scored, and how."""
        found: dict[str, Any] = self.summary["protocol"]
        return found

    @property
    def key(self) -> str:
        """Evaluations with the same key stand in one table."""
        return comparable_key(self.protocol)


@dataclass(frozen=True)
class ReportedRun:
    """A run folder as the report shows it; `label` tells it from the other runs."""

    path: Path
    label: str
    recipe: dict[str, Any]
    data: dict[str, Any]
    result: dict[str, Any]
    environment: dict[str, Any]
    log: tuple[dict[str, Any], ...]
    evaluations: tuple[Evaluated, ...]

    @property
    def method(self) -> str:
        """Name of its method."""
        return str(self.recipe.get("method"))


def read_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Read run folders, each once, in the order given.

    Raises:
        CheckpointError: none given, not a run folder, or an evaluation that cannot be read.
    """
    folders = list({run_path(path).resolve(): run_path(path) for path in paths}.values())
    if not folders:
        raise CheckpointError("no run given; name at least one folder made by `textmask train`.")
    records = [read_record(folder) for folder in folders]
    methods = [record.method for record in records]
    return [
        _read_run(record, label)
        for record, label in zip(records, _run_labels(folders, methods), strict=True)
    ]


def _run_labels(folders: Sequence[Path], methods: Sequence[str]) -> list[str]:
    """The shortest names that tell the runs apart: methods, folder names, or both as far as the first difference."""
    names = [folder.resolve().name for folder in folders]
    longer = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    numbered = [f"{name} ({i})" for i, name in enumerate(longer, start=1)]
    return list(
        next(found for found in (methods, names, longer, numbered) if len(set(found)) == len(found))
    )


def _read_run(record: RunRecord, label: str) -> ReportedRun:
    summaries = sorted((record.path / EVALUATION).glob(f"*/{SUMMARY}"))
    return ReportedRun(
        record.path,
        label,
        record.recipe,
        record.data,
        record.result,
        record.environment,
        _log(record.path / LOG),
        tuple(_read_evaluation(path) for path in summaries),
    )


def _log(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return tuple(json.loads(line) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Remove it to leave the curves out."
        ) from error


def _read_evaluation(path: Path) -> Evaluated:
    summary = read_json(path)
    try:
        model = next(iter(summary["rows"]))
        found = Evaluated(
            path.parent, summary, model, _read_per_image(path.parent / PER_IMAGE, model)
        )
        comparable_key(found.protocol)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise not_a_summary(path, error) from error
    if len(found.per_image.images) != found.protocol["n"]:
        got, n = len(found.per_image.images), found.protocol["n"]
        raise CheckpointError(
            f"{path.parent}/per_image.csv has {got} images of {model}, its summary {n}. Evaluate again."
        )
    return found


def _read_per_image(path: Path, model: str) -> PerImage:
    try:
        head, records = read_csv(path)
        place = {
            name: head.index(name)
            for name in ("row", "image", "group", "text", "dice_per_image", *_COUNTED)
        }
        rows = [cells for _, cells in records if cells[place["row"]] == model]
        words = [tuple(cells[place[name]] for cells in rows) for name in ("image", "group", "text")]
        dice = np.array([float(cells[place["dice_per_image"]]) for cells in rows])
        counted = (
            np.array([int(cells[place[name]]) for cells in rows], np.int64) for name in _COUNTED
        )
        return PerImage(words[0], words[1], words[2], dice, Counts(*counted))
    except (DataError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Evaluate again.") from error
