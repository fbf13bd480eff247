"""The findings of a sentence in words, for reports that people read."""

from __future__ import annotations

from textmask.statement import Finding, Statement

SHOWN = 12  # findings of a sentence; more are counted


def finding_lines(statement: Statement) -> list[str]:
    """One line per finding: "Named: possible nodule, left upper, 5 mm, stable."."""
    lines = [f"Named: {describe(finding)}." for finding in statement.findings[:SHOWN]]
    more = len(statement.findings) - SHOWN
    return [*lines, f"Named: {more} more."] if more > 0 else lines


def describe(finding: Finding) -> str:
    """A finding and what is said about it, in words."""
    head = finding.kind if finding.present else f"no {finding.kind}"
    parts = [head if finding.certain else f"possible {head}"]
    if finding.zones:
        parts.append(" and ".join(sorted(f"{side} {level}" for side, level in finding.zones)))
    if finding.size_mm is not None:
        parts.append(f"{finding.size_mm:g} mm")
    return ", ".join([*parts, *([finding.change] if finding.change else []), *finding.attributes])
