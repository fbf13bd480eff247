"""Files of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from textmask.data.loaders import SplitData
from textmask.evaluation.agreement import agreement_table
from textmask.evaluation.protocol import provenance_lines
from textmask.evaluation.records import Case, Cases
from textmask.evaluation.scores import SCORES, ImageScores, write_scores
from textmask.evaluation.scoring import Scored, Scorer
from textmask.evaluation.structures import structure_table
from textmask.evaluation.summary import EvaluationSummary, write_typed
from textmask.evaluation.tables import bullets, evaluation_table
from textmask.inference.predict_split import predict_split
from textmask.io.files import write_whole
from textmask.io.images import write_png
from textmask.metrics.overlap import Ints, overlap
from textmask.plots.overlays import error_overlay, overlay, side_by_side
from textmask.runs import layout

CASES = 4
CaseKind = Literal["best", "median", "worst"]


def write_evaluation(
    out: Path,
    summary: EvaluationSummary,
    scores: Mapping[str, ImageScores],
    scorer: Scorer,
    model: Scored,
) -> None:
    """Write all files; summary.json comes last and says that the others are there.

    Args:
        out: folder.
        summary: of the evaluation.
        scores: name of a row -> scores of its N images.
        scorer: of the split.
        model: the first row.

    Raises:
        OSError, DataError: a file cannot be written.
    """
    (out / "cases").mkdir(parents=True, exist_ok=True)
    write_scores(out / layout.PER_IMAGE, scores, prompts=True)
    write_scores(out / SCORES, scores)

    structures = structure_table(summary.structures)
    tables = f"{evaluation_table(summary)}\n{structures}{agreement_table(summary)}"
    write_whole(out / "table.md", f"{tables}\n{bullets(provenance_lines(summary))}".encode())
    scorer.store(model, out / layout.SCORES)
    _write_cases(out / "cases", model, scorer.data)
    write_typed(out / layout.SUMMARY, summary)


def _chosen_cases(row: Scored) -> dict[CaseKind, Sequence[int]]:
    """Numbers of the best, median and worst images."""
    found = overlap(row.counts, row.run.recipe.empty_policy)
    order: Ints = np.flatnonzero(found.kept)
    order = order[np.argsort(-found.dice_per_image[order], kind="stable")]
    middle = max(len(order) // 2 - CASES // 2, 0)
    return {
        "best": order[:CASES].tolist(),
        "median": order[middle : middle + CASES].tolist(),
        "worst": order[::-1][:CASES].tolist(),
    }


def _write_cases(out: Path, row: Scored, data: SplitData) -> None:
    """Overlays of some images at the run's size, and cases.json that says which they are.

    Only these few images are predicted again: the masks of a whole split are never in memory together.
    """
    recipe = row.run.recipe
    chosen = _chosen_cases(row)
    shown = sorted({i for numbers in chosen.values() for i in numbers})
    probabilities = dict(
        zip(
            shown,
            predict_split(row.run.method, data.take(np.array(shown, np.int64)), recipe),
            strict=True,
        )
    )
    dice = overlap(row.counts, recipe.empty_policy).dice_per_image
    cases = []
    for kind, numbers in chosen.items():
        for rank, i in enumerate(numbers):
            image = np.ascontiguousarray(np.asarray(data.images[i]).transpose(1, 2, 0))
            image = image[:, :, 0] if image.shape[2] == 1 else image
            predicted, true = probabilities[i] > recipe.threshold, np.asarray(data.masks[i])

            panels = [image, overlay(image, true), error_overlay(image, predicted, true)]
            name = f"{kind}-{rank + 1}.png"
            write_png(out / name, side_by_side(panels, ["image", "truth", "prediction"]))
            case = Case(
                file=name,
                kind=kind,
                image=data.keys[i],
                text=data.prompts[i],
                dice_per_image=float(dice[i]),
            )
            cases.append(case)
    write_typed(out / "cases.json", Cases(cases=tuple(cases)))
