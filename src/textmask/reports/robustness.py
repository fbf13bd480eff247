"""Robustness studies of runs (`RUN/studies/<name>-<split>/summary.json`), several runs in one plot."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from textmask.evaluation.records import PerturbationRow, Value
from textmask.evaluation.summary import RobustnessSummary, read_summary
from textmask.evaluation.tables import bar, cell
from textmask.plots.svg import Curve, intervals_svg, lines_svg
from textmask.reports.runs import ReportedRun
from textmask.runs.layout import STUDIES, SUMMARY

UNCHANGED = "clean"
METRIC = "dice_per_image"
MOST_BYTES = 2_000_000
FIGURES: dict[str, Callable[[PerturbationRow], Value | int | None]] = {
    METRIC: lambda row: row.dice_per_image,
    "dice_per_image minus clean": lambda row: row.dice_per_image_minus_clean,
    "dice_pooled": lambda row: row.dice_pooled,
    "dice_pooled minus clean": lambda row: row.dice_pooled_minus_clean,
    "IoU to clean mask": lambda row: row.iou_to_clean.mean if row.iou_to_clean else None,
    "location F1": lambda row: row.location_own,
    "empty masks": lambda row: row.empty_masks,
    "n": lambda row: row.n,
}


@dataclass(frozen=True)
class ReportedStudy:
    """One study folder of one run."""

    folder: Path
    label: str
    summary: RobustnessSummary

    @property
    def protocol(self) -> str:
        """What was scored, in short."""
        protocol = self.summary.protocol
        return f"data {protocol.data}, split {protocol.split}, n {protocol.n}, seed {protocol.seed}"

    @property
    def scored(self) -> list[tuple[PerturbationRow, Value]]:
        """The rows that have a figure in `METRIC`, and the figure."""
        rows = [(row, row.dice_per_image) for row in self.summary.rows]
        return [(row, value) for row, value in rows if value is not None]


def read_studies(runs: Sequence[ReportedRun]) -> dict[str, list[ReportedStudy]]:
    """The studies of all runs by the name of their folder.

    Raises:
        CheckpointError: a summary cannot be read.
    """
    found: dict[str, list[ReportedStudy]] = {}
    for run in runs:
        for path in sorted((run.path / STUDIES).glob(f"*/{SUMMARY}")):
            summary = read_summary(path, RobustnessSummary)
            study = ReportedStudy(path.parent, run.label, summary)
            found.setdefault(path.parent.name, []).append(study)
    return dict(sorted(found.items()))


def study_plots(name: str, studies: Sequence[ReportedStudy]) -> list[tuple[str, str]]:
    """(caption, SVG) of what the runs score: one plot per graded kind, and one per run for the other kinds."""
    graded: dict[str, list[Curve]] = {}
    bars: dict[int, list[tuple[str, float, float, float]]] = {}
    for i, study in enumerate(studies):
        curves, rest = _split(study)
        for kind, curve in curves.items():
            graded.setdefault(kind, []).append(curve)
        if rest:
            bars[i] = rest

    plots = []
    for kind, lines in graded.items():
        title = f"{name}, {kind}: {METRIC} against severity"
        plots.append((kind, lines_svg(lines, "severity", METRIC, title)))

    # all runs share one scale, and each keeps its color
    span: list[float] = []
    for rows in bars.values():
        for _, estimate, low, high in rows:
            span += [estimate, low, high]
    for i, rows in bars.items():
        label = studies[i].label
        title = f"{name}, {label}: {METRIC} of every kind"
        svg = intervals_svg(rows, METRIC, title, colors=[i] * len(rows), span=span)
        plots.append((label, svg))
    return plots


def robustness_cells(studies: Sequence[ReportedStudy]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the figures of a study that the runs share; columns without any figure are left out."""
    # every figure of every row; what no run has is dropped below
    lines = []
    for study in studies:
        for row in study.summary.rows:
            severity = f"{row.severity:g}" if row.severity else ""
            figures = [_figure_cell(figure(row)) for figure in FIGURES.values()]
            lines.append([study.label, row.kind, severity, *figures])

    head = ["run", "kind", "severity", *FIGURES]
    kept = [i for i in range(len(head)) if i < 3 or any(line[i] for line in lines)]
    return [head[i] for i in kept], [[line[i] for i in kept] for line in lines]


def study_texts(studies: Sequence[ReportedStudy]) -> list[tuple[str, str]]:
    """(run, Markdown) of the tables that the studies wrote themselves, with their notes."""
    found = []
    for study in studies:
        path = study.folder / "table.md"
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            found.append((study.label, path.read_text("utf-8", "replace")))
    return found


def study_images(studies: Sequence[ReportedStudy]) -> list[tuple[str, str]]:
    """(run, data URI) of the charts that the studies drew themselves."""
    found = []
    for study in studies:
        for path in sorted(study.folder.glob("*.png")):
            if path.stat().st_size <= MOST_BYTES:
                encoded = base64.b64encode(path.read_bytes()).decode()
                found.append((study.label, f"data:image/png;base64,{encoded}"))
    return found


def _split(
    study: ReportedStudy,
) -> tuple[dict[str, Curve], list[tuple[str, float, float, float]]]:
    """A curve for each kind with several severities, and bars of the other kinds."""
    kinds: dict[str, list[tuple[PerturbationRow, Value]]] = {}
    for row, value in study.scored:
        kinds.setdefault(row.kind, []).append((row, value))
    clean = kinds.get(UNCHANGED, [])

    curves, rest = {}, []
    for kind, rows in kinds.items():
        if len({row.severity for row, _ in rows}) > 1:
            curves[kind] = _curve_of(study.label, rows, clean)
        else:
            rest += [bar(row.kind, value) for row, value in rows]
    if curves:  # the unchanged input is the start of every curve
        rest = [entry for entry in rest if entry[0] != UNCHANGED]
    return curves, rest


def _curve_of(
    label: str,
    rows: Sequence[tuple[PerturbationRow, Value]],
    clean: Sequence[tuple[PerturbationRow, Value]],
) -> Curve:
    """A line over severity that begins with the unchanged input at severity 0, if the study has it."""
    ordered = sorted(rows, key=lambda pair: pair[0].severity)
    begin = list(clean[:1]) if ordered[0][0].severity > 0 else []
    points = [(row.severity, bar("", value)) for row, value in (*begin, *ordered)]
    return Curve(
        label,
        [severity for severity, _ in points],
        [estimate for _, (_, estimate, _, _) in points],
        [low for _, (_, _, low, _) in points],
        [high for _, (_, _, _, high) in points],
    )


def _figure_cell(value: Value | int | None) -> str:
    """Shares with their intervals in percent, as in every table; a number as it is."""
    if value is None:
        return ""
    return cell(value) if isinstance(value, Value) else str(value)
