"""Result tables, always with their protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from textmask.metrics.statistics import Interval

Value = dict[str, float | None]
METRICS = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")
DISTANCES = {"hd95_pooled_px": "hd95_pooled px", "assd_px": "assd px"}


def as_value(interval: Interval) -> Value:
    """As JSON has it, without NaN: the ends are null with a single group."""
    low, high = (None if math.isnan(end) else end for end in (interval.low, interval.high))
    return {"estimate": interval.estimate, "low": low, "high": high}


def bar(name: str, value: Value) -> tuple[str, float, float, float]:
    """Label, estimate and ends as a picture draws them: no interval is a point, rounding never leaves it outside."""
    estimate = value["estimate"] or 0.0
    low, high = (estimate if end is None else end for end in (value["low"], value["high"]))
    return name, estimate, min(low, estimate), max(high, estimate)


def cell(value: Value, scale: float = 100.0, digits: int = 2) -> str:
    """A figure with its interval; shares in percent."""
    low, high = value["low"], value["high"]
    text = f"{(value['estimate'] or 0.0) * scale:.{digits}f}"
    return (
        text
        if low is None or high is None
        else f"{text} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"
    )


def protocol_line(protocol: dict[str, Any]) -> str:
    """The protocol in one sentence, printed with every table."""
    size = " x ".join(map(str, protocol["size"]))
    return (
        f"{protocol['data']}, split {protocol['split']}, n = {protocol['n']} in {protocol['n_groups']} groups, "
        f"scored at {size}, threshold {protocol['threshold']}, both masks empty: {protocol['empty_policy']}, "
        f"HD95: {protocol['hd95']}; chosen by {protocol['chosen_by']}, seed {protocol['seed']}, "
        f"commit {protocol['git_commit'] or 'unknown'}; in parentheses: {protocol['interval']}."
    )


def table_cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a summary's table; a row that is missing says why in its second cell."""
    surface = any("hd95_pooled_px" in row for row in summary["rows"].values())
    head = ["row", *METRICS, *(DISTANCES.values() if surface else ())]
    lines = []
    for name, row in summary["rows"].items():
        distances = [cell(row[key], 1.0, 1) for key in DISTANCES] if surface else []
        lines.append([name, *(cell(row[metric]) for metric in METRICS), *distances])
    empty = [""] * (len(head) - 2)
    lines += [[name, note, *empty] for name, note in summary["missing_rows"].items()]
    return head, lines


def difference_lines(summary: dict[str, Any]) -> list[str]:
    """The model minus each other row, paired on the same images."""
    return [
        f"minus {entry['minus']}: dice_per_image {cell(entry['dice_per_image'])}, p {entry['dice_per_image_p']:.2g}; "
        f"dice_pooled {cell(entry['dice_pooled'])}, p {entry['dice_pooled_p']:.2g}"
        for entry in summary["differences"]
    ]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def evaluation_table(summary: dict[str, Any]) -> str:
    """Markdown of a summary: the table, its protocol, and the paired differences."""
    head, lines = table_cells(summary)
    differences = "\n".join(f"- {line}" for line in difference_lines(summary))
    return f"{markdown(head, lines)}\n\n{protocol_line(summary['protocol'])}\n\n{differences}\n"
