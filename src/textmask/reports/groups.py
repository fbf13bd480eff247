"""Runs evaluated under one protocol, side by side: rows in one table, and paired on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from textmask.evaluation.agreement import agreement_lines
from textmask.evaluation.protocol import COMPARABLE
from textmask.evaluation.tables import Value, as_value
from textmask.metrics.statistics import (
    holm,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)
from textmask.reports.runs import Evaluated, ReportedRun

MOST_IN_PAIRS = (
    8  # runs of which every two are compared; of more each is compared with the first only
)
SIZE_OF = {
    "data_hash": "data",
    "hd95": "surface distances",
    "n": "number of images",
    "empty_policy": "empty policy",
}


@dataclass(frozen=True)
class Member:
    """One evaluation of one run in a group."""

    label: str
    run: ReportedRun
    evaluated: Evaluated

    def renamed(self, row: str) -> str:
        """The name of a row of this run's summary, the method's name replaced by the run's label."""
        return self.label + row.removeprefix(self.evaluated.model) if self.owns(row) else row

    def owns(self, row: str) -> bool:
        """Whether a row of this run's summary is the run itself, with its own or with other sentences."""
        return row == self.evaluated.model or row.startswith(f"{self.evaluated.model}, ")


@dataclass(frozen=True)
class Difference:
    """`a` minus `b` on the same images; p values are corrected after Holm within their family."""

    a: str
    b: str
    dice_per_image: Value
    dice_per_image_p: float
    dice_pooled: Value
    dice_pooled_p: float


@dataclass(frozen=True)
class Comparable:
    """Evaluations whose figures may stand in one table."""

    members: tuple[Member, ...]

    @property
    def protocol(self) -> dict[str, Any]:
        """Of the first; the fields of `COMPARABLE` are the same for all."""
        return self.members[0].evaluated.protocol

    @property
    def split(self) -> str:
        """Name of the split."""
        return str(self.protocol["split"])


def grouped(runs: Sequence[ReportedRun]) -> list[Comparable]:
    """The evaluations of all runs, those that are comparable together, in the order in which they come."""
    found: dict[str, list[tuple[ReportedRun, Evaluated]]] = {}
    for run in runs:
        for evaluated in run.evaluations:
            found.setdefault(evaluated.key, []).append((run, evaluated))
    return [Comparable(_members(pairs)) for pairs in found.values()]


def _members(pairs: Sequence[tuple[ReportedRun, Evaluated]]) -> tuple[Member, ...]:
    labels = [run.label for run, _ in pairs]
    names = [
        label if labels.count(label) == 1 else f"{label} ({evaluated.folder.name})"
        for label, (_, evaluated) in zip(labels, pairs, strict=True)
    ]
    return tuple(
        Member(name, run, evaluated) for name, (run, evaluated) in zip(names, pairs, strict=True)
    )


def why_apart(group: Comparable, groups: Sequence[Comparable]) -> list[str]:
    """Why further evaluations of a split of the same name do not stand in this group's table."""
    notes = []
    for other in groups:
        if other is not group and other.split == group.split:
            fields = [name for name in COMPARABLE if other.protocol[name] != group.protocol[name]]
            what = ", ".join(SIZE_OF.get(name, name) for name in fields)
            names = ", ".join(member.label for member in other.members)
            notes.append(
                f"Not comparable with {names} on {other.split}, which has another {what}: shown separately."
            )
    return notes


def merged(group: Comparable) -> dict[str, Any]:
    """The rows of all members as one summary; a row that several of them hold stands once.

    Agreement is left out of rows whose zones were read in another way than those of the bounds, which are the first's.
    """
    methods = {member.run.method for member in group.members}
    bounds = next((found for member in group.members if (found := _agreement_bounds(member))), None)
    rows: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for member, names in zip(group.members, _shown_names(group), strict=True):
        fits = bounds is not None and _agreement_bounds(member).get("zones") == bounds["zones"]
        for name, shown in names.items():
            row = member.evaluated.summary["rows"][name]
            rows.setdefault(
                shown, row if fits else {key: row[key] for key in row if key != "agreement"}
            )
        missing |= {
            member.renamed(name): note
            for name, note in member.evaluated.summary["missing_rows"].items()
        }
    missing = {
        name: note for name, note in missing.items() if name not in rows and name not in methods
    }
    return {"rows": rows, "missing_rows": missing} | (
        {"agreement_bounds": bounds} if bounds else {}
    )


def _agreement_bounds(member: Member) -> dict[str, Any]:
    found: dict[str, Any] = member.evaluated.summary.get("agreement_bounds") or {}
    return found


def _shown_names(group: Comparable) -> list[dict[str, str]]:
    """For each member the rows of its summary under the names that the report gives them.

    Rows of other runs that are members themselves are left out; other weights under a name that is taken get another.
    """
    given = {
        member.evaluated.summary["rows"][member.evaluated.model]["weights_sha256"]
        for member in group.members
    }
    taken = {
        member.renamed(name): str(row["weights_sha256"])
        for member in group.members
        for name, row in member.evaluated.summary["rows"].items()
        if member.owns(name)
    }
    found = []
    for member in group.members:
        names = {}
        for name, row in member.evaluated.summary["rows"].items():
            weights = row["weights_sha256"]
            if member.owns(name) or weights not in given:
                shown = member.renamed(name)
                if taken.setdefault(shown, weights) != weights:
                    shown = f"{shown} ({row['run']}, {weights[:6]})"
                names[name] = shown
        found.append(names)
    return found


def owners(group: Comparable) -> dict[str, int]:
    """Which run, by its number, a row of the merged summary belongs to; rows that no run owns are not among them."""
    return {
        shown: i
        for i, (member, names) in enumerate(zip(group.members, _shown_names(group), strict=True))
        for name, shown in names.items()
        if member.owns(name)
    }


def agreement_notes(group: Comparable) -> list[str]:
    """How the agreement was measured and each run's differences in it."""
    zones = next(
        (bounds["zones"] for member in group.members if (bounds := _agreement_bounds(member))), None
    )
    notes: list[str] = []
    for member in group.members:
        if _agreement_bounds(member).get("zones") != zones:
            notes.append(
                f"{member.label} is left out: its zones were read in another way, or not at all."
            )
        elif zones is not None:
            first, *lines = agreement_lines(member.evaluated.summary)
            several = len(group.members) > 1
            notes += [first, *((f"{member.label}: {line}" if several else line) for line in lines)]
    return list(dict.fromkeys(notes))


def own_differences(group: Comparable) -> list[Difference]:
    """Each run minus the other rows of its own evaluation, as `evaluate` measured them."""
    fields = ("dice_per_image", "dice_per_image_p", "dice_pooled", "dice_pooled_p")
    return [
        Difference(member.label, names[entry["minus"]], *(entry[field] for field in fields))
        for member, names in zip(group.members, _shown_names(group), strict=True)
        for entry in member.evaluated.summary["differences"]
        if entry["minus"] in names
    ]


def paired_differences(
    group: Comparable, n: int = 2000, permutations: int = 10_000, seed: int = 0
) -> tuple[list[Difference], list[str]]:
    """Runs minus each other, from their stored figures per image, and notes on the pairs that cannot be formed."""
    members = group.members
    every_two = len(members) <= MOST_IN_PAIRS
    pairs = (
        list(combinations(members, 2))
        if every_two
        else [(members[0], other) for other in members[1:]]
    )
    notes = [] if every_two else [f"Of {len(members)} runs each is compared with the first only."]
    found = []
    for a, b in pairs:
        x, y = a.evaluated.per_image, b.evaluated.per_image
        kept = (
            np.isfinite(x.dice) & np.isfinite(y.dice)
            if x.images == y.images
            else np.zeros(0, np.bool_)
        )
        if x.images != y.images or not np.array_equal(x.counts.true, y.counts.true):
            notes.append(
                f"{a.label} and {b.label} are not paired: their images or true masks differ."
            )
        elif not kept.any():
            notes.append(f"{a.label} and {b.label} are not paired: no image has a score in both.")
        else:
            found.append(_difference(a, b, kept, n, permutations, seed))
    return _corrected(found), notes


def _difference(
    a: Member, b: Member, kept: Any, n: int, permutations: int, seed: int
) -> Difference:
    x, y = a.evaluated.per_image, b.evaluated.per_image
    names = [name for name, keep in zip(x.groups, kept, strict=True) if keep]
    pair = x.dice[kept], y.dice[kept], names
    pooled = x.counts, y.counts, x.groups
    return Difference(
        a.label,
        b.label,
        as_value(paired_difference(*pair, n=n, seed=seed)),
        paired_permutation(*pair, n=permutations, seed=seed),
        as_value(paired_difference_pooled(*pooled, "dice", n=n, seed=seed)),
        paired_permutation_pooled(*pooled, "dice", n=permutations, seed=seed),
    )


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    first, second = (
        holm([getattr(d, name) for d in found]) for name in ("dice_per_image_p", "dice_pooled_p")
    )
    return [
        Difference(d.a, d.b, d.dice_per_image, p, d.dice_pooled, q)
        for d, p, q in zip(found, first, second, strict=True)
    ]


def shared(group: Comparable, value: Callable[[Member], str]) -> str:
    """One text for all members, or one each where they differ."""
    texts = {member.label: value(member) for member in group.members}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{label}: {text}" for label, text in texts.items())
