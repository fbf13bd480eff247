"""Pictures people look at: overlays on films (OpenCV), curves for reports (the only file that uses matplotlib).

Colours are those of Okabe and Ito, which people with any of the usual colour blindnesses can tell apart.
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

DPI = 160  # sharp at twice the size a report shows


def bar_intervals_png(
    rows: Sequence[tuple[str, float, float, float]],
    xlabel: str = "",
    title: str = "",
    dots: Sequence[Sequence[float]] = (),
) -> bytes:
    """PNG of estimates with their intervals, one row each, the first on top.

    Args:
        rows: (label, estimate, low, high).
        xlabel: what is estimated, with its unit.
        title: above the picture.
        dots: single values that a row's estimate is the mean of, one sequence a row; drawn small below the interval.

    Raises:
        DataError: no row, or a row whose numbers are not finite or not in the order low, estimate, high.
    """
    if not rows:
        raise DataError(
            "bar_intervals_png: got no rows, expected at least one (label, estimate, low, high)."
        )
    for label, estimate, low, high in rows:
        if not (math.isfinite(high - low) and low <= estimate <= high):
            raise DataError(
                f"bar_intervals_png: {label!r} has {estimate} in [{low}, {high}], expected low <= it <= high."
            )

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        for i, values in enumerate(dots):
            axes.plot(values, [i + 0.22] * len(values), "o", ms=3.5, c=_rgb(1), alpha=0.8, mew=0)
        for i, (_, estimate, low, high) in enumerate(rows):
            axes.errorbar(
                estimate,
                i,
                xerr=[[estimate - low], [high - estimate]],
                fmt="o",
                ms=5,
                lw=1.8,
                capsize=4,
                c=_rgb(0),
            )
            axes.annotate(
                f"{estimate:.3f}",
                (estimate, i),
                (0, 6),
                textcoords="offset points",
                ha="center",
                size=8,
            )
        axes.set_yticks(places, [_escape_math(label) for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.grid(axis="x", alpha=0.25)

    return _png(draw, xlabel, "", title, height=1.1 + 0.38 * len(rows))


def severity_png(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    steps: Sequence[str],
    caption: str,
) -> bytes:
    """PNG of estimates with intervals over steps of severity, panels side by side, one legend and caption below.

    Args:
        panels: what is estimated -> series -> one (estimate, low, high) a step; the first step is where all start.
        steps: names of the steps.
        caption: above the legend.

    Raises:
        DataError: no panel or series, or a series with more points than there are steps.
    """
    series = [values for panel in panels.values() for values in panel.values()]
    if not series or any(not 0 < len(values) <= len(steps) for values in series):
        raise DataError(
            f"severity_png: got {len(panels)} panels with series of {sorted({len(v) for v in series})} points for "
            f"{len(steps)} steps, expected at least one series and at most one point a step."
        )
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    room = 0.5 + 0.2 * ((len(names) + 2) // 3 + caption.count("\n"))
    figure = Figure(figsize=(4.2 * len(panels), 3.2 + room), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, panel) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        axes.axhline(0, color="0.6", lw=0.8)
        for name, values in panel.items():
            i = names.index(name)
            estimate, low, high = np.asarray(values, np.float64).T
            x = np.arange(len(values)) + 0.03 * (
                i - len(names) / 2
            )  # beside each other where they meet
            bars = np.maximum([estimate - low, high - estimate], 0)
            style = "-" if i < len(PALETTE) else "--"
            axes.errorbar(
                x,
                estimate,
                yerr=bars,
                fmt="o",
                ls=style,
                ms=3,
                lw=1.4,
                c=_rgb(i),
                label=_escape_math(name),
            )
        axes.set_xticks(range(len(steps)), [_escape_math(step) for step in steps])
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(_escape_math(title), fontsize=9, loc="left")
        axes.grid(axis="y", alpha=0.25)
    handles = {
        name: h
        for axes in figure.axes
        for h, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    style_of: dict[str, Any] = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "ncols": 3}
    place: dict[str, Any] = {
        "loc": "outside lower left",
        "title": _escape_math(caption),
        "alignment": "left",
    }
    figure.legend(list(handles.values()), list(handles), **place, **style_of)
    return _encoded(figure)


class CurvePoint(NamedTuple):
    """A point of a curve: place, estimate and its interval, and the single values it is the mean of."""

    x: float
    estimate: float
    low: float
    high: float
    dots: tuple[float, ...] = ()


def log_curves_png(
    series: Mapping[str, Sequence[CurvePoint]], xlabel: str, ylabel: str, title: str = ""
) -> bytes:
    """PNG of curves with intervals along shares of a whole (0 to 1), drawn as percentages on a logarithmic axis.

    Points of several curves at one place are set a little apart.

    Raises:
        DataError: no series, more than there are colours, or a point that is not finite, in order and above 0.
    """
    if not 0 < len(series) <= len(PALETTE) or not all(series.values()):
        raise DataError(
            f"log_curves_png: got {len(series)} series, expected 1 to {len(PALETTE)} with points."
        )
    for point in (point for points in series.values() for point in points):
        if not (
            point.x > 0
            and math.isfinite(point.high - point.low)
            and point.low <= point.estimate <= point.high
        ):
            raise DataError(
                f"log_curves_png: got {point}, expected x above 0 and low <= estimate <= high."
            )

    def draw(axes: Axes) -> None:
        for i, (name, points) in enumerate(series.items()):
            apart = 1.04 ** (i - (len(series) - 1) / 2)
            x, y, low, high = np.array([point[:4] for point in sorted(points)]).T
            axes.errorbar(
                x * apart,
                y,
                [y - low, high - y],
                fmt="o-",
                ms=5,
                lw=1.6,
                capsize=3,
                c=_rgb(i),
                label=_escape_math(name),
            )
            for point in points:
                right = point.x * apart * 1.06  # beside the interval
                axes.plot(
                    [right] * len(point.dots), point.dots, "o", ms=3, c=_rgb(i), alpha=0.7, mew=0
                )
        places = sorted({point.x for points in series.values() for point in points})
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place * 100:.3g} %" for place in places])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="best")

    return _png(draw, xlabel, ylabel, title, height=3.6)


def scatter_panels_png(
    panels: Sequence[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.int64]]],
    names: Sequence[str],
    caption: str,
) -> bytes:
    """PNG of points in the plane, panels side by side in the same colours, one caption and legend below.

    Args:
        panels: (title, N 2 places, N numbers of the name that each point belongs to); axes have no unit.
        names: what the colours mean.
        caption: above the legend.

    Raises:
        DataError: no panel, more names than colours, or a panel without points.
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
    figure = Figure(
        figsize=(max(3.4 * len(panels), 5.2), 3.5 + room), dpi=DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    for axes, (title, places, numbers) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for i, name in enumerate(names):
            x, y = places[numbers == i].T
            axes.plot(x, y, "o", ms=3, c=_rgb(i), alpha=0.6, mew=0, label=_escape_math(name))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(_escape_math(title), fontsize=9, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "markerscale": 2}
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        title=_escape_math(caption),
        alignment="left",
        **style,
    )
    return _encoded(figure)


def forest_png(
    rows: Sequence[tuple[str, float, float, float, float]], xlabel: str, names: tuple[str, str]
) -> bytes:
    """PNG of differences with their intervals beside the ones they are compared with, one row each, the first on top.

    Args:
        rows: (label, other, estimate, low, high).
        xlabel: what is estimated, with its unit.
        names: what the estimates are, and what the others are.

    Raises:
        DataError: no row, or a row whose numbers are not finite or not in the order low, estimate, high.
    """
    if not rows:
        raise DataError(
            "forest_png: got no rows, expected at least one (label, other, estimate, low, high)."
        )
    for label, other, estimate, low, high in rows:
        if not (math.isfinite(high - low + other) and low <= estimate <= high):
            raise DataError(
                f"forest_png: {label!r} has {estimate} in [{low}, {high}], expected low <= it <= high."
            )

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        others, estimates, low, high = np.array([row[1:] for row in rows]).T
        ends = np.stack([estimates - low, high - estimates])
        axes.axvline(0, color="0.4", lw=1)
        axes.errorbar(
            estimates,
            places,
            xerr=ends,
            fmt="o",
            ms=4,
            lw=1.6,
            capsize=3,
            c=_rgb(0),
            label=_escape_math(names[0]),
        )
        axes.plot(
            others,
            places,
            "D",
            ms=4.5,
            mfc="none",
            mec=_rgb(4),
            mew=1.4,
            label=_escape_math(names[1]),
        )
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
    """Draw on a figure of its own (pyplot would keep it alive) and encode it."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(_escape_math(xlabel))
    axes.set_ylabel(_escape_math(ylabel))
    axes.set_title(_escape_math(title), fontsize=11, loc="left")
    return _encoded(figure)


def _encoded(figure: Figure) -> bytes:
    """The same figure gives the same bytes: no version and no date in them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _escape_math(text: str) -> str:
    """A person's text, not a formula: matplotlib takes what stands between two "$" for one."""
    return text.replace("$", r"\$")
