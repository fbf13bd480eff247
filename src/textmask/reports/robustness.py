"""Robustness studies of runs (`RUN/studies/<name>-<split>/summary.json`), several runs in one plot.

Studies differ in what they vary, so whatever a row holds is read: a kind, a severity, and figures with intervals.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError
from textmask.evaluation.tables import bar, cell
from textmask.io.files import read_json
from textmask.plots.svg import Curve, intervals_svg, lines_svg
from textmask.reports.runs import ReportedRun
from textmask.runs.layout import STUDIES, SUMMARY

KIND = ("kind", "corruption", "edit", "name", "row")
SEVERITY = ("severity", "level")
UNCHANGED = ("clean", "none", "own", "true", "original", "unchanged")
MOST_COLUMNS = 8
MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class ReportedStudyRow:
    """One condition of a study: what was done, how strongly (None where it has no grade), and what was measured."""

    kind: str
    severity: float | None
    grade: str
    values: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ReportedStudy:
    """One study folder of one run."""

    folder: Path
    label: str
    rows: tuple[ReportedStudyRow, ...]
    notes: tuple[str, ...]
    protocol: str


def read_studies(runs: Sequence[ReportedRun]) -> dict[str, list[ReportedStudy]]:
    """The studies of all runs by their folder's name.

    Raises:
        CheckpointError: a summary that is no JSON object.
    """
    found: dict[str, list[ReportedStudy]] = {}
    for run in runs:
        for path in sorted((run.path / STUDIES).glob(f"*/{SUMMARY}")):
            found.setdefault(path.parent.name, []).append(_read_study(path, run.label))
    return dict(sorted(found.items()))


def study_plots(name: str, studies: Sequence[ReportedStudy]) -> list[tuple[str, str]]:
    """(caption, SVG) of what the runs score: a plot a kind against its severity, kinds without one in a plot a run."""
    metric = _metric(studies)
    if metric is None:
        return []
    graded, plain = _split(studies, metric)
    plots = []
    for kind, lines in graded.items():
        plots.append(
            (
                kind,
                lines_svg(lines, "severity", metric, f"{name}, {kind}: {metric} against severity"),
            )
        )
    bars = {
        study.label: [bar(row.kind, row.values[metric]) for row in rows] for study, rows in plain
    }
    span = [number for rows in bars.values() for _, *numbers in rows for number in numbers]
    for label, rows in bars.items():
        colours = [next(i for i, study in enumerate(studies) if study.label == label)] * len(rows)
        title = f"{name}, {label}: {metric} of every kind"
        plots.append((label, intervals_svg(rows, metric, title, colors=colours, span=span)))
    return plots


def study_table(studies: Sequence[ReportedStudy]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of all figures of a study that the runs share."""
    known = {
        name: value["low"] is None
        for study in studies
        for row in study.rows
        for name, value in row.values.items()
    }
    metrics = sorted(known, key=lambda name: (name != "dice_per_image", known[name]))[:MOST_COLUMNS]
    lines = [
        [study.label, row.kind, row.grade, *(_figure(row.values.get(name)) for name in metrics)]
        for study in studies
        for row in study.rows
    ]
    return ["run", "kind", "severity", *metrics], lines


def study_texts(studies: Sequence[ReportedStudy]) -> list[tuple[str, str]]:
    """(run, Markdown) of the tables that the studies wrote themselves, with their notes."""
    return [
        (study.label, path.read_text("utf-8", "replace"))
        for study in studies
        if (path := study.folder / "table.md").is_file() and path.stat().st_size <= MOST_BYTES
    ]


def study_pictures(studies: Sequence[ReportedStudy]) -> list[tuple[str, str]]:
    """(run, data URI) of the pictures that a study drew itself."""
    return [
        (study.label, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())
        for study in studies
        for path in sorted(study.folder.glob("*.png"))
        if path.stat().st_size <= MOST_BYTES
    ]


def _read_study(path: Path, label: str) -> ReportedStudy:
    summary = read_json(path)
    rows = summary.get("rows", [])
    if isinstance(rows, dict):
        rows = [{"name": name} | row for name, row in rows.items() if isinstance(row, dict)]
    if not isinstance(rows, list):
        raise CheckpointError(
            f"{path}: rows is a {type(rows).__name__}, expected a list. Make the study again."
        )
    protocol = summary.get("protocol")
    known = protocol if isinstance(protocol, dict) else summary
    words = [
        f"{key} {known[key]}"
        for key in ("data", "split", "n", "seed")
        if isinstance(known.get(key), (str, int))
    ]
    return ReportedStudy(
        path.parent,
        label,
        tuple(_study_row(row) for row in rows if isinstance(row, dict)),
        tuple(_study_notes(summary)),
        ", ".join(words),
    )


def _study_row(row: dict[str, Any]) -> ReportedStudyRow:
    kind = next((str(row[key]) for key in KIND if row.get(key) is not None), "")
    grade = next((row[key] for key in SEVERITY if row.get(key) is not None), None)
    values = {
        key: found
        for key, value in row.items()
        if key not in SEVERITY and (found := _as_figure(value))
    }
    severity = float(grade) if grade is not None and _is_finite(grade) else None
    return ReportedStudyRow(
        kind, severity, f"{grade:g}" if _is_finite(grade) else str(grade or ""), values
    )


def _as_figure(value: Any) -> dict[str, Any] | None:
    """A figure as tables hold it, or None where it is something else."""
    if _is_finite(value):
        return {"estimate": float(value), "low": None, "high": None}
    if isinstance(value, dict) and isinstance(value.get("mean"), dict):
        value = value["mean"]
    if not isinstance(value, dict) or not _is_finite(value.get("estimate")):
        return None
    ends = [value.get(end) for end in ("low", "high")]
    low, high = ends if all(map(_is_finite, ends)) else (None, None)
    return {"estimate": float(value["estimate"]), "low": low, "high": high}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _study_notes(summary: dict[str, Any]) -> list[str]:
    """Sentences that a study says of itself."""
    found: list[str] = []
    for key in ("verdict", "summary", "sentences", "notes"):
        value = summary.get(key)
        listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        found += [text for text in listed if isinstance(text, str)]
    return found


def _metric(studies: Sequence[ReportedStudy]) -> str | None:
    names = dict.fromkeys(
        name
        for study in studies
        for row in study.rows
        for name, value in row.values.items()
        if value["low"] is not None
    ) or dict.fromkeys(name for study in studies for row in study.rows for name in row.values)
    return "dice_per_image" if "dice_per_image" in names else next(iter(names), None)


def _split(
    studies: Sequence[ReportedStudy], metric: str
) -> tuple[dict[str, list[Curve]], list[tuple[ReportedStudy, list[ReportedStudyRow]]]]:
    """Lines of the kinds that come in several severities, and the rows of those that do not."""
    graded: dict[str, list[Curve]] = {}
    plain: list[tuple[ReportedStudy, list[ReportedStudyRow]]] = []
    for study in studies:
        rows = [row for row in study.rows if metric in row.values]
        kinds = dict.fromkeys(row.kind for row in rows)
        several = [
            kind
            for kind in kinds
            if len({row.severity for row in rows if row.kind == kind} - {None}) > 1
        ]
        clean = [row for row in rows if row.kind.lower() in UNCHANGED and row.kind not in several]
        for kind in several:
            chosen = sorted(
                (r for r in rows if r.kind == kind and r.severity is not None),
                key=lambda r: r.severity or 0,
            )
            graded.setdefault(kind, []).append(_series(study.label, chosen, clean, metric))
        rest = [row for row in rows if row.kind not in several and not (several and row in clean)]
        if rest:
            plain.append((study, rest))
    return graded, plain


def _series(
    label: str, rows: Sequence[ReportedStudyRow], clean: Sequence[ReportedStudyRow], metric: str
) -> Curve:
    """A line that begins with the unchanged input at severity 0 where the study has it."""
    begin = list(clean[:1]) if rows[0].severity and rows[0].severity > 0 else []
    bars = [bar("", row.values[metric]) for row in (*begin, *rows)]
    places = [0.0] * len(begin) + [row.severity or 0.0 for row in rows]
    return Curve(label, places, [b[1] for b in bars], [b[2] for b in bars], [b[3] for b in bars])


def _figure(value: dict[str, Any] | None) -> str:
    """Shares with their intervals in percent, as in every table; a number without one as it is."""
    if value is None:
        return ""
    return f"{value['estimate']:g}" if value["low"] is None else cell(value)
