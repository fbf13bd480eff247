"""Charts and curves for reports as PNG. This is the only file that uses matplotlib.

The colors are those of Okabe and Ito, which can be distinguished with any of the common color blindnesses.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from textmask.errors import DataError
from textmask.plots.overlays import PALETTE

DPI = 160  # sharp at twice the size shown in a report


def bar_intervals_png(
    rows: Sequence[tuple[str, float, float, float]],
    xlabel: str = "",
    title: str = "",
    dots: Sequence[Sequence[float]] = (),
) -> bytes:
    """Draw estimates with their intervals, one row each, the first at the top.

    Args:
        rows: (label, estimate, low, high).
        xlabel: what is estimated, with its unit.
        title: above the chart.
        dots: for each row the single values whose mean is its estimate; drawn small below the interval.

    Returns:
        The bytes of a PNG.

    Raises:
        DataError: there are no rows, or the numbers of a row are not finite or not in the order low, estimate, high.
    """
    if not rows:
        raise DataError(
            "bar_intervals_png: got no rows, expected at least one (label, estimate, low, high)."
        )
    for label, estimate, low, high in rows:
        if not (math.isfinite(high - low) and low <= estimate <= high):
            raise DataError(
                f"bar_intervals_png: {label!r} has {estimate} in [{low}, {high}], expected low <= estimate <= high."
            )

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        for i, values in enumerate(dots):
            axes.plot(values, [i + 0.22] * len(values), "o", ms=3.5, c=_rgb(1), alpha=0.8, mew=0)

        line: dict[str, Any] = {"fmt": "o", "ms": 5, "lw": 1.8, "capsize": 4, "c": _rgb(0)}
        value: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "size": 8}
        for i, (_, estimate, low, high) in enumerate(rows):
            axes.errorbar(estimate, i, xerr=[[estimate - low], [high - estimate]], **line)
            axes.annotate(f"{estimate:.3f}", (estimate, i), (0, 6), **value)

        axes.set_yticks(places, [_escape_math(label) for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.grid(axis="x", alpha=0.25)

    return _png(draw, xlabel, "", title, height=1.1 + 0.38 * len(rows))


def severity_png(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    steps: Sequence[str],
    caption: str,
) -> bytes:
    """Draw estimates with intervals over steps of severity, panels side by side, with one legend and caption below.

    Args:
        panels: title -> series -> one (estimate, low, high) per step; all series start at the first step.
        steps: names of the steps.
        caption: above the legend.

    Returns:
        The bytes of a PNG.

    Raises:
        DataError: there is no panel or series, or a series has more points than there are steps.
    """
    lengths: set[int] = set()
    names: dict[str, int] = {}  # of the series, numbered in their order
    for panel in panels.values():
        for name, values in panel.items():
            lengths.add(len(values))
            names.setdefault(name, len(names))
    if not lengths or min(lengths) < 1 or max(lengths) > len(steps):
        raise DataError(
            f"severity_png: got {len(panels)} panels with series of {sorted(lengths)} points for {len(steps)} steps, "
            "expected at least one series and at most one point per step."
        )

    room = 0.5 + 0.2 * ((len(names) + 2) // 3 + caption.count("\n"))
    figure = Figure(figsize=(4.2 * len(panels), 3.2 + room), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)

    line: dict[str, Any] = {"fmt": "o", "ms": 3, "lw": 1.4}
    handles: dict[str, Any] = {}
    every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, panel) in zip(every_axes, panels.items(), strict=True):
        axes.axhline(0, color="0.6", lw=0.8)
        for name, values in panel.items():
            i = names[name]
            estimate, low, high = np.asarray(values, np.float64).T
            x = np.arange(len(values)) + 0.03 * (
                i - len(names) / 2
            )  # points never cover each other
            bars = np.maximum([estimate - low, high - estimate], 0)
            style = "-" if i < len(PALETTE) else "--"
            handles[name] = axes.errorbar(x, estimate, yerr=bars, ls=style, c=_rgb(i), **line)

        axes.set_xticks(range(len(steps)), [_escape_math(step) for step in steps])
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(_escape_math(title), fontsize=9, loc="left")
        axes.grid(axis="y", alpha=0.25)

    labels = [_escape_math(name) for name in handles]
    _legend_below(figure, list(handles.values()), labels, caption, ncols=3)
    return _encoded(figure)


class CurvePoint(NamedTuple):
    """A point of a curve: position, estimate and interval, and the single values whose mean is the estimate."""

    x: float
    estimate: float
    low: float
    high: float
    dots: tuple[float, ...] = ()


def log_curves_png(
    series: Mapping[str, Sequence[CurvePoint]], xlabel: str, ylabel: str, title: str = ""
) -> bytes:
    """Draw curves with intervals over fractions (0 to 1), shown as percentages on a logarithmic axis.

    Points of several curves at the same position are drawn slightly apart.

    Args:
        series: name -> points, at most one series per color.
        xlabel: of the fractions.
        ylabel: of the estimates, with their unit.
        title: above the chart.

    Returns:
        The bytes of a PNG.

    Raises:
        DataError: there are no series or more than colors, or the numbers of a point are not finite, not in the order
            low, estimate, high, or its position is not above 0.
    """
    if not 0 < len(series) <= len(PALETTE) or not all(series.values()):
        raise DataError(
            f"log_curves_png: got {len(series)} series, expected 1 to {len(PALETTE)} with points."
        )
    positions: set[float] = set()
    for points in series.values():
        for point in points:
            ordered = point.low <= point.estimate <= point.high
            if not (point.x > 0 and math.isfinite(point.high - point.low) and ordered):
                raise DataError(
                    f"log_curves_png: got {point}, expected x above 0 and low <= estimate <= high."
                )
            positions.add(point.x)

    def draw(axes: Axes) -> None:
        for i, (name, points) in enumerate(series.items()):
            apart = 1.04 ** (i - (len(series) - 1) / 2)
            x, y, low, high = np.array([point[:4] for point in sorted(points)]).T
            line: dict[str, Any] = {"fmt": "o-", "ms": 5, "lw": 1.6, "capsize": 3, "c": _rgb(i)}
            axes.errorbar(x * apart, y, [y - low, high - y], label=_escape_math(name), **line)

            # single values to the right of their interval
            for point in points:
                right = [point.x * apart * 1.06] * len(point.dots)
                axes.plot(right, point.dots, "o", ms=3, c=_rgb(i), alpha=0.7, mew=0)

        ticks = sorted(positions)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick * 100:.3g} %" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="best")

    return _png(draw, xlabel, ylabel, title, height=3.6)


def scatter_panels_png(
    panels: Sequence[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.int64]]],
    names: Sequence[str],
    caption: str,
) -> bytes:
    """Draw points in the plane, panels side by side in the same colors, with one legend and caption below.

    Args:
        panels: (title, positions N 2, index N of the name that each point belongs to); axes have no unit.
        names: meaning of the colors.
        caption: above the legend.

    Returns:
        The bytes of a PNG.

    Raises:
        DataError: there are no panels, there are more names than colors, or a panel has no points.
    """
    if (
        not panels
        or not 0 < len(names) <= len(PALETTE)
        or not all(len(places) for _, places, _ in panels)
    ):
        raise DataError(
            f"scatter_panels_png: got {len(panels)} panels and {len(names)} names, expected panels with points and "
            f"1 to {len(PALETTE)} names."
        )

    room = 0.3 + 0.2 * (len(names) + caption.count("\n") + 1)
    size = (max(3.4 * len(panels), 5.2), 3.5 + room)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, places, numbers) in zip(every_axes, panels, strict=True):
        for i, name in enumerate(names):
            x, y = places[numbers == i].T
            axes.plot(x, y, "o", ms=3, c=_rgb(i), alpha=0.6, mew=0, label=_escape_math(name))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(_escape_math(title), fontsize=9, loc="left")

    handles, labels = axes.get_legend_handles_labels()
    _legend_below(figure, handles, labels, caption, markerscale=2)
    return _encoded(figure)


def tuning_png(
    panels: Sequence[tuple[str, Sequence[float | int | str], bool]],
    scores: npt.NDArray[np.float64],
    ylabel: str,
) -> bytes:
    """Draw the score of every trial against each tuned field, panels side by side; the best trial is marked.

    Args:
        panels: (field, value of each of the N trials, whether the axis is logarithmic).
        scores: N, higher is better.
        ylabel: what the scores are.

    Returns:
        The bytes of a PNG.
    """
    figure = Figure(figsize=(max(3.0 * len(panels), 4.0), 3.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    every_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    best = int(scores.argmax())
    for axes, (field, values, is_log) in zip(every_axes, panels, strict=True):
        axes.plot(values, scores, "o", ms=4, c=_rgb(0), alpha=0.7, mew=0)
        axes.plot(
            values[best : best + 1], scores[best : best + 1], "o", ms=8, mfc="none", c=_rgb(1)
        )
        if is_log:
            axes.set_xscale("log")
        axes.set_xlabel(_escape_math(field), fontsize=8)
    every_axes[0].set_ylabel(_escape_math(ylabel))
    return _encoded(figure)


def forest_png(
    rows: Sequence[tuple[str, float, float, float, float]], xlabel: str, names: tuple[str, str]
) -> bytes:
    """Draw differences with their intervals next to reference values, one row each, the first at the top.

    Args:
        rows: (label, reference value, estimate, low, high).
        xlabel: what is estimated, with its unit.
        names: legend of the estimates and of the reference values.

    Returns:
        The bytes of a PNG.

    Raises:
        DataError: there are no rows, or the numbers of a row are not finite or not in the order low, estimate, high.
    """
    if not rows:
        raise DataError(
            "forest_png: got no rows, expected at least one (label, other, estimate, low, high)."
        )
    for label, other, estimate, low, high in rows:
        if not (math.isfinite(high - low + other) and low <= estimate <= high):
            raise DataError(
                f"forest_png: {label!r} has {estimate} in [{low}, {high}], expected low <= estimate <= high."
            )

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        others, estimates, low, high = np.array([row[1:] for row in rows]).T
        ends = np.stack([estimates - low, high - estimates])

        line: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 1.6, "capsize": 3, "c": _rgb(0)}
        mark: dict[str, Any] = {"ms": 4.5, "mfc": "none", "mec": _rgb(4), "mew": 1.4}
        axes.axvline(0, color="0.4", lw=1)
        axes.errorbar(estimates, places, xerr=ends, label=_escape_math(names[0]), **line)
        axes.plot(others, places, "D", label=_escape_math(names[1]), **mark)

        axes.set_yticks(places, [_escape_math(row[0]) for row in rows], size=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.grid(axis="x", alpha=0.25)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)

    return _png(draw, xlabel, "", "", height=1.2 + 0.24 * len(rows), width=7.2, dpi=110)


def _rgb(i: int) -> tuple[float, float, float]:
    red, green, blue = PALETTE[i % len(PALETTE)]
    return red / 255, green / 255, blue / 255


def _png(
    draw: Callable[[Axes], None],
    xlabel: str,
    ylabel: str,
    title: str,
    height: float = 3.2,
    width: float = 5.2,
    dpi: int = DPI,
) -> bytes:
    """Draw on a separate figure (pyplot would keep it alive) and encode it."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(_escape_math(xlabel))
    axes.set_ylabel(_escape_math(ylabel))
    axes.set_title(_escape_math(title), fontsize=11, loc="left")
    return _encoded(figure)


def _legend_below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], caption: str, **style: Any
) -> None:
    """One legend for all panels, below them, with a caption above it."""
    place: dict[str, Any] = {"loc": "outside lower left", "alignment": "left", "frameon": False}
    sizes: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8}
    figure.legend(handles, labels, title=_escape_math(caption), **place, **sizes, **style)


def _encoded(figure: Figure) -> bytes:
    """Encode a figure as PNG without version and date, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _escape_math(text: str) -> str:
    """Escape "$", because matplotlib reads the text between two of them as a formula."""
    return text.replace("$", r"\$")
