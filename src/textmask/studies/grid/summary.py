"""What a study found: every arm's mean over seeds, paired differences, and which variation each interval covers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from textmask.evaluation.bootstrap import Bootstrap
from textmask.evaluation.records import (
    ArmResult,
    Record,
    SeedFigures,
    StudyDifference,
    Value,
)
from textmask.evaluation.scores import SCORES, ImageScores, write_scores
from textmask.evaluation.summary import (
    StudyProtocol,
    StudySummary,
    read_typed,
    write_typed,
)
from textmask.evaluation.tables import DISTANCES, METRICS, bar, bullets, cell, markdown
from textmask.io.files import remove_unfinished, write_whole
from textmask.io.spreadsheets import safe_cell
from textmask.methods.registry import Arm
from textmask.metrics.overlap import Bools, Counts, EmptyPolicy, Floats, Overlap, overlap
from textmask.plots.charts import CurvePoint, bar_intervals_png, log_curves_png

LETTERS = 34  # of a label in the chart
OVER_IMAGES = (
    "in parentheses after a figure: 95 % bootstrap interval over images (whole groups are resampled, {n} times) of the "
    "mean over seeds: how the figure of these very trainings varies with other patients. It says nothing about seeds."
)
OVER_SEEDS = (
    "over seeds: mean of the paired differences and its 95 % interval by Student's t: how it varies when the training "
    "is repeated and the images stay the same. It says nothing about other patients."
)
ONE_SEED = (
    "One seed: how much these figures and differences change with another seed is unknown; an interval over images "
    "does not cover it."
)


class TrialRow(Record):
    """Result row of a trial, as study.csv shows it, and the weights that it is of.

    Attributes:
        fraction: share of train with masks, 0 to 1.
        epoch, steps, seconds: chosen epoch; optimizer steps and duration of the training.
        commit: code version of the training.
        settings: all overrides of the preset, separated by spaces.
        labelled_list, labelled_list_sha256: "" without a list.
        labelled_rows: training images with masks in the last stage.
    """

    arm: str
    title: str
    seed: int
    fraction: float
    split: str
    n: int
    dice_per_image: float
    dice_pooled: float
    iou_per_image: float
    iou_pooled: float
    hd95_pooled_px: float
    assd_px: float
    epoch: int | None = None
    steps: int | None = None
    seconds: float | None = None
    commit: str = ""
    method: str
    settings: str
    labelled_list: str = ""
    labelled_list_sha256: str = ""
    labelled_rows: int | None = None
    weights_sha256: str


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial: its row, and what was counted of each of N images.

    `distances` holds `hd95_pooled_px` and `assd_px`, N each.
    """

    row: TrialRow
    counts: Counts
    distances: dict[str, Floats]


def summarise(
    arms: Sequence[Arm],
    finished: Sequence[FinishedTrial],
    groups: Sequence[str],
    protocol: StudyProtocol,
    pairs: Sequence[tuple[Arm, Arm]],
) -> StudySummary:
    """Summary of the finished trials.

    A per-image figure is averaged over seeds image by image, then bootstrapped over groups; a pooled figure is the
    average of the pooled scores of the seeds, which all take part in each resample.

    Args:
        arms: in the order of the table.
        finished: trials of these arms, all on the same N images.
        groups: N names (patients), "" is a group of its own.
        protocol: what the trials have in common, still without their commits.
        pairs: (an arm, the arm that is subtracted from it); compared on the seeds that both have finished.
    """
    by_arm = {
        arm: _by_seed([done for done in finished if done.row.arm == arm.name]) for arm in arms
    }
    table = _Table(Bootstrap(groups, protocol.n_bootstrap), protocol.empty_policy)

    differences = []
    for a, b in pairs:
        seeds = [seed for seed in by_arm[a] if seed in by_arm[b]]
        if seeds:
            ours, theirs = ([by_arm[arm][seed] for seed in seeds] for arm in (a, b))
            differences.append(table.difference(a.name, ours, b.name, theirs))

    commits = sorted({done.row.commit or "unknown" for done in finished})
    return StudySummary(
        protocol=protocol.model_copy(update={"commits": tuple(commits)}),
        arms=tuple(table.arm(arm, list(by_arm[arm].values())) for arm in arms if by_arm[arm]),
        differences=tuple(differences),
    )


@dataclass(frozen=True)
class _Table:
    """Computes the parts of a summary; trials come seed by seed."""

    bootstrap: Bootstrap
    policy: EmptyPolicy

    def arm(self, arm: Arm, trials: Sequence[FinishedTrial]) -> ArmResult:
        """Mean over seeds with the interval over images, and the figures of each seed."""
        overlaps = [overlap(done.counts, self.policy) for done in trials]
        kept = _kept_by_all(overlaps)
        some = self.bootstrap.take(kept)
        counts = [done.counts for done in trials]
        dice = np.mean([found.dice_per_image[kept] for found in overlaps], axis=0)
        iou = np.mean([found.iou_per_image[kept] for found in overlaps], axis=0)
        hd95, assd = (
            np.mean([done.distances[name] for done in trials], axis=0) for name in DISTANCES
        )

        rows = [done.row for done in trials]
        return ArmResult(
            arm=arm.name,
            title=arm.title,
            method=arm.method,
            settings=arm.settings,
            fraction=rows[0].fraction,
            seeds=tuple(row.seed for row in rows),
            n=int(kept.sum()),
            steps=tuple(row.steps for row in rows),
            seconds=tuple(row.seconds for row in rows),
            dice_per_image=some.mean(dice),
            dice_pooled=self.bootstrap.pooled(counts, "dice"),
            iou_per_image=some.mean(iou),
            iou_pooled=self.bootstrap.pooled(counts, "iou"),
            hd95_pooled_px=self.bootstrap.mean(hd95),
            assd_px=self.bootstrap.mean(assd),
            by_seed=SeedFigures(
                dice_per_image=tuple(row.dice_per_image for row in rows),
                dice_pooled=tuple(row.dice_pooled for row in rows),
                iou_per_image=tuple(row.iou_per_image for row in rows),
                iou_pooled=tuple(row.iou_pooled for row in rows),
                hd95_pooled_px=tuple(row.hd95_pooled_px for row in rows),
                assd_px=tuple(row.assd_px for row in rows),
            ),
        )

    def difference(
        self, name: str, ours: list[FinishedTrial], minus: str, theirs: list[FinishedTrial]
    ) -> StudyDifference:
        """One arm minus another on the same images and seeds."""
        a, b = ([overlap(done.counts, self.policy) for done in side] for side in (ours, theirs))
        kept = _kept_by_all([*a, *b])
        first, second = (
            np.stack([found.dice_per_image[kept] for found in side]) for side in (a, b)
        )
        our_counts, their_counts = ([done.counts for done in side] for side in (ours, theirs))

        per_image = [float(value) for value in (first - second).mean(1)]
        pooled = [x.dice_pooled - y.dice_pooled for x, y in zip(a, b, strict=True)]
        return StudyDifference(
            arm=name,
            minus=minus,
            seeds=tuple(done.row.seed for done in ours),
            n=int(kept.sum()),
            dice_per_image=self.bootstrap.take(kept).difference(first.mean(0), second.mean(0)),
            dice_per_image_by_seed=tuple(per_image),
            dice_per_image_over_seeds=over_seeds(per_image),
            dice_pooled=self.bootstrap.pooled_difference(our_counts, their_counts, "dice"),
            dice_pooled_by_seed=tuple(pooled),
            dice_pooled_over_seeds=over_seeds(pooled),
        )


def over_seeds(values: Sequence[float]) -> Value | None:
    """Mean of one figure per seed with its 95 % interval by Student's t; None for a single seed."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n))
    return Value(estimate=mean, low=mean - half, high=mean + half)


def study_table(summary: StudySummary) -> str:
    """Markdown of a summary: arms, seeds, differences, and what the intervals cover."""
    protocol = summary.protocol
    head = ["arm", "what", *METRICS, *DISTANCES.values(), "seeds", "images"]
    parts = [f"# {protocol.title}", markdown(head, [_arm_cells(arm) for arm in summary.arms])]

    head = ["arm", "dice_per_image by seed", "dice_pooled by seed", "steps", "minutes by seed"]
    parts.append(markdown(head, [_seed_cells(arm) for arm in summary.arms]))

    if summary.differences:
        figures = ["by seed", "over seeds"]
        head = ["arm", "minus", "dice_per_image", *figures, "dice_pooled", *figures]
        parts.append("Paired differences, in points:")
        lines = [_difference_cells(found) for found in summary.differences]
        parts.append(markdown([*head, "seeds", "images"], lines))

    notes = [OVER_IMAGES.format(n=protocol.n_bootstrap)]
    if summary.differences:
        notes.append(OVER_SEEDS)
    if any(len(arm.seeds) < 2 for arm in summary.arms):
        notes.append(ONE_SEED)
    if summary.missing:
        missing = ", ".join(summary.missing)
        notes.append(f"not finished: {missing}; rerun the same command to resume")
    parts.append(bullets([*notes, _study_protocol_line(protocol)]))
    return "\n\n".join(parts)


def study_chart(summary: StudySummary) -> bytes:
    """PNG: a dot per seed, the mean over seeds and its interval over images, per arm or along the label fraction."""
    if summary.protocol.kind == "labels":
        return _learning_curves(summary)
    rows, dots = [], []
    for arm in summary.arms:
        label = f"{arm.arm}: {arm.title}"
        if len(label) > LETTERS:
            label = label[: LETTERS - 1].rstrip() + "…"
        rows.append(bar(label, arm.dice_per_image))
        dots.append(arm.by_seed.dice_per_image)
    title = "dice_per_image, mean over seeds\n95 % over images; small: each seed"
    return bar_intervals_png(rows, title, "", dots)


def write_study(out: Path, summary: StudySummary, scores: Mapping[str, ImageScores]) -> None:
    """Write study.csv from the rows of all finished trials in `out`, then the other files and, last, study.json.

    Args:
        out: folder of the study.
        summary: shown in table.md and study.png.
        scores: name of a trial -> its scores, written to scores.csv.

    Raises:
        DataError: the folder cannot be written.
        CheckpointError: a row cannot be read.
    """
    rows = [read_typed(path, TrialRow) for path in out.glob("*/study-*.json")]
    columns = [name for name in TrialRow.model_fields if name != "weights_sha256"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in sorted(rows, key=lambda row: (row.split, row.seed, row.arm)):
        values = row.model_dump()
        cells = [values[name] for name in columns]
        writer.writerow([safe_cell(v) if isinstance(v, str) else v for v in cells])

    remove_unfinished(out)  # what a killed study left
    write_whole(out / "study.csv", stream.getvalue().encode())
    write_scores(out / SCORES, scores)
    write_whole(out / "table.md", study_table(summary).encode())
    write_whole(out / "study.png", study_chart(summary))
    write_typed(out / "study.json", summary)


def _learning_curves(summary: StudySummary) -> bytes:
    points: dict[str, list[CurvePoint]] = {}
    for arm in summary.arms:
        _, estimate, low, high = bar("", arm.dice_per_image)
        method = arm.method or summary.protocol.method
        share = 1.0 if arm.fraction is None else arm.fraction
        point = CurvePoint(share, estimate, low, high, arm.by_seed.dice_per_image)
        points.setdefault(method, []).append(point)
    what = "mean over seeds, 95 % over images; small: each seed"
    return log_curves_png(
        points, f"share of train that keeps its masks (log scale)\n{what}", "dice_per_image"
    )


def _by_seed(finished: Sequence[FinishedTrial]) -> dict[int, FinishedTrial]:
    return {done.row.seed: done for done in sorted(finished, key=lambda done: done.row.seed)}


def _kept_by_all(overlaps: Sequence[Overlap]) -> Bools:
    """N, images that the empty policy leaves out of none."""
    kept: Bools = np.logical_and.reduce([found.kept for found in overlaps])
    return kept


def _arm_cells(arm: ArmResult) -> list[str]:
    distances = ["" if value is None else cell(value, 1.0, 1) for value in arm.distances]
    overlaps = [cell(value) for value in arm.overlaps]
    return [arm.arm, arm.title, *overlaps, *distances, _seed_list(arm.seeds), str(arm.n)]


def _seed_cells(arm: ArmResult) -> list[str]:
    figures = []
    for values in (arm.by_seed.dice_per_image, arm.by_seed.dice_pooled):
        spread = f" (sd {np.std(values, ddof=1) * 100:.2f})" if len(values) > 1 else ""
        figures.append(", ".join(f"{x * 100:.2f}" for x in values) + spread)
    minutes = ["unknown" if s is None else f"{s / 60:.1f}" for s in arm.seconds]
    steps = ["unknown" if n is None else str(n) for n in dict.fromkeys(arm.steps or ())]
    return [arm.arm, *figures, ", ".join(steps), ", ".join(minutes)]


def _difference_cells(found: StudyDifference) -> list[str]:
    metrics = (
        (found.dice_per_image, found.dice_per_image_by_seed, found.dice_per_image_over_seeds),
        (found.dice_pooled, found.dice_pooled_by_seed, found.dice_pooled_over_seeds),
    )
    cells = [found.arm, found.minus]
    for value, by_seed, again in metrics:
        cells += [cell(value), ", ".join(f"{x * 100:+.2f}" for x in by_seed)]
        cells.append("unknown (one seed)" if again is None else cell(again))
    return [*cells, _seed_list(found.seeds), str(found.n)]


def _seed_list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _study_protocol_line(protocol: StudyProtocol) -> str:
    labels = "labelled as the recipe says"
    if protocol.labelled_fraction is not None:
        labels = f"{protocol.labelled_fraction * 100:g} % of train labelled"
    if protocol.kind == "labels":
        labels = "labelled shares as above, seeded, smaller ones within larger ones"
    if listed := protocol.labelled_list:
        labels = (
            f"labelled: the {listed.rows} of {listed.train_rows} train images of {listed.file} "
            f"({listed.sha256[:12]})"
        )

    settings = f" with {' '.join(protocol.settings)}" if protocol.settings else ""
    return (
        f"{protocol.data} ({protocol.data_hash[:12]}), {labels}, preset {protocol.preset}{settings}, "
        f"split {protocol.split}, n = {protocol.n} in {protocol.n_groups} groups, scored at "
        f"{' x '.join(map(str, protocol.size))}, both masks empty: {protocol.empty_policy}, "
        f"HD95: {protocol.hd95}, commit {', '.join(protocol.commits)}"
    )
