"""Agreement of mask and sentence in a summary: every row's F1 beside what true and foreign masks reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from textmask.data.shuffled_text import read_prompts, shuffled_prompts
from textmask.evaluation.tables import as_value, cell, markdown
from textmask.metrics.agreement import ASPECTS, agreement, location, one_sided, shown
from textmask.metrics.overlap import Bools, Counts
from textmask.metrics.statistics import bootstrap_pooled, paired_difference_pooled
from textmask.statement import Statement

if TYPE_CHECKING:
    from textmask.evaluation.scoring import Scored, Scorer

SUBSETS = {"all": "all sentences", "one_sided": "sentences that name one side"}
COLUMNS = ("side", "level", "location")
Found = dict[str, dict[str, Any]]


def add_agreement(
    summary: dict[str, Any],
    rows: Sequence[Scored],
    scorer: Scorer,
    groups: list[str],
    n: int,
    seed: int,
) -> None:
    """Write `agreement` into every row and difference of a summary, and `agreement_bounds` beside them.

    A row with other sentences is judged by those that its model was given; one without sentences, and the bounds, by
    the picture's own. The ceiling is the score of the true masks; the floor that of another picture's true masks, one
    whose sentence names other zones wherever the data allow it.
    """
    own = scorer.data.statements
    subsets = {"all": np.ones(len(own), np.bool_), "one_sided": one_sided(own)}
    counted = {row.name: agreement(row.shown, _judged_by(row, scorer)) for row in rows}

    def found(counts: dict[str, Counts]) -> Found:
        return {
            name: _scores(
                counts, kept, [g for g, keep in zip(groups, kept, strict=True) if keep], n, seed
            )
            for name, kept in subsets.items()
        }

    for row in rows:
        summary["rows"][row.name]["agreement"] = found(counted[row.name])
    truth = shown(np.asarray(scorer.data.masks), own, scorer.zones)
    foreign = read_prompts(shuffled_prompts(scorer.data, seed)[0], scorer.data.rows)
    summary["agreement_bounds"] = {
        "ceiling": found(agreement(truth, own)),
        "floor": found(agreement(truth, foreign)),
        "zones": scorer.zones or "by the grammar of each sentence",
    }
    for entry, other in zip(summary["differences"], rows[1:], strict=True):
        entry["agreement"] = {
            name: _f1_differences(counted[rows[0].name], counted[other.name], kept, groups, n, seed)
            for name, kept in subsets.items()
        }


def agreement_cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: F1 of side, level and both together, over all sentences and over those that name one side."""
    bounds = summary["agreement_bounds"]
    rows = {name: row["agreement"] for name, row in summary["rows"].items()}
    rows |= {
        "true masks (ceiling)": bounds["ceiling"],
        "masks of other pictures (floor)": bounds["floor"],
    }
    counts = {name: bounds["ceiling"][name]["n"] for name in SUBSETS}
    head = [
        "row",
        *(
            f"{aspect} F1, {title} ({counts[name]})"
            for name, title in SUBSETS.items()
            for aspect in COLUMNS
        ),
    ]
    return head, [
        [name, *(_f1_cell(row[subset], aspect) for subset in SUBSETS for aspect in COLUMNS)]
        for name, row in rows.items()
    ]


def agreement_lines(summary: dict[str, Any]) -> list[str]:
    """How the table was made, and the model's F1 minus that of each other row judged by the same sentences."""
    lines = [
        "F1 of the sides and levels that the sentence names against those that the mask shows, percent; zones read "
        f"{summary['agreement_bounds']['zones']}. Rows with shuffled text are judged by the sentence they were "
        "given, on the same pictures: the second half of the columns holds those whose own sentence names one side."
    ]
    for entry in summary["differences"]:
        parts = [
            f"{aspect}, {title}, {cell(entry['agreement'][name][aspect])}"
            for name, title in SUBSETS.items()
            for aspect in COLUMNS
            if aspect in entry["agreement"][name]
        ]
        if parts:
            lines.append(f"agreement minus {entry['minus']}: {'; '.join(parts)}")
    return lines


def agreement_table(summary: dict[str, Any]) -> str:
    """Markdown of both."""
    head, lines = agreement_cells(summary)
    return (
        f"{markdown(head, lines)}\n\n"
        + "\n".join(f"- {line}" for line in agreement_lines(summary))
        + "\n"
    )


def _f1_cell(found: dict[str, Any], aspect: str) -> str:
    return cell(found[aspect]["f1"]) if aspect in found else "says nothing"


def _judged_by(row: Scored, scorer: Scorer) -> tuple[Statement, ...]:
    """The sentences that a row's masks should obey."""
    if row.prompts == scorer.data.prompts or not any(row.prompts):
        return scorer.data.statements
    return read_prompts(row.prompts, scorer.data.rows)


def _scores(
    counts: dict[str, Counts], kept: Bools, groups: list[str], n: int, seed: int
) -> dict[str, Any]:
    """F1 with its interval, precision and recall per aspect; an aspect that no sentence speaks of is left out."""
    found: dict[str, Any] = {"n": int(kept.sum())}
    for aspect, all_counts in (counts | {"location": location(counts)}).items():
        part = all_counts.take(kept)
        predicted, true, both = (
            int(getattr(part, key).sum()) for key in ("predicted", "true", "intersection")
        )
        if true:
            found[aspect] = {
                "f1": as_value(bootstrap_pooled(part, groups, "dice", n=n, seed=seed)),
                "precision": both / predicted if predicted else None,
                "recall": both / true,
            }
    return found


def _f1_differences(
    a: dict[str, Counts], b: dict[str, Counts], kept: Bools, groups: list[str], n: int, seed: int
) -> dict[str, Any]:
    """Paired differences of F1; none where the two were judged by different sentences, or by none."""
    names = [group for group, keep in zip(groups, kept, strict=True) if keep]
    both = {
        aspect: (a[aspect].take(kept), b[aspect].take(kept))
        for aspect in ASPECTS
        if aspect in COLUMNS
    }
    both["location"] = (location(a).take(kept), location(b).take(kept))
    return {
        aspect: as_value(paired_difference_pooled(x, y, names, "dice", n=n, seed=seed))
        for aspect, (x, y) in both.items()
        if x.true.sum() and np.array_equal(x.true, y.true)
    }
