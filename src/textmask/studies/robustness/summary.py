"""Figures of variants beside the clean ones of the same pictures: rows, Markdown, per-image lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from textmask.errors import CheckpointError
from textmask.evaluation.tables import Value, as_value, cell, markdown, protocol_line
from textmask.io.files import write_json, write_whole
from textmask.io.spreadsheets import safe_cell
from textmask.metrics.agreement import agreement, location
from textmask.metrics.overlap import Bools, Counts, Floats, Kind, counts, overlap
from textmask.metrics.statistics import (
    Interval,
    bootstrap_ci,
    bootstrap_pooled,
    paired_difference,
    paired_difference_pooled,
)
from textmask.statement import Statement
from textmask.studies.robustness.perturbations import PerturbedResult, RobustnessBench

KINDS: tuple[Kind, ...] = ("dice", "iou")
NOTHING = "no sentence could be rewritten"
HEAD = (
    "image",
    "group",
    "text",
    "changed",
    "dice_per_image",
    "iou_to_clean",
    "intersection",
    "predicted",
    "true",
)
Row = dict[str, Any]


class RobustnessStudy(NamedTuple):
    """A finished study: its folder, what is in summary.json, and table.md."""

    out: Path
    summary: dict[str, Any]
    table: str


@dataclass
class PerturbationTable:
    """Takes the outcomes of a bench, the clean one first, and makes a row of each.

    A row's figures are over the pictures that the variant changed; its differences are to the clean masks of the same
    pictures, paired.

    Attributes:
        bench: where the outcomes come from.
        rows: so far.
        lines: of per_image.csv.
        clean: the first outcome.
    """

    bench: RobustnessBench
    rows: list[Row] = field(default_factory=list)
    lines: list[list[Any]] = field(default_factory=list)
    clean: PerturbedResult | None = None

    def add(self, outcome: PerturbedResult) -> Row:
        """The row of an outcome; the figures of each picture are kept for `per_image.csv`."""
        if self.clean is None:
            self.clean = outcome
        row = self._row(outcome, self.clean)
        self.rows.append(row)
        self._keep_lines(outcome, self.clean)
        return row

    def interval(self, values: Floats, kept: Bools) -> Value:
        """Mean of one figure a picture, over the N pictures that are kept, with its interval."""
        return as_value(bootstrap_ci(values, self.names(kept), **self._draws))

    def names(self, kept: Bools) -> list[str]:
        """Patients of the pictures that are kept."""
        return [group for group, keep in zip(self.bench.groups, kept, strict=True) if keep]

    def _row(self, outcome: PerturbedResult, clean: PerturbedResult) -> Row:
        kept, variant = outcome.changed, outcome.variant
        row: Row = {"kind": variant.kind, "severity": variant.severity, "n": int(kept.sum())}
        if not kept.any():
            return row | {"note": NOTHING}
        row |= self._overlaps(
            outcome.scored.counts.take(kept), clean.scored.counts.take(kept), kept
        )
        row["location_own"], row["location_given"] = (
            self._location(outcome, statements, kept)
            for statements in (clean.statements, outcome.statements)
        )
        before = self._claims(clean, clean.statements).take(kept)
        if row["location_own"] is not None:
            after = self._claims(outcome, clean.statements).take(kept)
            paired = paired_difference_pooled(
                after, before, self.names(kept), "dice", **self._draws
            )
            row["location_own_minus_clean"] = as_value(paired)
        pairs = zip(clean.statements, outcome.statements, kept, strict=True)
        row["read_the_same"] = sum(bool(keep) and same_claim(a, b) for a, b, keep in pairs)
        empty = outcome.scored.counts.predicted[kept] == 0
        row["empty_masks"] = int(empty.sum())
        return row | {"iou_to_clean": self._moved(outcome, clean)}

    def _overlaps(self, new: Counts, old: Counts, kept: Bools) -> Row:
        """Overlap with the truth and the paired differences; a picture that the empty policy skips is in neither."""
        policy = self.bench.run.recipe.empty_policy
        a, b = overlap(new, policy), overlap(old, policy)
        both, names = a.kept & b.kept, self.names(kept)
        chosen = [name for name, keep in zip(names, both, strict=True) if keep]
        row: Row = {"n_scored": int(both.sum())}
        for kind in KINDS:
            x, y = ((f.dice_per_image if kind == "dice" else f.iou_per_image)[both] for f in (a, b))
            found: dict[str, Interval] = {
                f"{kind}_pooled": bootstrap_pooled(new, names, kind, **self._draws)
            }
            found[f"{kind}_pooled_minus_clean"] = paired_difference_pooled(
                new, old, names, kind, **self._draws
            )
            if both.any():
                found[f"{kind}_per_image"] = bootstrap_ci(x, chosen, **self._draws)
                found[f"{kind}_per_image_minus_clean"] = paired_difference(
                    x, y, chosen, **self._draws
                )
            row |= {name: as_value(interval) for name, interval in found.items()}
        return row

    def _location(
        self, outcome: PerturbedResult, statements: Sequence[Statement], kept: Bools
    ) -> Value | None:
        """F1 of the sides and levels claimed; None where no sentence claims one."""
        found = self._claims(outcome, statements).take(kept)
        if not found.true.sum():
            return None
        return as_value(bootstrap_pooled(found, self.names(kept), "dice", **self._draws))

    @staticmethod
    def _claims(outcome: PerturbedResult, statements: Sequence[Statement]) -> Counts:
        return location(agreement(outcome.scored.shown, statements))

    def _moved(self, outcome: PerturbedResult, clean: PerturbedResult) -> dict[str, Any]:
        """IoU of the masks to the clean ones, where at least one of the two holds something."""
        found = overlap(counts(outcome.masks, clean.masks), "skip")
        kept = outcome.changed & found.kept
        if not kept.any():
            return {"n": 0, "mean": None, "median": None}
        values = found.iou_per_image[kept]
        return {
            "n": int(kept.sum()),
            "mean": self.interval(values, kept),
            "median": float(np.median(values)),
        }

    @property
    def _draws(self) -> dict[str, Any]:
        return {"n": self.bench.options.n_bootstrap, "seed": self.bench.options.seed}

    def _keep_lines(self, outcome: PerturbedResult, clean: PerturbedResult) -> None:
        found, data = outcome.scored.counts, self.bench.data
        dice = overlap(found, self.bench.run.recipe.empty_policy).dice_per_image
        moved = overlap(counts(outcome.masks, clean.masks)).iou_per_image
        columns = (dice, moved, found.intersection, found.predicted, found.true)
        variant = outcome.variant
        for i, (item, text) in enumerate(zip(data.rows, outcome.prompts, strict=True)):
            words = [safe_cell(word) for word in (item.image, item.group, text)]
            values = [
                f"{v:.6f}" if isinstance(v, float) else int(v)
                for v in (column[i] for column in columns)
            ]
            self.lines.append(
                [variant.kind, variant.severity, *words, int(outcome.changed[i]), *values]
            )


def same_claim(a: Statement, b: Statement) -> bool:
    """Whether the grammar reads the same places, and the same about absence."""
    return a.zones == b.zones and a.absent == b.absent


def variant_lines(rows: Sequence[Row], columns: dict[str, str]) -> list[list[str]]:
    """Cells of rows: kind, severity, pictures, then the columns of `columns` (heading -> key of the row)."""
    lines = []
    for row in rows:
        start = [row["kind"], f"{row['severity']:g}" if row["severity"] else "", str(row["n"])]
        if row["n"]:
            lines.append([*start, *(_cell_text(row.get(key)) for key in columns.values())])
        else:
            lines.append([*start, row["note"], *[""] * (len(columns) - 1)])
    return lines


def _cell_text(value: Any) -> str:
    if value is None:
        return "says nothing"
    if isinstance(value, dict):
        return (
            cell(value["mean"] or {"estimate": None, "low": None, "high": None})
            if "mean" in value
            else cell(value)
        )
    return str(value)


def write_variants(
    table: PerturbationTable,
    summary: dict[str, Any],
    columns: dict[str, str],
    notes: Sequence[str],
    png: bytes,
) -> RobustnessStudy:
    """Write per_image.csv, table.md, plot.png and, last, summary.json.

    Args:
        table: all rows.
        summary: with `protocol` and `rows`.
        columns: of the table, heading -> key of a row.
        notes: lines before the protocol.
        png: the picture.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    out = table.bench.out
    head = ["kind", "severity", "n", *columns]
    said = "\n".join(f"- {note}" for note in notes)
    text = f"{markdown(head, variant_lines(table.rows, columns))}\n\n{said}\n\n{protocol_text(summary)}\n"
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["kind", "severity", *HEAD])
    writer.writerows(table.lines)
    try:
        write_whole(out / "per_image.csv", stream.getvalue().encode("utf-8", "backslashreplace"))
        write_whole(out / "table.md", text.encode())
        write_whole(out / "plot.png", png)
        write_json(out / "summary.json", summary)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the study {out}: {error}. Give another folder with --out."
        ) from error
    return RobustnessStudy(out, summary, text)


def protocol_text(summary: dict[str, Any]) -> str:
    """The protocol of a study, as its table has it."""
    protocol = summary["protocol"]
    limit = (
        "all pictures of the split"
        if protocol["limit"] is None
        else f"at most {protocol['limit']} by patient"
    )
    facts = (
        f"table sha256 {protocol['data_hash'][:12]}",
        f"weights sha256 {protocol['weights_sha256'][:12]}",
        limit,
        f"study seed {protocol['study_seed']}",
        f"study commit {protocol['study_commit'] or 'unknown'}",
        f"zones read {protocol['zones']}",
    )
    return (
        f"{protocol['method']} ({protocol['run']}): {protocol_line(protocol)} {'; '.join(facts)}. Figures in percent, "
        "over the n pictures that the variant changed; differences to the clean masks of the same pictures, paired."
    )
