"""Result files, and the paired differences in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textmask.errors import CheckpointError
from textmask.evaluation.records import ArmResult, Figures, Value
from textmask.evaluation.scores import ImageScores, read_scores
from textmask.evaluation.summary import (
    AnyResult,
    EvaluationSummary,
    StudySummary,
    SummaryRow,
    read_any_summary,
)
from textmask.metrics.statistics import paired_difference
from textmask.studies.claims.ledger import Metric

DISTANCES: tuple[Metric, ...] = ("hd95_pooled_px", "assd_px")
METRICS: tuple[Metric, ...] = ("dice_per_image", "dice_pooled", *DISTANCES)


@dataclass(frozen=True)
class ResultDifference:
    """A paired difference of any kind of result file, as the file holds it.

    Attributes:
        n: images; seeds: of the trainings.
        values: metric -> difference with its interval over images.
        levels: metric -> the two figures that are subtracted.
        equal_budget: whether both were trained for as many steps, None if the file does not say.
        by_seed: metric -> difference of each seed.
        over_seeds: metric -> difference with its interval over seeds.
    """

    arm: str
    minus: str
    n: int
    seeds: tuple[int, ...]
    values: dict[Metric, Value]
    levels: dict[Metric, tuple[float, float]] = field(default_factory=dict)
    equal_budget: bool | None = None
    by_seed: dict[Metric, tuple[float, ...]] = field(default_factory=dict)
    over_seeds: dict[Metric, Value | None] = field(default_factory=dict)


def read_results(folder: Path) -> dict[str, AnyResult]:
    """Every summary of a folder by file name; JSON files that are not summaries are left out.

    Raises:
        CheckpointError: no such folder, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder; expected the one that holds the committed summaries."
        )
    found = {}
    for path in sorted(folder.glob("*.json")):
        summary = read_any_summary(path)
        if summary is not None:
            found[path.name] = summary
    return found


def read_image_scores(folder: Path) -> dict[str, dict[str, ImageScores]]:
    """The scores of single images that lie in `scores/` of a folder of results, by the name of the result file.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    paths = sorted((folder / "scores").glob("*.csv"))
    return {f"{path.stem}.json": read_scores(path) for path in paths}


def differences_of(
    summary: AnyResult, scores: Mapping[str, ImageScores] | None = None
) -> list[ResultDifference]:
    """The paired differences of a summary; each perturbation of a robustness study is compared with the clean input.

    Args:
        summary: what a command wrote.
        scores: its rows image by image; those of an evaluation give the differences of distances.
    """
    found = []
    if isinstance(summary, EvaluationSummary):
        for entry in summary.differences:
            values: dict[Metric, Value] = {
                "dice_per_image": entry.dice_per_image,
                "dice_pooled": entry.dice_pooled,
            }
            values |= _distances(scores or {}, entry.arm, entry.minus)
            protocol, rows = summary.protocol, summary.rows
            pair = rows.get(entry.arm), rows.get(entry.minus)
            found.append(
                ResultDifference(
                    entry.arm,
                    entry.minus,
                    protocol.n,
                    seeds=(protocol.seed,),
                    values=values,
                    levels=_pair_of_levels(*pair),
                    equal_budget=_same_training(*pair),
                )
            )

    elif isinstance(summary, StudySummary):
        arms = {arm.arm: arm for arm in summary.arms}
        for of_seeds in summary.differences:
            trained = arms.get(of_seeds.arm), arms.get(of_seeds.minus)
            found.append(
                ResultDifference(
                    of_seeds.arm,
                    of_seeds.minus,
                    of_seeds.n,
                    of_seeds.seeds,
                    values={
                        "dice_per_image": of_seeds.dice_per_image,
                        "dice_pooled": of_seeds.dice_pooled,
                    },
                    levels=_pair_of_levels(*trained),
                    equal_budget=_equal_steps(*trained),
                    by_seed={
                        "dice_per_image": of_seeds.dice_per_image_by_seed,
                        "dice_pooled": of_seeds.dice_pooled_by_seed,
                    },
                    over_seeds={
                        "dice_per_image": of_seeds.dice_per_image_over_seeds,
                        "dice_pooled": of_seeds.dice_pooled_over_seeds,
                    },
                )
            )

    else:  # a robustness study: one model, whose first row is the clean input
        for row in summary.rows:
            values = {}
            levels: dict[Metric, tuple[float, float]] = {}
            if row.dice_per_image_minus_clean is not None:
                values["dice_per_image"] = row.dice_per_image_minus_clean
            if row.dice_pooled_minus_clean is not None:
                values["dice_pooled"] = row.dice_pooled_minus_clean
            seeds = (summary.protocol.seed,)
            clean = summary.rows[0]
            if row.dice_per_image is not None and clean.dice_per_image is not None:
                levels["dice_per_image"] = (
                    row.dice_per_image.estimate,
                    clean.dice_per_image.estimate,
                )
            if row.dice_pooled is not None and clean.dice_pooled is not None:
                levels["dice_pooled"] = row.dice_pooled.estimate, clean.dice_pooled.estimate
            found.append(
                ResultDifference(row.name, "clean", row.n, seeds, values, levels, equal_budget=True)
            )
    return found


def _pair_of_levels(a: Figures | None, b: Figures | None) -> dict[Metric, tuple[float, float]]:
    """The figures of both models, per metric that both have."""
    found: dict[Metric, tuple[float, float]] = {}
    if a is None or b is None:
        return found
    for metric in METRICS:
        first, second = getattr(a, metric), getattr(b, metric)
        if first is not None and second is not None:
            found[metric] = (first.estimate, second.estimate)
    return found


def _same_training(a: SummaryRow | None, b: SummaryRow | None) -> bool | None:
    """True for one model with two kinds of prompts; None for two models, whose steps an evaluation does not store."""
    if a is None or b is None or a.weights_sha256 != b.weights_sha256:
        return None
    return True


def _equal_steps(a: ArmResult | None, b: ArmResult | None) -> bool | None:
    """Whether two arms were trained for as many steps; None if that was not stored."""
    if a is None or b is None or not a.steps or not b.steps or None in (*a.steps, *b.steps):
        return None
    return set(a.steps) == set(b.steps)


def _distances(scores: Mapping[str, ImageScores], arm: str, minus: str) -> dict[Metric, Value]:
    """Differences of the distances of two rows over the images on which both have one."""
    found: dict[Metric, Value] = {}
    if arm not in scores or minus not in scores:
        return found
    a, b = scores[arm], scores[minus]
    for metric in DISTANCES:
        if metric not in a.distances or metric not in b.distances or a.images != b.images:
            continue
        both = np.isfinite(a.distances[metric]) & np.isfinite(b.distances[metric])
        if both.any():
            groups = [group for group, usable in zip(a.groups, both, strict=True) if usable]
            value = paired_difference(a.distances[metric][both], b.distances[metric][both], groups)
            found[metric] = Value(estimate=value.estimate, low=value.low, high=value.high)
    return found
