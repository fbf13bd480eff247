"""Result tables, always with their protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textmask.evaluation.records import Value
from textmask.evaluation.summary import Difference, EvaluationSummary, Protocol, SummaryRow

METRICS = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")
DISTANCES = {"hd95_pooled_px": "hd95_pooled px", "assd_px": "assd px"}


def bar(name: str, value: Value) -> tuple[str, float, float, float]:
    """Label, estimate and ends as charts draw them: without an interval a point; rounding never leaves it outside."""
    low = value.estimate if value.low is None else value.low
    high = value.estimate if value.high is None else value.high
    return name, value.estimate, min(low, value.estimate), max(high, value.estimate)


def cell(value: Value, scale: float = 100.0, digits: int = 2) -> str:
    """A figure with its interval; shares in percent."""
    text = f"{value.estimate * scale:.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} ({value.low * scale:.{digits}f} to {value.high * scale:.{digits}f})"


def protocol_line(protocol: Protocol) -> str:
    """The protocol in one sentence, printed with every table."""
    size = " x ".join(map(str, protocol.size))
    return (
        f"{protocol.data}, split {protocol.split}, n = {protocol.n} in {protocol.n_groups} groups, "
        f"scored at {size}, threshold {protocol.threshold}, both masks empty: {protocol.empty_policy}, "
        f"HD95: {protocol.hd95}; chosen by {protocol.chosen_by}, seed {protocol.seed}, "
        f"commit {protocol.git_commit or 'unknown'}; in parentheses: {protocol.interval}."
    )


def table_cells(
    rows: Mapping[str, SummaryRow], missing: Mapping[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table of rows; a missing row says why in its second cell."""
    surface = any(row.hd95_pooled_px is not None for row in rows.values())
    head = ["row", *METRICS, *(DISTANCES.values() if surface else ())]
    lines = []
    for name, row in rows.items():
        line = [name, *map(cell, row.overlaps)]
        if surface:
            line += ["" if value is None else cell(value, 1.0, 1) for value in row.distances]
        lines.append(line)

    empty = [""] * (len(head) - 2)
    lines += [[name, note, *empty] for name, note in missing.items()]
    return head, lines


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """The model minus each other row, paired on the same images."""
    return [
        f"minus {found.minus}: dice_per_image {cell(found.dice_per_image)}, p {found.dice_per_image_p:.2g}; "
        f"dice_pooled {cell(found.dice_pooled)}, p {found.dice_pooled_p:.2g}"
        for found in differences
    ]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without a newline at its end; a bar within a cell is escaped."""
    escaped = []
    for line in (head, ["---"] * len(head), *lines):
        cells = [text.replace("|", "\\|") for text in line]
        escaped.append(f"| {' | '.join(cells)} |")
    return "\n".join(escaped)


def bullets(lines: Sequence[str]) -> str:
    """A list in Markdown, one line per entry."""
    return "".join(f"- {line}\n" for line in lines)


def evaluation_table(summary: EvaluationSummary) -> str:
    """Markdown of a summary: the table, its protocol, and the paired differences."""
    table = markdown(*table_cells(summary.rows, summary.missing_rows))
    differences = bullets(difference_lines(summary.differences))
    return f"{table}\n\n{protocol_line(summary.protocol)}\n\n{differences}"
