"""Plots as inline SVG: sharp at any size, colored by the style sheet of the page, all text escaped.

The page styles these classes: `grid`, `axis`, `mark` (reference lines), `bar`, `line`, `ci`, `dot`, `pt` (points of a
scatter) and `s0` ... `s6`, the colors of series. Series differ in their dashes as well as in their colors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError

WIDTH = 560
SERIES = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 4")
CHAR = 6.6  # px, upper bound of the mean width of a letter of 12 px
LONGEST = 34  # letters of a label; longer ones are cut
Row = tuple[str, float, float, float]


@dataclass(frozen=True)
class Curve:
    """A line: its name, N positions, N values and, if known, N interval bounds; NaN leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Frame:
    """The box inside the axes, in px, and the values at its edges; `root` draws x by its square root."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float] = (0.0, 1.0)
    root: bool = False

    def px(self, value: float) -> float:
        """Horizontal position of a value in px."""
        low, high = self.x
        share = (value - low) / (high - low)
        if self.root:
            share = math.sqrt(max(share, 0.0))
        return self.left + (self.right - self.left) * share

    def py(self, value: float) -> float:
        """Vertical position of a value in px."""
        low, high = self.y
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)


def intervals_svg(
    rows: Sequence[Row],
    xlabel: str,
    title: str,
    marks: Sequence[tuple[str, float]] = (),
    colors: Sequence[int] = (),
    span: Sequence[float] = (),
) -> str:
    """Draw estimates with their intervals, one row each, the first at the top.

    Args:
        rows: (label, estimate, low, high).
        xlabel: what is estimated.
        title: text for screen readers.
        marks: (label, value) of vertical reference lines.
        colors: index of the color of each row; empty means 0 for all.
        span: further numbers that the axis covers, so that several plots have the same axis.

    Returns:
        An `<svg>` element.

    Raises:
        DataError: there are no rows, or a number is not finite.
    """
    spread = [*span]
    for row in rows:
        spread += row[1:]
    for _, value in marks:
        spread.append(value)
    low, high = _limits(spread, title)
    side = 12 + CHAR * max(len(_short(label)) for label, *_ in rows)
    top = 8 + 15 * len(marks)
    frame = Frame(side, top, WIDTH - 46, top + 24 * len(rows), (low, high))
    parts = _x_axis(frame, xlabel)

    # reference lines, with their labels above the rows
    for i, (label, value) in enumerate(marks):
        x, y = frame.px(value), 14.0 + 15 * i
        anchor = "end" if x > WIDTH / 2 else "start"
        parts.append(
            f'<path class="mark" stroke-dasharray="{DASHES[i + 1]}" d="M{x:.1f} {y - 6}V{frame.bottom:.1f}"/>'
        )
        parts.append(_label(x + (-5 if anchor == "end" else 5), y, f"{label} {value:.2f}", anchor))

    for i, (label, estimate, first, last) in enumerate(rows):
        y = frame.top + 24 * i + 12
        parts.append(_label(frame.left - 8, y + 4, _short(label), "end"))
        a, b = frame.px(first), frame.px(last)
        color = f"s{colors[i] % SERIES}" if colors else "s0"
        parts.append(
            f'<path class="ci {color}" d="M{a:.1f} {y}H{b:.1f}M{a:.1f} {y - 4}v8M{b:.1f} {y - 4}v8"/>'
        )
        parts.append(f'<circle class="dot {color}" cx="{frame.px(estimate):.1f}" cy="{y}" r="4"/>')
        parts.append(_label(frame.right + 8, y + 4, f"{estimate:.3f}"))
    return _svg(parts, frame.bottom + 42, title)


def lines_svg(
    series: Sequence[Curve], xlabel: str, ylabel: str, title: str, whole: bool = False
) -> str:
    """Draw one line per series.

    Args:
        series: at least one with a finite value.
        xlabel: of the positions.
        ylabel: of the values.
        title: text for screen readers.
        whole: the positions are integers, such as epochs.

    Returns:
        An `<svg>` element.

    Raises:
        DataError: no value is finite.
    """
    values: list[float] = []
    places: list[float] = []
    for line in series:
        values += filter(math.isfinite, (*line.y, *line.low, *line.high))
        places += filter(math.isfinite, line.x)
    low, high = _limits(values, title)
    first, last = min(places), max(places)
    if first == last:  # a single position still needs an axis of some width
        first, last = first - 0.5, last + 0.5

    legend, top = _legend([line.name for line in series])
    frame = Frame(54, top + 8, WIDTH - 14, top + 220, (first, last), (low, high))
    parts = [*legend, *_y_axis(frame, ylabel), *_x_axis(frame, xlabel, whole)]
    for i, line in enumerate(series):
        parts += _curve_parts(frame, line, i)
    return _svg(parts, frame.bottom + 42, title)


def scatter_svg(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    xlabel: str,
    ylabel: str,
    title: str,
    *,
    diagonal: bool = False,
) -> str:
    """Draw N points with their index as `data-i`; points without a finite value are hidden.

    Args:
        x: N positions, from 0 to 1 with `diagonal`, else from 0 upwards and drawn by their square root.
        y: N values from 0 to 1.
        xlabel: of the positions.
        ylabel: of the values.
        title: text for screen readers.
        diagonal: both axes have the same meaning; draws the line of equal values.

    Returns:
        An `<svg>` element; `data-box` is the box inside its axes in px.
    """
    places, values = (np.asarray(v, np.float64) for v in (x, y))
    finite = np.isfinite(places) & np.isfinite(values)
    widest = 1.0 if diagonal else max(float(places[finite].max(initial=0.0)) * 1.05, 1e-6)
    frame = Frame(54, 10, WIDTH - 14, 330, (0.0, widest), root=not diagonal)
    parts = [*_y_axis(frame, ylabel), *_x_axis(frame, xlabel)]
    if diagonal:
        parts.append(
            f'<path class="mark" d="M{frame.left} {frame.bottom}L{frame.right} {frame.top}"/>'
        )

    points = zip(np.nan_to_num(places), np.nan_to_num(values), finite, strict=True)
    for i, (u, v, seen) in enumerate(points):
        hidden = "" if seen else " hidden"
        parts.append(
            f'<circle class="pt" cx="{frame.px(u):.1f}" cy="{frame.py(v):.1f}" r="3.5" data-i="{i}"{hidden}/>'
        )
    box = ",".join(f"{edge:g}" for edge in (frame.left, frame.top, frame.right, frame.bottom))
    return _svg(parts, frame.bottom + 42, title, f' data-box="{box}"')


def histogram_svg(
    values: npt.ArrayLike, xlabel: str, title: str, bins: int = 20, color: int = 0
) -> str:
    """Draw how many values are in each of the bins from 0 to 1, and their median; NaN is only counted.

    Args:
        values: any shape, from 0 to 1.
        xlabel: of the values.
        title: text for screen readers.
        bins: number of bins.
        color: index of the color.

    Returns:
        An `<svg>` element.

    Raises:
        DataError: no value is finite.
    """
    array = np.asarray(values, np.float64).ravel()
    finite = array[np.isfinite(array)]
    if not finite.size:
        raise DataError(
            f"{title}: got {array.size} values, none of them finite; expected at least one."
        )

    count, edges = np.histogram(finite.clip(0, 1), bins, (0, 1))
    frame = Frame(54, 26, WIDTH - 14, 226, (0.0, 1.0), (0.0, float(count.max())))
    parts = [*_y_axis(frame, "images", whole=True), *_x_axis(frame, xlabel)]
    for n, left, right in zip(count, edges, edges[1:], strict=False):
        a, b, y = frame.px(left) + 0.5, frame.px(right) - 0.5, frame.py(float(n))
        parts.append(
            f'<path class="bar s{color % SERIES}" d="M{a:.1f} {frame.bottom}V{y:.1f}H{b:.1f}V{frame.bottom}z"/>'
        )

    median, lost = float(np.median(finite)), array.size - finite.size
    note = f"median {median:.3f}, n = {finite.size}"
    if lost:
        note += f", {lost} without a value"
    x = frame.px(median)
    parts.append(f'<path class="mark" stroke-dasharray="7 3" d="M{x:.1f} 8V{frame.bottom}"/>')
    right = x > WIDTH / 2
    parts.append(_label(x + (-6 if right else 6), 16, note, "end" if right else "start"))
    return _svg(parts, frame.bottom + 42, title)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _limits(values: Sequence[float], title: str) -> tuple[float, float]:
    """Ends of an axis that covers all values, with some room."""
    if not values or not all(map(math.isfinite, values)):
        raise DataError(
            f"{title}: got {len(values)} numbers to draw; expected at least one, all of them finite."
        )
    low, high = min(values), max(values)
    room = max((high - low) * 0.06, 1e-3)

    # values in 0 to 1 are fractions, and their axis never extends beyond that range
    first = max(low - room, 0.0) if low >= 0 else low - room
    last = min(high + room, 1.02) if high <= 1 else high + room
    return first, last


def _curve_parts(frame: Frame, line: Curve, i: int) -> list[str]:
    points = [(frame.px(x), y) for x, y in zip(line.x, line.y, strict=True)]
    path, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            path.append(f"{pen}{x:.1f} {frame.py(y):.1f}")
        pen = "L" if math.isfinite(y) else "M"

    color, dash = f"s{i % SERIES}", DASHES[i % len(DASHES)]
    parts = [f'<path class="line {color}" stroke-dasharray="{dash}" d="{"".join(path)}"/>']
    for (x, _), low, high in zip(points, line.low, line.high, strict=False):
        if math.isfinite(low) and math.isfinite(high):
            parts.append(
                f'<path class="ci {color}" d="M{x:.1f} {frame.py(low):.1f}V{frame.py(high):.1f}"/>'
            )
    if len(points) <= 30:
        for x, y in points:
            if math.isfinite(y):
                parts.append(
                    f'<circle class="dot {color}" cx="{x:.1f}" cy="{frame.py(y):.1f}" r="3"/>'
                )
    return parts


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """Samples of the lines with their names, in as many rows as needed, and the height of these rows."""
    if len(names) < 2:
        return [], 0.0
    parts, x, y = [], 54.0, 14.0
    for i, name in enumerate(names):
        label = _short(name)
        wide = 40 + CHAR * len(label)
        if x > 54 and x + wide > WIDTH:
            x, y = 54.0, y + 18
        dash = DASHES[i % len(DASHES)]
        parts.append(
            f'<path class="line s{i % SERIES}" stroke-dasharray="{dash}" d="M{x:.1f} {y - 4}h24"/>'
        )
        parts.append(_label(x + 29, y, label))
        x += wide + 6
    return parts, y + 4


def _x_axis(frame: Frame, label: str, whole: bool = False) -> list[str]:
    low, high = frame.x
    ticks = _root_ticks(high) if frame.root else nice_ticks(low, high)
    if whole:
        ticks = sorted({float(round(t)) for t in ticks if low <= round(t) <= high})
    parts = []
    for tick in ticks:
        x = frame.px(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {frame.top}V{frame.bottom}"/>')
        parts.append(_label(x, frame.bottom + 16, f"{tick:g}", "middle"))
    parts.append(f'<path class="axis" d="M{frame.left:.1f} {frame.bottom}H{frame.right}"/>')
    middle = (frame.left + frame.right) / 2
    parts.append(_label(middle, frame.bottom + 36, label, "middle", ' class="xlabel"'))
    return parts


def _y_axis(frame: Frame, label: str, whole: bool = False) -> list[str]:
    ticks = nice_ticks(*frame.y)
    if whole:
        ticks = sorted({float(round(t)) for t in ticks})
    parts = []
    for tick in ticks:
        y = frame.py(tick)
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.right}"/>')
        parts.append(_label(frame.left - 7, y + 4, f"{tick:g}", "end"))
    middle = (frame.top + frame.bottom) / 2
    turned = f' class="ylabel" transform="rotate(-90 13 {middle:.1f})"'
    parts.append(_label(13, middle, label, "middle", turned))
    return parts


def _root_ticks(high: float) -> list[float]:
    """Round numbers whose square roots are about evenly spaced."""
    ticks = [0.0]
    for share in (0.04, 0.16, 0.36, 0.64, 1.0):
        unit = 10.0 ** math.floor(math.log10(high * share))
        below = [k * unit for k in (1, 2, 3, 4, 5, 6, 8, 10) if k * unit <= high * share * 1.001]
        tick = max(below, default=0.0)
        if tick > ticks[-1]:
            ticks.append(tick)
    return ticks


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def _label(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{place}{more}>{escape(words)}</text>'


def _svg(parts: Sequence[str], height: float, title: str, more: str = "") -> str:
    size = f'viewBox="0 0 {WIDTH} {math.ceil(height)}"'
    return f'<svg role="img" aria-label="{escape(title)}" {size}{more}>{"".join(parts)}</svg>'
