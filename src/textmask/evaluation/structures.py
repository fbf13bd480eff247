"""Scores of each named structure of a label map, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textmask.data.manifest import Row
from textmask.evaluation.bootstrap import Bootstrap
from textmask.evaluation.records import StructureRow, Value
from textmask.evaluation.scoring import Scored
from textmask.evaluation.tables import cell, markdown
from textmask.metrics.overlap import EmptyPolicy, overlap

# more distinct prompts than this are captions
MOST = 50
HEAD = ["structure", "n", "empty masks", "dice_per_image", "iou_per_image"]
MEAN = "mean of structures"


def names_structures(rows: Sequence[Row]) -> bool:
    """Whether the prompts are names of the structures of label maps, not sentences of their own."""
    return any(row.label for row in rows) and len({row.text for row in rows}) <= MOST


def structure_scores(
    row: Scored, policy: EmptyPolicy, bootstrap: Bootstrap
) -> tuple[StructureRow, ...]:
    """Scores of one run per prompt, in order of first appearance.

    Args:
        row: a scored run; the prompts of its data name the structures.
        policy: how rows with an empty mask and an empty prediction count.
        bootstrap: of the N rows.
    """
    found = overlap(row.counts, policy)
    names = np.array(row.prompts, dtype=object)
    scores = []
    for name in dict.fromkeys(row.prompts):
        own = names == name
        kept = own & found.kept

        # a structure whose rows are all left out has no figure
        values: dict[str, Value] = {}
        if kept.any():
            some = bootstrap.take(kept)
            values["dice_per_image"] = some.mean(found.dice_per_image[kept])
            values["iou_per_image"] = some.mean(found.iou_per_image[kept])
        empty = int((row.counts.true[own] == 0).sum())
        scores.append(StructureRow(name=name, n=int(kept.sum()), truth_empty=empty, **values))
    return tuple(scores)


def structure_cells(structures: Sequence[StructureRow]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of structures; each structure counts once in the mean."""
    lines, dice, iou = [], [], []
    for row in structures:
        figures = ["nothing to score", ""]
        if row.dice_per_image is not None and row.iou_per_image is not None:
            figures = [cell(row.dice_per_image), cell(row.iou_per_image)]
            dice.append(row.dice_per_image.estimate)
            iou.append(row.iou_per_image.estimate)
        lines.append([row.name, str(row.n), str(row.truth_empty), *figures])

    if dice:
        means = [f"{100 * sum(values) / len(values):.2f}" for values in (dice, iou)]
        lines.append([MEAN, str(len(dice)), "", *means])
    return HEAD, lines


def structure_table(structures: Sequence[StructureRow]) -> str:
    """Markdown of the table of structures; empty if there are none."""
    head, lines = structure_cells(structures)
    return f"{markdown(head, lines)}\n\n" if lines else ""
