"""Agreement of masks and prompts: the F1 of every row, compared with that of true masks and of foreign masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textmask.data.shuffled_text import read_prompts, shuffled_prompts
from textmask.evaluation.bootstrap import Bootstrap
from textmask.evaluation.records import (
    Agreement,
    AgreementBounds,
    AspectScore,
    Subset,
    SubsetAgreement,
    Value,
)
from textmask.evaluation.summary import EvaluationSummary, SummaryRow
from textmask.evaluation.tables import bullets, cell, markdown
from textmask.metrics.agreement import agreement, location, one_sided, shown
from textmask.metrics.overlap import Bools, Counts
from textmask.statement import Statement

if TYPE_CHECKING:
    from textmask.evaluation.scoring import Measured, Scorer

SUBSETS: dict[Subset, str] = {
    "all": "all prompts",
    "one_sided": "prompts that name one side",
}
PLACES = ("side", "level", "location")
AspectCounts = dict[str, Counts]


@dataclass(frozen=True)
class MeasuredAgreement:
    """Agreement of all rows of an evaluation, and the paired differences of the first row to each other row."""

    rows: dict[str, Agreement]
    differences: dict[str, dict[Subset, dict[str, Value]]]
    bounds: AgreementBounds


def measure_agreement(
    rows: Sequence[Measured], scorer: Scorer, bootstrap: Bootstrap
) -> MeasuredAgreement:
    """Measure how far the masks of every row obey their prompts.

    A row with other prompts is judged by those that its model was given; a row without prompts, and the bounds, by the
    image's own. The ceiling is the score of the true masks. The floor is that of another image's true masks, one whose
    prompt names other zones wherever the data allow it.

    Args:
        rows: the model first.
        scorer: of the split.
        bootstrap: over its N images.
    """
    own = scorer.data.statements
    subsets: dict[Subset, Bools] = {
        "all": np.ones(len(own), np.bool_),
        "one_sided": one_sided(own),
    }

    def measured(counts: AspectCounts) -> Agreement:
        return Agreement(
            all=_subset_agreement(counts, subsets["all"], bootstrap),
            one_sided=_subset_agreement(counts, subsets["one_sided"], bootstrap),
        )

    # counted once per row, then resampled for each subset
    counted = {row.name: agreement(row.shown, _judged_by(row, scorer)) for row in rows}
    for kept in subsets.values():
        _prepare_f1(list(counted.values()), kept, bootstrap)
    first, *others = counted
    differences = {}
    for name in others:
        differences[name] = {
            subset: _f1_differences(counted[first], counted[name], kept, bootstrap)
            for subset, kept in subsets.items()
        }

    # what a perfect model and a model with another image's prompt would reach
    truth = shown(np.asarray(scorer.data.masks), own, scorer.zones)
    foreign = read_prompts(shuffled_prompts(scorer.data, bootstrap.seed)[0], scorer.data.rows)
    return MeasuredAgreement(
        rows={name: measured(counts) for name, counts in counted.items()},
        differences=differences,
        bounds=AgreementBounds(
            ceiling=measured(agreement(truth, own)),
            floor=measured(agreement(truth, foreign)),
            zones=scorer.zones or "by the grammar of each sentence",
        ),
    )


def agreement_cells(
    rows: Mapping[str, SummaryRow], bounds: AgreementBounds
) -> tuple[list[str], list[list[str]]]:
    """Header and lines: F1 of side, level and both together; rows without agreement are left out."""
    head = ["row"]
    for subset, title in SUBSETS.items():
        n = bounds.ceiling.subsets[subset].n
        head += [f"{aspect} F1, {title} ({n})" for aspect in PLACES]

    # the bounds come last, as two more rows
    listed = {name: row.agreement for name, row in rows.items()}
    listed["true masks (ceiling)"] = bounds.ceiling
    listed["masks of other images (floor)"] = bounds.floor
    lines = []
    for name, found in listed.items():
        if found is not None:
            scores = [*found.all.places.values(), *found.one_sided.places.values()]
            lines.append([name, *map(_f1_cell, scores)])
    return head, lines


def agreement_lines(summary: EvaluationSummary) -> list[str]:
    """How the table was made, and the model's F1 minus that of each other row judged by the same prompts."""
    bounds = summary.agreement_bounds
    if bounds is None:
        return []
    lines = [
        "F1 of the sides and levels that the prompt names against those that the mask shows, percent; zones read "
        f"{bounds.zones}. Rows with shuffled text are judged by the prompt they were given, on the same images: the "
        "second half of the columns holds those whose own prompt names one side."
    ]

    # rows judged by other prompts have no differences
    for entry in summary.differences:
        parts = []
        for subset, values in (entry.agreement or {}).items():
            parts += [
                f"{aspect}, {SUBSETS[subset]}, {cell(value)}" for aspect, value in values.items()
            ]
        if parts:
            lines.append(f"agreement minus {entry.minus}: {'; '.join(parts)}")
    return lines


def agreement_table(summary: EvaluationSummary) -> str:
    """Markdown of both, or nothing if no agreement was measured."""
    if summary.agreement_bounds is None:
        return ""
    table = markdown(*agreement_cells(summary.rows, summary.agreement_bounds))
    return f"{table}\n\n{bullets(agreement_lines(summary))}"


def _f1_cell(score: AspectScore | None) -> str:
    return "says nothing" if score is None else cell(score.f1)


def _judged_by(row: Measured, scorer: Scorer) -> tuple[Statement, ...]:
    """The prompts that a row's masks should obey, as statements."""
    if row.prompts == scorer.data.prompts or not any(row.prompts):
        return scorer.data.statements
    return read_prompts(row.prompts, scorer.data.rows)


def _subset_agreement(counts: AspectCounts, kept: Bools, bootstrap: Bootstrap) -> SubsetAgreement:
    """F1 with its interval, precision and recall per aspect; an aspect that no prompt names is None."""
    some = bootstrap.take(kept)
    scores: dict[str, AspectScore] = {}
    for aspect, all_counts in {**counts, "location": location(counts)}.items():
        part = all_counts.take(kept)
        predicted, true, both = (
            int(column.sum()) for column in (part.predicted, part.true, part.intersection)
        )
        if true:
            scores[aspect] = AspectScore(
                f1=some.pooled(part, "dice"),
                precision=both / predicted if predicted else None,
                recall=both / true,
            )
    return SubsetAgreement(n=int(kept.sum()), **scores)


def _prepare_f1(counted: Sequence[AspectCounts], kept: Bools, bootstrap: Bootstrap) -> None:
    """Draw the resamples of all rows and aspects together."""
    columns: list[np.ndarray] = []
    for counts in counted:
        for found in (*counts.values(), location(counts)):
            part = found.take(kept)
            if part.true.any():
                columns += [part.intersection, part.predicted, part.true]
    bootstrap.take(kept).prepare(columns)


def _f1_differences(
    a: AspectCounts, b: AspectCounts, kept: Bools, bootstrap: Bootstrap
) -> dict[str, Value]:
    """Paired differences of F1; none if the two were judged by different prompts, or if no prompt names the aspect."""
    some = bootstrap.take(kept)
    both = {
        "side": (a["side"], b["side"]),
        "level": (a["level"], b["level"]),
        "location": (location(a), location(b)),
    }
    found = {}
    for aspect, (x, y) in both.items():
        first, second = x.take(kept), y.take(kept)
        if first.true.sum() and np.array_equal(first.true, second.true):
            found[aspect] = some.pooled_difference(first, second, "dice")
    return found
