"""One table of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from textmask.evaluation.agreement import agreement_cells, agreement_lines
from textmask.evaluation.protocol import provenance_lines
from textmask.evaluation.records import AgreementBounds
from textmask.evaluation.summary import EvaluationSummary, SummaryRow
from textmask.evaluation.tables import (
    bullets,
    difference_lines,
    markdown,
    protocol_line,
    table_cells,
)


@dataclass
class MergedRows:
    """The rows of several evaluations under one protocol, and the lines below their table."""

    rows: dict[str, SummaryRow] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    bounds: AgreementBounds | None = None
    protocols: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    agreement_notes: list[str] = field(default_factory=list)

    def add(self, summary: EvaluationSummary) -> None:
        """Add rows and notes; other weights under a known name get another name."""
        for name, row in summary.rows.items():
            known = self.rows.get(name, row)
            if known.weights_sha256 != row.weights_sha256:
                name = f"{name} ({row.run}, {row.weights_sha256[:6]})"
            self.rows.setdefault(name, row)
        self.missing.update(summary.missing_rows)

        protocol = f"{summary.model}: {protocol_line(summary.protocol)}"
        _add_new(self.protocols, [protocol])
        lines = [f"{summary.model} {line}" for line in difference_lines(summary.differences)]
        _add_new(self.notes, [protocol, *lines, *provenance_lines(summary)])

        if summary.agreement_bounds is not None:
            self.bounds = self.bounds or summary.agreement_bounds
            first, *others = agreement_lines(summary)
            _add_new(self.agreement_notes, [first, *(f"{summary.model}: {x}" for x in others)])

    def markdown(self, brief: bool) -> str:
        """The tables; `brief` leaves out the agreement and all lines except the protocols."""
        missing = {name: note for name, note in self.missing.items() if name not in self.rows}
        table = markdown(*table_cells(self.rows, missing))
        text = f"{table}\n\n{bullets(self.protocols if brief else self.notes)}"
        if brief or self.bounds is None:
            return text
        agreement = markdown(*agreement_cells(self.rows, self.bounds))
        return f"{text}\n{agreement}\n\n{bullets(self.agreement_notes)}"


def results_table(summaries: Sequence[EvaluationSummary], brief: bool = False) -> str:
    """Markdown of evaluations: one table per protocol; a row that several of them hold appears once.

    Args:
        summaries: the most interesting first.
        brief: below a table only its protocol, without differences and the provenance of each row.
    """
    merged: dict[tuple[object, ...], MergedRows] = {}
    for summary in summaries:
        merged.setdefault(summary.protocol.comparable, MergedRows()).add(summary)
    return "\n".join(group.markdown(brief) for group in merged.values())


def _add_new(lines: list[str], more: Sequence[str]) -> None:
    lines += [line for line in dict.fromkeys(more) if line not in lines]
