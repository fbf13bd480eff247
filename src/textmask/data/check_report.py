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
class Finding:
    """One thing to know of a data set.

    Attributes:
        code: stable short name.
        severity: "error": do not use it like this; "warning": figures will be off; "note": good to know.
        message: what, how often, what to do.
        keys: the rows concerned.
    """

    code: str
    severity: Severity
    message: str
    keys: tuple[str, ...] = ()


@dataclass
class CheckReport:
    """Findings and measurements of one data set."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def add(self, code: str, severity: Severity, message: str, rows: Iterable[Row] = ()) -> None:
        """Note a finding."""
        self.findings.append(
            Finding(code, severity, message, tuple(dict.fromkeys(row.image for row in rows)))
        )

    @property
    def has_errors(self) -> bool:
        """Whether something must be mended before use."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """Everything, as JSON text."""
        content = {
            "name": self.name,
            "measured": self.measured,
            "findings": [asdict(f) for f in self.findings],
        }
        return json.dumps(content, indent=2, ensure_ascii=False)


def summary_rows(report: CheckReport, keys: int = 3) -> list[tuple[str, str, str, str]]:
    """(severity, code, message, first keys) of each finding, worst first, to print as a table."""

    def first(finding: Finding) -> str:
        more = len(finding.keys) - keys
        return ", ".join(finding.keys[:keys]) + (f" and {more} more" if more > 0 else "")

    return [
        (finding.severity, finding.code, finding.message, first(finding))
        for finding in report.findings
    ]


def part_of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / max(whole, 1):.1f} %)"
