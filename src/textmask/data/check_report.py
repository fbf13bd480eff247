"""Findings about a data set, collected in a report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from textmask.data.manifest import Row

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class CheckFinding:
    """One thing to know about a data set.

    Attributes:
        code: stable short name.
        severity: "error": do not use the data like this; "warning": figures will be wrong; "note": good to know.
        message: what is wrong, how often, what to do.
        keys: images of the affected rows.
    """

    code: str
    severity: Severity
    message: str
    keys: tuple[str, ...] = ()


@dataclass
class CheckReport:
    """Findings and measurements of one data set."""

    name: str
    findings: list[CheckFinding] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def add(self, code: str, severity: Severity, message: str, rows: Iterable[Row] = ()) -> None:
        """Add a finding about some rows."""
        self.findings.append(
            CheckFinding(code, severity, message, tuple(dict.fromkeys(row.image for row in rows)))
        )

    @property
    def has_errors(self) -> bool:
        """Whether something must be fixed before use."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """The report as JSON text."""
        content = {
            "name": self.name,
            "measured": self.measured,
            "findings": [asdict(f) for f in self.findings],
        }
        return json.dumps(content, indent=2, ensure_ascii=False)


def summary_rows(report: CheckReport, keys: int = 3) -> list[tuple[str, str, str, str]]:
    """Rows (severity, code, message, first keys) of a table to print, worst first."""

    def first(finding: CheckFinding) -> str:
        more = len(finding.keys) - keys
        return ", ".join(finding.keys[:keys]) + (f" and {more} more" if more > 0 else "")

    return [
        (finding.severity, finding.code, finding.message, first(finding))
        for finding in report.findings
    ]


def part_of(part: int, whole: int) -> str:
    """Text of a count and its percentage."""
    return f"{part} of {whole} ({100 * part / max(whole, 1):.1f} %)"
