"""One table of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textmask.evaluation.agreement import agreement_cells, agreement_lines
from textmask.evaluation.protocol import comparable_key, not_a_summary, provenance_lines
from textmask.evaluation.tables import difference_lines, protocol_line, table_cells
from textmask.io.files import read_json


def results_table(run_summaries: Sequence[Path], brief: bool = False) -> str:
    """Markdown of committed summary.json files: one table per protocol, a row that several of them hold once.

    Args:
        run_summaries: files written by `evaluate`, the most interesting first.
        brief: below a table only its protocol, without differences and the provenance of each row.

    Raises:
        CheckpointError: a file is missing or was not written by `evaluate`.
    """
    merged: dict[str, dict[str, Any]] = {}
    for path in run_summaries:
        summary = read_json(path)
        try:
            key = comparable_key(summary["protocol"])
            _merge(
                summary,
                merged.setdefault(
                    key, {"rows": {}, "missing_rows": {}, "protocols": [], "notes": []}
                ),
            )
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise not_a_summary(path, error) from error
    return "\n".join(_group_markdown(group, brief) for group in merged.values())


def _merge(summary: dict[str, Any], group: dict[str, Any]) -> None:
    """Add a summary's rows and notes to those of the same protocol; other weights under the same name get another."""
    model = next(iter(summary["rows"]))
    for name, row in summary["rows"].items():
        known = group["rows"].get(name, row)
        if known["weights_sha256"] != row["weights_sha256"]:
            name = f"{name} ({row['run']}, {row['weights_sha256'][:6]})"
        group["rows"].setdefault(name, row)
    group["missing_rows"] |= summary["missing_rows"]
    protocol = f"{model}: {protocol_line(summary['protocol'])}"
    if protocol not in group["protocols"]:
        group["protocols"].append(protocol)
    notes = [protocol]
    notes += [f"{model} {line}" for line in difference_lines(summary)] + provenance_lines(summary)
    group["notes"] += [note for note in notes if note not in group["notes"]]
    if "agreement_bounds" in summary:
        group.setdefault("agreement_bounds", summary["agreement_bounds"])
        lines = agreement_lines(summary)
        found = group.setdefault("agreement_notes", [])
        found += [
            note
            for note in (lines[0], *(f"{model}: {line}" for line in lines[1:]))
            if note not in found
        ]


def _group_markdown(group: dict[str, Any], brief: bool) -> str:
    missing = {
        name: note for name, note in group["missing_rows"].items() if name not in group["rows"]
    }
    text = _markdown_rows(*table_cells({"rows": group["rows"], "missing_rows": missing}))
    text += "\n" + "".join(f"- {note}\n" for note in group["protocols" if brief else "notes"])
    if brief or "agreement_bounds" not in group:
        return text
    measured = {name: row for name, row in group["rows"].items() if "agreement" in row}
    text += "\n" + _markdown_rows(*agreement_cells(group | {"rows": measured}))
    return text + "\n" + "".join(f"- {note}\n" for note in group["agreement_notes"])


def _markdown_rows(head: list[str], lines: list[list[str]]) -> str:
    """Markdown of a table."""
    cells = [
        [cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *lines)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
