"""Figures of perturbations next to the clean ones of the same images: rows, Markdown, per-image lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from textmask.errors import CheckpointError
from textmask.evaluation.bootstrap import Bootstrap
from textmask.evaluation.records import Overlapped, PerturbationRow, Value
from textmask.evaluation.scores import SCORES, ImageScores, write_scores
from textmask.evaluation.summary import RobustnessSummary, write_typed
from textmask.evaluation.tables import bullets, cell, markdown, protocol_line
from textmask.io.files import write_whole
from textmask.io.locks import only_replacer
from textmask.io.spreadsheets import safe_cell
from textmask.io.staging import staged
from textmask.metrics.agreement import agreement, location
from textmask.metrics.overlap import Counts, counts, overlap
from textmask.statement import Statement
from textmask.studies.robustness.perturbations import PerturbedResult, RobustnessBench

NOTHING = "no prompt could be rewritten"
HEAD = (
    "kind",
    "severity",
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
Column = Callable[[PerturbationRow], Value | int | None]


class RobustnessStudy(NamedTuple):
    """A finished study: its folder, what is in summary.json, and table.md."""

    out: Path
    summary: RobustnessSummary
    table: str


@dataclass
class PerturbationTable:
    """Takes the results of a bench, the clean one first, and makes a row of each.

    A row's figures are over the images that the perturbation changed; its differences are to the clean masks of the
    same images, paired.

    Attributes:
        bench: where the results come from.
        rows: so far.
        lines: of per_image.csv.
        scores: name of a perturbation -> scores of all N images.
        clean: the first result.
    """

    bench: RobustnessBench
    rows: list[PerturbationRow] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)
    scores: dict[str, ImageScores] = field(default_factory=dict)
    clean: PerturbedResult | None = None

    @property
    def bootstrap(self) -> Bootstrap:
        """Over all N images."""
        options = self.bench.options
        return Bootstrap(self.bench.groups, options.n_bootstrap, options.seed)

    def add(self, result: PerturbedResult) -> PerturbationRow:
        """The row of a result; the figures of each image are kept for the files."""
        if self.clean is None:
            self.clean = result
        row = self._row(result, self.clean)
        self.rows.append(row)
        self._keep_images(result, self.clean)
        return row

    def _row(self, result: PerturbedResult, clean: PerturbedResult) -> PerturbationRow:
        kept, perturbation = result.changed, result.perturbation
        row = PerturbationRow(
            kind=perturbation.kind, severity=perturbation.severity, n=int(kept.sum())
        )
        if not kept.any():
            return row.model_copy(update={"note": NOTHING})

        # figures are over the changed images only
        some = self.bootstrap.take(kept)
        new, old = result.scored.counts.take(kept), clean.scored.counts.take(kept)
        own = _places(result, clean.statements).take(kept)
        given = _places(result, result.statements).take(kept)
        before = _places(clean, clean.statements).take(kept)
        pairs = zip(clean.statements, result.statements, kept, strict=True)

        figures = {
            "location_own": some.pooled(own, "dice") if own.true.sum() else None,
            "location_given": some.pooled(given, "dice") if given.true.sum() else None,
            "read_the_same": sum(bool(keep) and same_claim(a, b) for a, b, keep in pairs),
            "empty_masks": int((new.predicted == 0).sum()),
            "iou_to_clean": self._moved(result, clean),
        }
        if own.true.sum():
            figures["location_own_minus_clean"] = some.pooled_difference(own, before, "dice")
        return self._with_overlaps(row, new, old, some).model_copy(update=figures)

    def _with_overlaps(
        self, row: PerturbationRow, new: Counts, old: Counts, bootstrap: Bootstrap
    ) -> PerturbationRow:
        """Add overlap with the truth and paired differences; an image that the empty policy skips is in neither."""
        policy = self.bench.run.recipe.empty_policy
        a, b = overlap(new, policy), overlap(old, policy)
        both = a.kept & b.kept
        figures: dict[str, Value | int] = {
            "n_scored": int(both.sum()),
            "dice_pooled": bootstrap.pooled(new, "dice"),
            "dice_pooled_minus_clean": bootstrap.pooled_difference(new, old, "dice"),
            "iou_pooled": bootstrap.pooled(new, "iou"),
            "iou_pooled_minus_clean": bootstrap.pooled_difference(new, old, "iou"),
        }

        # the empty policy may leave no image at all
        if both.any():
            some = bootstrap.take(both)
            dice, clean_dice = a.dice_per_image[both], b.dice_per_image[both]
            iou, clean_iou = a.iou_per_image[both], b.iou_per_image[both]
            figures["dice_per_image"] = some.mean(dice)
            figures["dice_per_image_minus_clean"] = some.difference(dice, clean_dice)
            figures["iou_per_image"] = some.mean(iou)
            figures["iou_per_image_minus_clean"] = some.difference(iou, clean_iou)
        return row.model_copy(update=figures)

    def _moved(self, result: PerturbedResult, clean: PerturbedResult) -> Overlapped:
        """IoU of the masks to the clean ones, over images where at least one of the two is not empty."""
        found = overlap(counts(result.masks, clean.masks), "skip")
        kept = result.changed & found.kept
        if not kept.any():
            return Overlapped(n=0, mean=None, median=None)
        values = found.iou_per_image[kept]
        return Overlapped(
            n=int(kept.sum()),
            mean=self.bootstrap.take(kept).mean(values),
            median=float(np.median(values)),
        )

    def _keep_images(self, result: PerturbedResult, clean: PerturbedResult) -> None:
        perturbation, found = result.perturbation, result.scored.counts
        policy = self.bench.run.recipe.empty_policy
        scores = ImageScores.of(
            self.bench.data.keys, self.bench.data.rows, result.prompts, found, policy, {}
        )
        self.scores[perturbation.name] = scores

        # unchanged images are listed too, with their clean masks
        moved = overlap(counts(result.masks, clean.masks)).iou_per_image
        for i, image in enumerate(scores.images):
            words = [safe_cell(word) for word in (image, scores.groups[i], scores.prompts[i])]
            pixels = (found.intersection[i], found.predicted[i], found.true[i])
            self.lines.append(
                [
                    perturbation.kind,
                    str(perturbation.severity),
                    *words,
                    str(int(result.changed[i])),
                    f"{scores.dice[i]:.6f}",
                    f"{moved[i]:.6f}",
                    *map(str, pixels),
                ]
            )


def same_claim(a: Statement, b: Statement) -> bool:
    """Whether the grammar reads the same places, and the same about absence."""
    return a.zones == b.zones and a.absent == b.absent


def perturbation_cells(
    rows: Sequence[PerturbationRow], columns: Mapping[str, Column]
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of rows: kind, severity, images, then the given columns (heading -> figure of a row)."""
    lines = []
    for row in rows:
        line = [row.kind, f"{row.severity:g}" if row.severity else "", str(row.n)]
        if row.n:
            line += [_figure_text(figure(row)) for figure in columns.values()]
        else:
            line += [row.note or NOTHING, *[""] * (len(columns) - 1)]
        lines.append(line)
    return ["kind", "severity", "n", *columns], lines


def write_robustness(
    table: PerturbationTable,
    summary: RobustnessSummary,
    columns: Mapping[str, Column],
    notes: Sequence[str],
    png: bytes,
) -> RobustnessStudy:
    """Write per_image.csv, scores.csv, table.md, plot.png and summary.json, all at once.

    Args:
        table: all rows.
        summary: of the study.
        columns: of the table, heading -> figure of a row.
        notes: lines before the protocol.
        png: the chart.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    out = table.bench.out
    rows = markdown(*perturbation_cells(table.rows, columns))
    text = f"{rows}\n\n{bullets(notes)}\n{robustness_protocol_text(summary)}\n"
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(table.lines)

    try:
        with only_replacer(out), staged(out) as folder:
            lines = stream.getvalue().encode("utf-8", "backslashreplace")
            write_whole(folder / "per_image.csv", lines)
            write_scores(folder / SCORES, table.scores)
            write_whole(folder / "table.md", text.encode())
            write_whole(folder / "plot.png", png)
            write_typed(folder / "summary.json", summary)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the study {out}: {error}. Give another folder with --out."
        ) from error
    return RobustnessStudy(out, summary, text)


def robustness_protocol_text(summary: RobustnessSummary) -> str:
    """The protocol of a study, as its table shows it."""
    protocol = summary.protocol
    limit = "all images of the split"
    if protocol.limit is not None:
        limit = f"at most {protocol.limit} images, sampled by patient"

    facts = (
        f"manifest sha256 {protocol.data_hash[:12]}",
        f"weights sha256 {protocol.weights_sha256[:12]}",
        limit,
        f"study seed {protocol.study_seed}",
        f"study commit {protocol.study_commit or 'unknown'}",
        f"zones read {protocol.zones}",
    )
    return (
        f"{protocol.method} ({protocol.run}): {protocol_line(protocol)} {'; '.join(facts)}. Figures in percent, over "
        "the n images that the perturbation changed; differences to the clean masks of the same images, paired."
    )


def _places(result: PerturbedResult, statements: Sequence[Statement]) -> Counts:
    """N, claimed sides and levels against those that the masks show."""
    return location(agreement(result.scored.shown, statements))


def _figure_text(value: Value | int | None) -> str:
    if value is None:
        return "says nothing"
    return cell(value) if isinstance(value, Value) else str(value)
