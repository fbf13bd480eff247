"""Runs evaluated under one protocol, side by side: rows in one table, and paired on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from textmask.evaluation.agreement import agreement_lines
from textmask.evaluation.bootstrap import Bootstrap, corrected
from textmask.evaluation.records import AgreementBounds
from textmask.evaluation.summary import COMPARABLE, Difference, EvaluationProtocol, SummaryRow
from textmask.reports.runs import Evaluated, ReportedRun

MOST_IN_PAIRS = 8  # with more runs each is compared with the first only
FIELD_WORDS = {
    "data_hash": "data",
    "content": "content of the files",
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

    @property
    def zones(self) -> str:
        """How masks were read for the agreement; "" if none was measured."""
        bounds = self.evaluated.summary.agreement_bounds
        return "" if bounds is None else bounds.zones

    def renamed(self, row: str) -> str:
        """The name of a row of this run's summary, the method's name replaced by the run's label."""
        return self.label + row.removeprefix(self.evaluated.model) if self.owns(row) else row

    def owns(self, row: str) -> bool:
        """Whether a row of this run's summary is the run itself, with its own or with other prompts."""
        return row == self.evaluated.model or row.startswith(f"{self.evaluated.model}, ")


@dataclass(frozen=True)
class Comparable:
    """Evaluations that may be compared in one table."""

    members: tuple[Member, ...]

    @property
    def protocol(self) -> EvaluationProtocol:
        """Of the first; the fields of `COMPARABLE` are the same for all."""
        return self.members[0].evaluated.protocol

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.protocol.split


@dataclass(frozen=True)
class MergedTable:
    """The rows of all members of a group; `bounds` is None if no member measured agreement."""

    rows: dict[str, SummaryRow]
    missing: dict[str, str]
    bounds: AgreementBounds | None


def grouped(runs: Sequence[ReportedRun]) -> list[Comparable]:
    """The evaluations of all runs, those that are comparable together, in their first order."""
    found: dict[tuple[object, ...], list[tuple[ReportedRun, Evaluated]]] = {}
    for run in runs:
        for evaluated in run.evaluations:
            found.setdefault(evaluated.protocol.comparable, []).append((run, evaluated))
    return [Comparable(_members(pairs)) for pairs in found.values()]


def _members(pairs: Sequence[tuple[ReportedRun, Evaluated]]) -> tuple[Member, ...]:
    labels = [run.label for run, _ in pairs]
    members = []
    for run, evaluated in pairs:
        # a run that was evaluated twice is named with the evaluation
        several = labels.count(run.label) > 1
        label = f"{run.label} ({evaluated.folder.name})" if several else run.label
        members.append(Member(label, run, evaluated))
    return tuple(members)


def why_apart(group: Comparable, groups: Sequence[Comparable]) -> list[str]:
    """Why further evaluations of a split of the same name are not in this group's table."""
    notes = []
    for other in groups:
        if other is group or other.split != group.split:
            continue
        values = zip(COMPARABLE, other.protocol.comparable, group.protocol.comparable, strict=True)
        differing = [FIELD_WORDS.get(name, name) for name, a, b in values if a != b]
        names = ", ".join(member.label for member in other.members)
        notes.append(
            f"Not comparable with {names} on {other.split}, which has another {', '.join(differing)}: shown separately."
        )
    return notes


def merged(group: Comparable) -> MergedTable:
    """The rows of all members in one table; a row that several of them hold appears once.

    Agreement is left out of rows whose zones were read in another way than those of the bounds, which are the first's.
    """
    bounds = next(
        (
            bounds
            for member in group.members
            if (bounds := member.evaluated.summary.agreement_bounds)
        ),
        None,
    )
    rows: dict[str, SummaryRow] = {}
    missing: dict[str, str] = {}
    for member, names in zip(group.members, _shown_names(group), strict=True):
        summary = member.evaluated.summary
        fits = bounds is not None and member.zones == bounds.zones
        for name, shown in names.items():
            row = summary.rows[name]
            rows.setdefault(shown, row if fits else row.model_copy(update={"agreement": None}))
        for name, note in summary.missing_rows.items():
            missing[member.renamed(name)] = note

    # a baseline that is itself a member is not missing
    methods = {member.run.method for member in group.members}
    kept = {name: missing[name] for name in missing if name not in rows and name not in methods}
    return MergedTable(rows, kept, bounds)


def _shown_names(group: Comparable) -> list[dict[str, str]]:
    """For each member the rows of its summary and the names that the report gives them.

    Rows of other runs that are members themselves are left out; other weights with a name that is taken get another.
    """
    # weights of the members, and the names that their own rows take
    given: set[str] = set()
    taken: dict[str, str] = {}
    for member in group.members:
        summary = member.evaluated.summary
        given.add(summary.rows[summary.model].weights_sha256)
        for name, row in summary.rows.items():
            if member.owns(name):
                taken[member.renamed(name)] = row.weights_sha256

    # other weights under a taken name are named with their run
    found = []
    for member in group.members:
        names = {}
        for name, row in member.evaluated.summary.rows.items():
            weights = row.weights_sha256
            if member.owns(name) or weights not in given:
                shown = member.renamed(name)
                if taken.setdefault(shown, weights) != weights:
                    shown = f"{shown} ({row.run}, {weights[:6]})"
                names[name] = shown
        found.append(names)
    return found


def owners(group: Comparable) -> dict[str, int]:
    """Row of the merged table -> number of the run that owns it; rows that no run owns are left out."""
    found = {}
    for i, (member, names) in enumerate(zip(group.members, _shown_names(group), strict=True)):
        for name, shown in names.items():
            if member.owns(name):
                found[shown] = i
    return found


def agreement_notes(group: Comparable) -> list[str]:
    """How the agreement was measured and each run's differences in it."""
    zones = next((member.zones for member in group.members if member.zones), "")
    notes: list[str] = []
    for member in group.members:
        if member.zones != zones:
            notes.append(
                f"{member.label} is left out: its zones were read in another way, or not at all."
            )
        elif zones:
            first, *lines = agreement_lines(member.evaluated.summary)
            several = len(group.members) > 1
            notes += [first, *(f"{member.label}: {line}" if several else line for line in lines)]
    return list(dict.fromkeys(notes))


def own_differences(group: Comparable) -> list[Difference]:
    """Each run minus the other rows of its own evaluation, as `evaluate` measured them, with the report's names."""
    found = []
    for member, names in zip(group.members, _shown_names(group), strict=True):
        for entry in member.evaluated.summary.differences:
            if entry.minus in names:
                shown = {"arm": member.label, "minus": names[entry.minus]}
                found.append(entry.model_copy(update=shown))
    return found


def paired_differences(
    group: Comparable, n: int = 2000, permutations: int = 10_000, seed: int = 0
) -> tuple[list[Difference], list[str]]:
    """Runs minus each other, from their stored scores per image, and notes on the pairs that cannot be formed.

    Args:
        group: the runs.
        n: resamples of an interval.
        permutations: relabellings behind a p value; p values are corrected after Holm over all pairs.
        seed: random seed of both.
    """
    members = group.members
    pairs = list(combinations(members, 2))
    notes = []
    if len(members) > MOST_IN_PAIRS:
        pairs = [(members[0], other) for other in members[1:]]
        notes.append(f"Of {len(members)} runs each is compared with the first only.")

    # only pairs of the same images and true masks can be formed
    found = []
    for a, b in pairs:
        x, y = a.evaluated.per_image, b.evaluated.per_image
        if x.images != y.images or not np.array_equal(x.counts.true, y.counts.true):
            notes.append(
                f"{a.label} and {b.label} are not paired: their images or true masks differ."
            )
        elif not (np.isfinite(x.dice) & np.isfinite(y.dice)).any():
            notes.append(f"{a.label} and {b.label} are not paired: no image has a score in both.")
        else:
            bootstrap = Bootstrap(x.groups, n, seed, permutations)
            found.append(bootstrap.compare(a.label, x, b.label, y))
    return list(corrected(found)), notes


def shared(group: Comparable, value: Callable[[Member], str]) -> str:
    """One text for all members, or one each if they differ."""
    texts = {member.label: value(member) for member in group.members}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{label}: {text}" for label, text in texts.items())
