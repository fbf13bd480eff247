"""Files of an evaluation."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import SplitData
from textmask.errors import CheckpointError
from textmask.evaluation.agreement import agreement_table
from textmask.evaluation.protocol import provenance_lines
from textmask.evaluation.scoring import SURFACE, Scored, Scorer
from textmask.evaluation.structures import structure_table
from textmask.evaluation.tables import evaluation_table
from textmask.io.files import read_json, write_json, write_whole
from textmask.io.images import write_png
from textmask.io.spreadsheets import safe_cell
from textmask.metrics.overlap import EmptyPolicy, overlap
from textmask.plots.overlays import error_overlay, overlay, side_by_side
from textmask.runs import layout

CASES = 4


def read_summary(run: Path, split: str) -> dict[str, Any]:
    """A summary written by `evaluate`.

    Raises:
        CheckpointError: the run has not been evaluated on that split.
    """
    path = run / layout.EVALUATION / split / layout.SUMMARY
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist. Evaluate first: textmask evaluate {run} DATA --split {split}."
        )
    return read_json(path)


def write_evaluation(
    out: Path,
    summary: dict[str, Any],
    rows: list[Scored],
    scorer: Scorer,
    probabilities: np.ndarray,
) -> None:
    """Write all files; summary.json comes last and says that the others are there."""
    (out / "cases").mkdir(parents=True, exist_ok=True)
    policy: EmptyPolicy = rows[0].run.recipe.empty_policy
    write_whole(
        out / layout.PER_IMAGE,
        _per_image_csv(rows, scorer.data, policy).encode("utf-8", "backslashreplace"),
    )
    facts = "\n".join(f"- {line}" for line in provenance_lines(summary))
    write_whole(
        out / "table.md",
        f"{evaluation_table(summary)}\n{structure_table(summary)}{agreement_table(summary)}\n{facts}\n".encode(),
    )
    scorer.store(rows[0], out / layout.SCORES)
    _write_cases(out / "cases", rows[0], probabilities, scorer.data)
    write_json(out / layout.SUMMARY, summary)


def _per_image_csv(rows: list[Scored], data: SplitData, policy: EmptyPolicy) -> str:
    """CSV text: one line an image and row; `text` is the sentence that the row's model was given."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    surface = [f"{name}_px" for name in SURFACE] if rows[0].surface else []
    overlaps = ["dice_per_image", "iou_per_image", "intersection", "predicted", "true"]
    writer.writerow(["row", "image", "group", "text", *overlaps, *surface])
    for row in rows:
        found = overlap(row.counts, policy)
        columns: list[np.ndarray] = [found.dice_per_image, found.iou_per_image]
        columns += [row.counts.intersection, row.counts.predicted, row.counts.true]
        columns += [getattr(row.surface, name) for name in SURFACE] if row.surface else []
        for key, item, text, *values in zip(
            data.keys, data.rows, row.prompts, *columns, strict=True
        ):
            words = [safe_cell(cell) for cell in (row.name, key, item.group, text)]
            writer.writerow([*words, *(f"{v:.6f}" if isinstance(v, float) else v for v in values)])
    return stream.getvalue()


def _write_cases(out: Path, row: Scored, probabilities: np.ndarray, data: SplitData) -> None:
    """Overlays of the best, median and worst images at the run's size, and cases.json that says which they are."""
    recipe = row.run.recipe
    found = overlap(row.counts, recipe.empty_policy)
    order = np.flatnonzero(found.kept)
    order = order[np.argsort(-found.dice_per_image[order], kind="stable")]
    middle = max(len(order) // 2 - CASES // 2, 0)
    chosen = {
        "best": order[:CASES],
        "median": order[middle : middle + CASES],
        "worst": order[::-1][:CASES],
    }
    cases = []
    for kind, numbers in chosen.items():
        for rank, i in enumerate(numbers):
            picture = np.ascontiguousarray(np.asarray(data.images[i]).transpose(1, 2, 0))
            picture = picture[:, :, 0] if picture.shape[2] == 1 else picture
            predicted, true = probabilities[i] > recipe.threshold, np.asarray(data.masks[i])
            panels = [picture, overlay(picture, true), error_overlay(picture, predicted, true)]
            name = f"{kind}-{rank + 1}.png"
            write_png(out / name, side_by_side(panels, ["image", "truth", "prediction"]))
            dice = float(found.dice_per_image[i])
            words = {"image": data.keys[i], "text": data.prompts[i]}
            cases.append({"file": name, "kind": kind, **words, "dice_per_image": dice})
    write_json(out / "cases.json", {"cases": cases})
