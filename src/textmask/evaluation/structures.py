"""Scores of each named structure of a label map, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textmask.data.manifest import Row
from textmask.evaluation.scoring import Scored
from textmask.evaluation.tables import as_value, cell, markdown
from textmask.metrics.overlap import EmptyPolicy, overlap
from textmask.metrics.statistics import bootstrap_ci

# more distinct prompts than this are captions
MOST = 50
HEAD = ["structure", "n", "empty masks", "dice_per_image", "iou_per_image"]
MEAN = "mean of structures"


def names_structures(rows: Sequence[Row]) -> bool:
    """Whether the prompts are names of the structures of label maps, not sentences of their own."""
    return any(row.label for row in rows) and len({row.text for row in rows}) <= MOST


def structure_scores(
    row: Scored, groups: list[str], policy: EmptyPolicy, n: int, seed: int
) -> list[dict[str, Any]]:
    """Scores of one run per prompt, in order of first appearance.

    Args:
        row: a scored run; the prompts of its data name the structures.
        groups: what the N rows are grouped by for the intervals.
        policy: how rows with an empty mask and an empty prediction count.
        n: bootstrap resamples.
        seed: of the bootstrap.
    """
    found = overlap(row.counts, policy)
    names = np.array(row.prompts, dtype=object)
    scores = []
    for name in dict.fromkeys(row.prompts):
        own = names == name
        kept = np.flatnonzero(own & found.kept)
        entry: dict[str, Any] = {
            "name": name,
            "n": len(kept),
            "truth_empty": int((row.counts.true[own] == 0).sum()),
        }
        if len(kept):
            clusters = [groups[i] for i in kept]
            for metric in ("dice_per_image", "iou_per_image"):
                values = getattr(found, metric)[kept]
                entry[metric] = as_value(bootstrap_ci(values, clusters, n=n, seed=seed))
        scores.append(entry)
    return scores


def structure_cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of structures; no lines if the summary has none."""
    lines = []
    scored = [entry for entry in summary.get("structures", ()) if "dice_per_image" in entry]
    for entry in summary.get("structures", ()):
        counts = [entry["name"], str(entry["n"]), str(entry["truth_empty"])]
        figures = ["nothing to score", ""]
        if entry in scored:
            figures = [cell(entry["dice_per_image"]), cell(entry["iou_per_image"])]
        lines.append([*counts, *figures])

    # each structure counts once, however many images show it
    if scored:
        means = []
        for metric in ("dice_per_image", "iou_per_image"):
            estimates = [entry[metric]["estimate"] for entry in scored]
            means.append(f"{100 * sum(estimates) / len(estimates):.2f}")
        lines.append([MEAN, str(len(scored)), "", *means])
    return HEAD, lines


def structure_table(summary: dict[str, Any]) -> str:
    """Markdown of the table of structures; empty if the summary has none."""
    head, lines = structure_cells(summary)
    return f"{markdown(head, lines)}\n\n" if lines else ""
