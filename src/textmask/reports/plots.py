"""What a report draws: curves, intervals, agreement beside its bounds, points per image, overlays."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, DataError
from textmask.evaluation.agreement import COLUMNS, SUBSETS
from textmask.evaluation.tables import bar
from textmask.io.files import read_json
from textmask.io.images import jpeg_bytes, read_image
from textmask.plots.svg import SERIES, Curve, histogram_svg, intervals_svg, lines_svg, scatter_svg
from textmask.reports.groups import Comparable, Member, owners
from textmask.reports.runs import ReportedRun

MOST_IMAGES = 3000  # of which a page holds the single figures
MOST_ROWS = 40  # of a plot of intervals
OVERLAY_WIDTH_PX = 720
GREY = SERIES - 1  # the last colour
KINDS = ("worst", "best", "median")
QUANTITIES = (("loss", "loss"), ("validation score", "valid/"), ("monitor", "monitor/"))


def curves(runs: Sequence[ReportedRun]) -> list[tuple[str, str]]:
    """(caption, SVG) of loss terms, validation scores and what the methods watch, over the epochs of all stages."""
    plots = []
    several = len(runs) > 1
    for run in runs:
        for label, prefix in QUANTITIES:
            if several and prefix == "valid/":
                continue  # all runs in one plot, below
            series = _of_log(run, prefix)
            if series:
                plots.append(
                    (
                        f"{run.label}: {label}",
                        lines_svg(series, "epoch", label, f"{run.label}: {label}", True),
                    )
                )
    if several:
        names = dict.fromkeys(
            key for run in runs for row in run.log for key in row if key.startswith("valid/")
        )
        together = []
        for name in names:
            series = [line for run in runs if (line := _curve(run.label, run, name))]
            title = name.removeprefix("valid/")
            together.append(
                (
                    f"validation {title}",
                    lines_svg(series, "epoch", title, f"validation {title}", True),
                )
            )
        plots = together + plots
    return plots


def _of_log(run: ReportedRun, prefix: str) -> list[Curve]:
    keys = dict.fromkeys(key for row in run.log for key in row if key.startswith(prefix))
    lines = (_curve(key.removeprefix("valid/").removeprefix("monitor/"), run, key) for key in keys)
    return [line for line in lines if line]


def _curve(name: str, run: ReportedRun, key: str) -> Curve | None:
    values = [row.get(key) for row in run.log]
    y = [float(value) if isinstance(value, (int, float)) else math.nan for value in values]
    return Curve(name, range(1, len(y) + 1), y) if any(map(math.isfinite, y)) else None


def forest(summary: dict[str, Any], group: Comparable) -> str:
    """SVG of dice_per_image of every row with its interval; a run's rows share a colour, further rows are grey."""
    rows = dict(list(summary["rows"].items())[:MOST_ROWS])
    bars = [bar(name, row["dice_per_image"]) for name, row in rows.items()]
    title = f"dice_per_image of every row on {group.split}, with its 95 % interval"
    return intervals_svg(bars, "dice_per_image", title, colors=_colours(rows, group))


def _colours(rows: Iterable[str], group: Comparable) -> list[int]:
    mine = owners(group)
    return [mine[name] % GREY if name in mine else GREY for name in rows]


def agreement_plots(summary: dict[str, Any], group: Comparable) -> list[tuple[str, str]]:
    """(caption, SVG) of the F1 of each aspect, beside those of true masks (ceiling) and foreign masks (floor)."""
    plots = []
    bounds = summary["agreement_bounds"]
    for subset, title in SUBSETS.items():
        for aspect in COLUMNS:
            found = {
                name: row["agreement"][subset][aspect]["f1"]
                for name, row in list(summary["rows"].items())[:MOST_ROWS]
                if aspect in row["agreement"][subset]
            }
            marks = [
                (name, bounds[name][subset][aspect]["f1"]["estimate"])
                for name in ("ceiling", "floor")
                if aspect in bounds[name][subset]
            ]
            if found:
                caption = f"{aspect}: {title}"
                rows, colours = (
                    [bar(name, value) for name, value in found.items()],
                    _colours(found, group),
                )
                plots.append(
                    (
                        caption,
                        intervals_svg(
                            rows, f"F1, {aspect}", f"Agreement, {caption}", marks, colours
                        ),
                    )
                )
    return plots


def histograms(group: Comparable) -> list[tuple[str, str]]:
    """(caption, SVG) of dice_per_image of each run; a run none of whose images has a score has none."""
    plots = []
    for i, member in enumerate(group.members):
        dice, title = member.evaluated.per_image.dice, f"{member.label}: images by dice_per_image"
        if np.isfinite(dice).any():
            plots.append(
                (member.label, histogram_svg(dice, "dice_per_image", title, color=i % GREY))
            )
    return plots


def single_figures(group: Comparable) -> dict[str, Any]:
    """Figures of the single images, for the page's scatters, table and filter: at most `MOST_IMAGES`, spread evenly.

    The lesion's area is in percent of the picture, or in pixels where masks were scored at sizes of their own.
    """
    first = group.members[0].evaluated.per_image
    n = len(first.images)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_IMAGES)).round().astype(int))
    size = group.protocol["size"]
    shared = all(isinstance(edge, int) for edge in size)
    scale = 100 / math.prod(size) if shared else 1.0
    texts = {text: i for i, text in enumerate(dict.fromkeys(first.texts[i] for i in chosen))}
    runs = [
        {
            "label": member.label,
            "dice": [_rounded_point(member.evaluated.per_image.dice[i]) for i in chosen],
        }
        for member in group.members
        if member.evaluated.per_image.images == first.images
    ]
    return {
        "n": n,
        "images": [first.images[i] for i in chosen],
        "texts": list(texts),
        "text": [texts[first.texts[i]] for i in chosen],
        "area": [_rounded_point(float(first.counts.true[i]) * scale) for i in chosen],
        "unit": "lesion, % of the picture" if shared else "lesion, px",
        "runs": runs,
    }


def scatters(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, SVG): two runs against each other where there are two, and Dice against the size of the lesion."""
    runs = figures["runs"]
    found = []
    dice = [np.array([math.nan if v is None else v for v in run["dice"]]) for run in runs]
    if len(runs) > 1:
        a, b = runs[0]["label"], runs[1]["label"]
        title = f"dice_per_image of {b} against that of {a}, a point an image"
        found.append(("runs", scatter_svg(dice[0], dice[1], a, b, title, diagonal=True)))
    title = f"dice_per_image of {runs[0]['label']} against the size of the lesion, a point an image"
    found.append(
        ("area", scatter_svg(figures["area"], dice[0], figures["unit"], runs[0]["label"], title))
    )
    return found


def overlays(member: Member) -> dict[str, list[dict[str, Any]]]:
    """The worst, best and median images of a run as they were drawn by `evaluate`, by kind.

    Raises:
        CheckpointError: a picture is missing or damaged.
    """
    folder = member.evaluated.folder / "cases"
    found: dict[str, list[dict[str, Any]]] = {}
    path = folder / "cases.json"
    for case in read_json(path)["cases"] if path.exists() else []:
        try:
            data, height, width = jpeg_bytes(
                read_image(folder / Path(case["file"]).name), OVERLAY_WIDTH_PX
            )
        except DataError as error:
            raise CheckpointError(
                f"{path} names a picture that cannot be shown. {error} Evaluate the run again."
            ) from error
        entry = {
            "src": "data:image/jpeg;base64," + base64.b64encode(data).decode(),
            "height": height,
            "width": width,
        }
        entry |= {"text": case["text"], "image": case["image"], "dice": case["dice_per_image"]}
        found.setdefault(case["kind"], []).append(entry)
    return {
        kind: found[kind]
        for kind in sorted(found, key=lambda k: KINDS.index(k) if k in KINDS else len(KINDS))
    }


def _rounded_point(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
