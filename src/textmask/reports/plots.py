"""What a report draws: curves, intervals, agreement with its bounds, points per image, overlays."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, DataError
from textmask.evaluation.agreement import PLACES, SUBSETS
from textmask.evaluation.records import AgreementBounds, Case, Cases
from textmask.evaluation.summary import SummaryRow, read_typed
from textmask.evaluation.tables import bar
from textmask.io.images import jpeg_bytes, read_image
from textmask.plots.svg import SERIES, Curve, histogram_svg, intervals_svg, lines_svg, scatter_svg
from textmask.reports.groups import Comparable, Member, owners
from textmask.reports.runs import ReportedRun

MOST_IMAGES = 3000  # whose scores a page holds
MOST_ROWS = 40  # of a plot of intervals
OVERLAY_WIDTH_PX = 720
GRAY = SERIES - 1  # the last color
KINDS = ("worst", "best", "median")
QUANTITIES = (("loss", "loss"), ("validation score", "valid/"), ("monitor", "monitor/"))


def curves(runs: Sequence[ReportedRun]) -> list[tuple[str, str]]:
    """(caption, SVG) of loss terms, validation scores and monitored values, over the epochs of all stages."""
    plots = []
    several = len(runs) > 1
    if several:
        plots += _shared_curves(runs)
    for run in runs:
        for label, prefix in QUANTITIES:
            if several and prefix == "valid/":
                continue  # all runs share these plots
            series = _of_log(run, prefix)
            if series:
                caption = f"{run.label}: {label}"
                plots.append((caption, lines_svg(series, "epoch", label, caption, True)))
    return plots


def _shared_curves(runs: Sequence[ReportedRun]) -> list[tuple[str, str]]:
    """Validation scores of all runs, one plot per score."""
    names: dict[str, list[Curve]] = {}
    for run in runs:
        for name in _log_keys(run, "valid/"):
            curve = _log_curve(run.label, run, name)
            names.setdefault(name, []).extend([curve] if curve else [])
    plots = []
    for name, series in names.items():
        title = name.removeprefix("valid/")
        caption = f"validation {title}"
        plots.append((caption, lines_svg(series, "epoch", title, caption, True)))
    return plots


def _log_keys(run: ReportedRun, prefix: str) -> list[str]:
    keys: list[str] = []
    for row in run.log:
        keys += [key for key in row if key.startswith(prefix)]
    return list(dict.fromkeys(keys))


def _of_log(run: ReportedRun, prefix: str) -> list[Curve]:
    lines = []
    for key in _log_keys(run, prefix):
        line = _log_curve(key.removeprefix("valid/").removeprefix("monitor/"), run, key)
        if line is not None:
            lines.append(line)
    return lines


def _log_curve(name: str, run: ReportedRun, key: str) -> Curve | None:
    values = [row.get(key) for row in run.log]
    y = [float(value) if isinstance(value, (int, float)) else math.nan for value in values]
    return Curve(name, range(1, len(y) + 1), y) if any(map(math.isfinite, y)) else None


def forest(rows: Mapping[str, SummaryRow], group: Comparable) -> str:
    """SVG of dice_per_image of every row with its interval; a run's rows share a color, other rows are gray."""
    names = list(rows)[:MOST_ROWS]
    bars = [bar(name, rows[name].dice_per_image) for name in names]
    title = f"dice_per_image of every row on {group.split}, with its 95 % interval"
    return intervals_svg(bars, "dice_per_image", title, colors=_colors(names, group))


def _colors(rows: Iterable[str], group: Comparable) -> list[int]:
    owned = owners(group)
    return [owned[name] % GRAY if name in owned else GRAY for name in rows]


def agreement_plots(
    rows: Mapping[str, SummaryRow], bounds: AgreementBounds, group: Comparable
) -> list[tuple[str, str]]:
    """(caption, SVG) of the F1 of each aspect, with that of true masks (ceiling) and foreign masks (floor)."""
    plots = []
    measured = {name: row.agreement for name, row in rows.items() if row.agreement}
    names = list(measured)[:MOST_ROWS]
    for subset, title in SUBSETS.items():
        for aspect in PLACES:
            bars = []
            for name in names:
                score = measured[name].subsets[subset].places[aspect]
                if score is not None:
                    bars.append(bar(name, score.f1))

            # vertical lines: what true and foreign masks reach
            marks = []
            for name, bound in (("ceiling", bounds.ceiling), ("floor", bounds.floor)):
                score = bound.subsets[subset].places[aspect]
                if score is not None:
                    marks.append((name, score.f1.estimate))

            if bars:
                caption = f"{aspect}: {title}"
                colors = _colors([name for name, *_ in bars], group)
                title_of_plot = f"Agreement, {caption}"
                svg = intervals_svg(bars, f"F1, {aspect}", title_of_plot, marks, colors)
                plots.append((caption, svg))
    return plots


def histograms(group: Comparable) -> list[tuple[str, str]]:
    """(caption, SVG) of dice_per_image of each run; a run whose images all lack a score has none."""
    plots = []
    for i, member in enumerate(group.members):
        dice, title = member.evaluated.per_image.dice, f"{member.label}: images by dice_per_image"
        if np.isfinite(dice).any():
            svg = histogram_svg(dice, "dice_per_image", title, color=i % GRAY)
            plots.append((member.label, svg))
    return plots


def single_figures(group: Comparable) -> dict[str, Any]:
    """Scores of single images, for the page's scatters, table and filter: at most `MOST_IMAGES`, spread evenly.

    The lesion's area is in percent of the image, or in pixels if masks were scored at sizes of their own.
    """
    first = group.members[0].evaluated.per_image
    n = len(first.images)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_IMAGES)).round().astype(int))

    # an area in percent needs one size for all masks
    size = [edge for edge in group.protocol.size if isinstance(edge, int)]
    scale, unit = (100 / math.prod(size), "lesion, % of the image") if size else (1.0, "lesion, px")

    # each prompt is stored once
    texts = {text: i for i, text in enumerate(dict.fromkeys(first.prompts[i] for i in chosen))}
    runs = []
    for member in group.members:
        scores = member.evaluated.per_image
        if scores.images == first.images:
            dice = [_rounded_point(scores.dice[i]) for i in chosen]
            runs.append({"label": member.label, "dice": dice})
    return {
        "n": n,
        "images": [first.images[i] for i in chosen],
        "texts": list(texts),
        "text": [texts[first.prompts[i]] for i in chosen],
        "area": [_rounded_point(float(first.counts.true[i]) * scale) for i in chosen],
        "unit": unit,
        "runs": runs,
    }


def scatters(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, SVG): two runs against each other if there are two, and Dice against the size of the lesion."""
    runs = figures["runs"]
    dice = [np.array([math.nan if v is None else v for v in run["dice"]]) for run in runs]
    found = []
    if len(runs) > 1:
        a, b = runs[0]["label"], runs[1]["label"]
        title = f"dice_per_image of {b} against that of {a}, one point per image"
        found.append(("runs", scatter_svg(dice[0], dice[1], a, b, title, diagonal=True)))

    label = runs[0]["label"]
    title = f"dice_per_image of {label} against the size of the lesion, one point per image"
    found.append(("area", scatter_svg(figures["area"], dice[0], figures["unit"], label, title)))
    return found


def overlays(member: Member) -> dict[str, list[dict[str, Any]]]:
    """The worst, best and median images of a run as `evaluate` drew them, by kind.

    Raises:
        CheckpointError: an overlay is missing or damaged.
    """
    path = member.evaluated.folder / "cases" / "cases.json"
    cases = read_typed(path, Cases).cases if path.exists() else ()
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        for case in cases:
            if case.kind == kind:
                found.setdefault(kind, []).append(_shown_case(path, case))
    return found


def _shown_case(path: Path, case: Case) -> dict[str, Any]:
    file = path.parent / Path(case.file).name  # never a file elsewhere
    try:
        data, height, width = jpeg_bytes(read_image(file), OVERLAY_WIDTH_PX)
    except DataError as error:
        raise CheckpointError(
            f"{path} names an image that cannot be shown. {error} Evaluate the run again."
        ) from error

    return {
        "src": "data:image/jpeg;base64," + base64.b64encode(data).decode(),
        "height": height,
        "width": width,
        "text": case.text,
        "image": case.image,
        "dice": case.dice_per_image,
    }


def _rounded_point(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
