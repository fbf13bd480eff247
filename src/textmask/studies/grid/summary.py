"""What a study found: every arm's mean over seeds, paired differences, and which variation each interval covers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from textmask.evaluation.protocol import count_groups
from textmask.evaluation.tables import DISTANCES, METRICS, Value, as_value, bar, cell
from textmask.io.files import read_json, write_json, write_whole
from textmask.io.spreadsheets import safe_cell
from textmask.methods.registry import Arm
from textmask.metrics.overlap import Counts, EmptyPolicy, Floats, Kind, Overlap, overlap
from textmask.metrics.statistics import (
    Interval,
    bootstrap_ci,
    bootstrap_pooled,
    paired_difference,
    paired_difference_pooled,
)
from textmask.plots.charts import CurvePoint, bar_intervals_png, log_curves_png

COLUMNS = (
    *(
        "arm",
        "title",
        "seed",
        "fraction",
        "split",
        "n",
        "dice_per_image",
        "dice_pooled",
        "iou_per_image",
        "iou_pooled",
    ),
    *("hd95_pooled_px", "assd_px", "epoch", "seconds", "commit", "method", "settings"),
    *("labelled_list", "labelled_list_sha256", "labelled_rows"),
)
SEED = 0  # of the bootstrap
LETTERS = 34  # of a label in the picture
OVER_IMAGES = (
    "in parentheses after a figure: 95 % bootstrap interval over images (whole groups are resampled, {n} times) of the "
    "mean over seeds: how the figure of these very trainings varies with other patients. It says nothing of seeds."
)
OVER_SEEDS = (
    "over seeds: mean of the paired differences and its 95 % interval by Student's t: how it varies when the training "
    "is repeated and the images stay the same. It says nothing of other patients."
)
ONE_SEED = (
    "One seed: how much these figures and differences change with another seed is unknown; an interval over images "
    "does not cover it."
)


@dataclass(frozen=True)
class Finished:
    """A finished cell: its result row, and what of each of N images it was computed from.

    `distances` holds `hd95_pooled_px` and `assd_px`, N each.
    """

    row: dict[str, Any]
    counts: Counts
    distances: dict[str, Floats]


def summarise(
    arms: Sequence[Arm],
    finished: Sequence[Finished],
    groups: Sequence[str],
    shared: dict[str, Any],
    pairs: Sequence[tuple[Arm, Arm]],
) -> dict[str, Any]:
    """Summary of the finished cells, as JSON.

    A per-image figure is averaged over seeds image by image, then bootstrapped over groups; a pooled figure is the
    average of the pooled scores of the seeds, which all take part in each resample.

    Args:
        arms: in the order of the table.
        finished: cells of these arms, all on the same N images.
        groups: N names (patients), "" is a group of its own.
        shared: what the cells have in common; `n_bootstrap` and `empty_policy` are read.
        pairs: (an arm, the arm that is subtracted from it).

    Returns:
        `protocol`, `arms` (mean, interval and seeds of each) and `differences` (of the pairs, on the seeds that both
        have finished).
    """
    by_arm = {
        arm: _by_seed([done for done in finished if done.row["arm"] == arm.name]) for arm in arms
    }
    study_table = _Table(groups, shared["empty_policy"], shared["n_bootstrap"])
    listed = [arm for arm in arms if by_arm[arm]]
    differences = [study_table.difference(a.name, by_arm[a], b.name, by_arm[b]) for a, b in pairs]
    commits = sorted({str(done.row["commit"]) or "unknown" for done in finished})
    return {
        "protocol": shared
        | {"n": len(groups), "n_groups": count_groups(groups), "commits": commits},
        "arms": [study_table.arm(arm, by_arm[arm]) for arm in listed],
        "differences": [found for found in differences if found],
    }


Runs = dict[int, Finished]  # by seed


@dataclass(frozen=True)
class _Table:
    """Computes the parts of a summary."""

    groups: Sequence[str]
    policy: EmptyPolicy
    n: int

    def arm(self, arm: Arm, runs: Runs) -> dict[str, Any]:
        """Mean over seeds with the interval over images, and the figures of each seed."""
        overlaps = [overlap(done.counts, self.policy) for done in runs.values()]
        kept = np.logical_and.reduce([found.kept for found in overlaps])
        values: dict[str, Interval] = {}
        kinds: tuple[Kind, ...] = ("dice", "iou")
        for kind in kinds:
            per_image = np.mean([_scores_of(found, kind)[kept] for found in overlaps], axis=0)
            values[f"{kind}_per_image"] = bootstrap_ci(
                per_image, self._names(kept), n=self.n, seed=SEED
            )
            counts = [done.counts for done in runs.values()]
            values[f"{kind}_pooled"] = bootstrap_pooled(
                counts, self.groups, kind, n=self.n, seed=SEED
            )
        for name in DISTANCES:
            distance = np.mean([done.distances[name] for done in runs.values()], axis=0)
            values[name] = bootstrap_ci(distance, self.groups, n=self.n, seed=SEED)
        by_seed = {name: [done.row[name] for done in runs.values()] for name in values}
        return {
            "arm": arm.name,
            "title": arm.title,
            "method": arm.method,
            "settings": list(arm.settings),
            "fraction": next(iter(runs.values())).row["fraction"],
            "seeds": list(runs),
            "n": int(kept.sum()),
            "seconds": [done.row["seconds"] for done in runs.values()],
            **{name: as_value(interval) for name, interval in values.items()},
            "by_seed": by_seed,
        }

    def difference(self, name: str, runs: Runs, other_name: str, others: Runs) -> dict[str, Any]:
        """One arm minus another on the same images and seeds; empty where no seed is finished for both."""
        seeds = [seed for seed in runs if seed in others]
        if not seeds:
            return {}
        a, b = (
            [overlap(side[seed].counts, self.policy) for seed in seeds] for side in (runs, others)
        )
        kept = np.logical_and.reduce([found.kept for found in (*a, *b)])
        first, second = (
            np.stack([_scores_of(found, "dice")[kept] for found in side]) for side in (a, b)
        )
        paired = paired_difference(
            first.mean(0), second.mean(0), self._names(kept), n=self.n, seed=SEED
        )
        ours, theirs = ([side[seed].counts for seed in seeds] for side in (runs, others))
        paired_pooled = paired_difference_pooled(
            ours, theirs, self.groups, "dice", n=self.n, seed=SEED
        )
        pooled_by_seed = [x.dice_pooled - y.dice_pooled for x, y in zip(a, b, strict=True)]
        per_image_by_seed = [float(difference) for difference in (first - second).mean(1)]
        return {
            "arm": name,
            "minus": other_name,
            "seeds": seeds,
            "n": int(kept.sum()),
            "dice_per_image": as_value(paired),
            "dice_per_image_by_seed": per_image_by_seed,
            "dice_per_image_over_seeds": over_seeds(per_image_by_seed),
            "dice_pooled": as_value(paired_pooled),
            "dice_pooled_by_seed": pooled_by_seed,
            "dice_pooled_over_seeds": over_seeds(pooled_by_seed),
        }

    def _names(self, kept: np.ndarray) -> list[str]:
        return [group for group, keep in zip(self.groups, kept, strict=True) if keep]


def over_seeds(values: Sequence[float]) -> Value | None:
    """Mean of one figure per seed with its 95 % interval by Student's t; None for a single seed."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n))
    return {"estimate": mean, "low": mean - half, "high": mean + half}


def study_table(summary: dict[str, Any]) -> str:
    """Markdown of a summary: arms, seeds, differences, and what the intervals cover."""
    protocol, arms, differences = summary["protocol"], summary["arms"], summary["differences"]
    title = (
        protocol.get("title") or f"{protocol['study']} of {protocol['method']}"
    )  # older ones have none
    parts = [f"# {title}", _lines(["arm", "what", *_HEAD], map(_arm_cells, arms))]
    head = [
        "arm",
        *(f"{name} by seed" for name in ("dice_per_image", "dice_pooled")),
        "minutes by seed",
    ]
    parts.append(_lines(head, map(_seed_cells, arms)))
    if differences:
        head = [
            "arm",
            "minus",
            "dice_per_image",
            "by seed",
            "over seeds",
            "dice_pooled",
            "by seed",
            "over seeds",
        ]
        parts.append("Paired differences, in points:")
        parts.append(_lines([*head, "seeds", "images"], map(_difference_cells, differences)))
    one = any(len(arm["seeds"]) < 2 for arm in arms)
    notes = [OVER_IMAGES.format(n=protocol["n_bootstrap"]), *([OVER_SEEDS] if differences else [])]
    notes += [ONE_SEED] if one else []
    if summary.get("missing"):
        notes.append(
            f"not finished: {', '.join(summary['missing'])}; the same command goes on with them"
        )
    parts.append("".join(f"- {note}\n" for note in (*notes, _protocol_line(protocol))))
    return "\n\n".join(parts)


def study_chart(summary: dict[str, Any]) -> bytes:
    """PNG: a dot a seed, the mean over seeds and its interval over images, arm by arm or along the label fraction."""
    if summary["protocol"].get("kind") == "labels":
        return _learning_curves(summary["arms"])
    rows = [
        bar(_shorten_label(f"{arm['arm']}: {arm['title']}"), arm["dice_per_image"])
        for arm in summary["arms"]
    ]
    dots = [arm["by_seed"]["dice_per_image"] for arm in summary["arms"]]
    return bar_intervals_png(
        rows, "dice_per_image, mean over seeds\n95 % over images; small: each seed", "", dots
    )


def _learning_curves(arms: Sequence[dict[str, Any]]) -> bytes:
    points: dict[str, list[CurvePoint]] = {}
    for arm in arms:
        _, estimate, low, high = bar("", arm["dice_per_image"])
        dots = tuple(arm["by_seed"]["dice_per_image"])
        points.setdefault(arm["method"], []).append(
            CurvePoint(arm["fraction"], estimate, low, high, dots)
        )
    what = "mean over seeds, 95 % over images; small: each seed"
    return log_curves_png(
        points, f"share of train that keeps its masks (log scale)\n{what}", "dice_per_image"
    )


def write_study(out: Path, summary: dict[str, Any]) -> None:
    """Write study.csv from the rows of all finished cells in `out`, then table.md, study.png and, last, study.json.

    Raises:
        DataError: the folder cannot be written.
        CheckpointError: a row cannot be read.
    """
    rows = [read_json(path) for path in out.glob("*/study-*.json")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows, key=lambda row: (row["split"], row["seed"], row["arm"])):
        writer.writerow(
            [
                safe_cell(v) if isinstance(v, str) else v
                for v in (row.get(name, "") for name in COLUMNS)
            ]
        )
    write_whole(out / "study.csv", stream.getvalue().encode())
    write_whole(out / "table.md", study_table(summary).encode())
    write_whole(out / "study.png", study_chart(summary))
    write_json(out / "study.json", summary)


_HEAD = (*METRICS, *DISTANCES.values(), "seeds", "images")


def _shorten_label(label: str) -> str:
    return label if len(label) <= LETTERS else label[: LETTERS - 1].rstrip() + "…"


def _by_seed(finished: Sequence[Finished]) -> Runs:
    return {
        done.row["seed"]: done for done in sorted(finished, key=lambda done: int(done.row["seed"]))
    }


def _scores_of(found: Overlap, kind: str) -> Floats:
    return found.dice_per_image if kind == "dice" else found.iou_per_image


def _arm_cells(arm: dict[str, Any]) -> list[str]:
    distances = [cell(arm[name], 1.0, 1) for name in DISTANCES]
    return [
        arm["arm"],
        arm["title"],
        *(cell(arm[name]) for name in METRICS),
        *distances,
        *_seeds_and_n(arm),
    ]


def _seed_cells(arm: dict[str, Any]) -> list[str]:
    values = [arm["by_seed"][name] for name in ("dice_per_image", "dice_pooled")]
    spread = [f" (sd {np.std(v, ddof=1) * 100:.2f})" if len(v) > 1 else "" for v in values]
    figures = [
        ", ".join(f"{x * 100:.2f}" for x in v) + end for v, end in zip(values, spread, strict=True)
    ]
    return [arm["arm"], *figures, ", ".join(f"{seconds / 60:.1f}" for seconds in arm["seconds"])]


def _difference_cells(found: dict[str, Any]) -> list[str]:
    cells = [found["arm"], found["minus"]]
    for name in ("dice_per_image", "dice_pooled"):
        again = found[f"{name}_over_seeds"]
        by_seed = ", ".join(f"{x * 100:+.2f}" for x in found[f"{name}_by_seed"])
        cells += [cell(found[name]), by_seed, cell(again) if again else "unknown (one seed)"]
    return [*cells, *_seeds_and_n(found)]


def _seeds_and_n(entry: dict[str, Any]) -> list[str]:
    return [", ".join(map(str, entry["seeds"])), str(entry["n"])]


def _lines(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines)


def _protocol_line(protocol: dict[str, Any]) -> str:
    fraction, settings = protocol["labelled_fraction"], " ".join(protocol["settings"])
    labels = (
        "labelled as the recipe says"
        if fraction is None
        else f"{fraction * 100:g} % of train labelled"
    )
    if protocol.get("kind") == "labels":
        labels = "labelled shares as above, seeded, smaller ones within larger ones"
    if listed := protocol.get("labelled_list"):
        labels = (
            f"labelled: the {listed['rows']} of {listed['train_rows']} train pictures of {listed['file']} "
            f"({listed['sha256'][:12]})"
        )
    return (
        f"{protocol['data']} ({protocol['data_hash'][:12]}), {labels}, preset {protocol['preset']}"
        f"{f' with {settings}' if settings else ''}, split {protocol['split']}, n = {protocol['n']} in "
        f"{protocol['n_groups']} groups, scored at {' x '.join(map(str, protocol['size']))}, both masks empty: "
        f"{protocol['empty_policy']}, HD95: {protocol['hd95']}, commit {', '.join(protocol['commits'])}"
    )
