"""What a report reads of run folders: recipe, log, evaluations with their scores per image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError
from textmask.evaluation.scores import ImageScores, read_scores
from textmask.evaluation.summary import EvaluationProtocol, EvaluationSummary, read_summary
from textmask.runs.layout import EVALUATION, LOG, PER_IMAGE, SUMMARY, run_path
from textmask.runs.record import read_record


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a run: its folder, its summary, and the scores per image of the run's own row."""

    folder: Path
    summary: EvaluationSummary
    per_image: ImageScores

    @property
    def model(self) -> str:
        """Name of the run's own row."""
        return self.summary.model

    @property
    def protocol(self) -> EvaluationProtocol:
        """What was scored, and how."""
        return self.summary.protocol


@dataclass(frozen=True)
class ReportedRun:
    """A run folder as the report shows it; `label` distinguishes it from the other runs."""

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
    labels = _run_labels(folders, [record.method for record in records])

    runs = []
    for record, label in zip(records, labels, strict=True):
        # a hidden folder is an evaluation that is being written
        summaries = sorted((record.path / EVALUATION).glob(f"[!.]*/{SUMMARY}"))
        run = ReportedRun(
            path=record.path,
            label=label,
            recipe=record.recipe,
            data=record.data,
            result=record.result,
            environment=record.environment,
            log=_read_log(record.path / LOG),
            evaluations=tuple(_read_evaluation(path) for path in summaries),
        )
        runs.append(run)
    return runs


def _run_labels(folders: Sequence[Path], methods: Sequence[str]) -> list[str]:
    """The shortest names that distinguish the runs: methods, folder names, or folders with their parents."""
    names = [folder.resolve().name for folder in folders]
    longer = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    numbered = [f"{name} ({i})" for i, name in enumerate(longer, start=1)]
    for labels in (methods, names, longer):
        if len(set(labels)) == len(labels):
            return list(labels)
    return numbered


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return tuple(json.loads(line) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Remove it to leave the curves out."
        ) from error


def _read_evaluation(path: Path) -> Evaluated:
    summary = read_summary(path, EvaluationSummary)
    scores = read_scores(path.parent / PER_IMAGE)
    found = scores.get(summary.model)
    n = len(found.images) if found else 0
    if found is None or n != summary.protocol.n:
        raise CheckpointError(
            f"{path.parent}/per_image.csv has {n} images of {summary.model}, its summary "
            f"{summary.protocol.n}. Evaluate the run again."
        )
    return Evaluated(path.parent, summary, found)
