"""What the committed results say about each claim of the ledger, by one rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

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
from textmask.methods.registry import count_parameters, preset_recipe
from textmask.metrics.statistics import paired_difference
from textmask.studies.claims.ledger import ClaimSize, ClaimSource, Ledger, LedgerEntry, Metric

VerdictName = Literal[
    "reproduced", "direction seen", "not reproduced", "contrary", "not testable", "not yet run"
]
VERDICTS: tuple[VerdictName, ...] = (
    "reproduced",
    "direction seen",
    "not reproduced",
    "contrary",
    "not testable",
    "not yet run",
)
DISTANCES: tuple[Metric, ...] = ("hd95_pooled_px", "assd_px")
METRICS: tuple[Metric, ...] = ("dice_per_image", "dice_pooled", *DISTANCES)
# where the paper's difference lies relative to our interval, in the direction that the paper claims
Extent = Literal["inside", "larger", "smaller"]
SIZE_TOLERANCE = 0.05  # of a number of parameters
LEVEL_TOLERANCE = 5.0  # points or pixels between our level of a cell and the printed one
ENOUGH_SEEDS = 3  # on one side of 0, in place of an interval over seeds that excludes it
Summaries = Mapping[str, AnyResult]
Scores = Mapping[
    str, Mapping[str, ImageScores]
]  # name of a result file -> its rows, image by image


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


@dataclass(frozen=True)
class ClaimResult:
    """A paired difference that tests a claim, in points or pixels.

    Attributes:
        estimate, low, high: of a minus b with its 95 % interval over images.
        levels: our a and b, None if the file lacks them.
        equal_budget: whether both were trained for as many steps, None if unknown.
        by_seed: the difference of each seed if there are several.
        over_seeds: ends of the interval over seeds, None with one seed.
        n: images.
        file, data: name of the result file and of the manifest.
        labels: percent of train that kept its masks, None as the recipe says or unknown.
        preset: of the study, "" if the file does not name it.
        caveat, stand_in: of the source.
    """

    estimate: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    over_seeds: tuple[float, float] | None
    seeds: tuple[int, ...]
    n: int
    file: str
    data: str
    labels: float | None = None
    preset: str = ""
    caveat: str = ""
    stand_in: str = ""
    levels: tuple[float, float] | None = None
    equal_budget: bool | None = None


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict on a claim.

    Attributes:
        why: explains a missing result.
        extent: belongs to a result.
        short: what a result whose direction is the paper's lacks to count as reproduced.
        stand_in: the result is on other data than the paper's.
    """

    entry: LedgerEntry
    verdict: VerdictName
    result: ClaimResult | None = None
    extent: Extent | None = None
    why: str = ""
    short: tuple[str, ...] = ()
    stand_in: bool = False


@dataclass(frozen=True)
class Counted:
    """The verdict on a printed number of parameters, with our number, in millions."""

    size: ClaimSize
    millions: float
    verdict: VerdictName


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
                    levels=_levels(*pair),
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
                    levels=_levels(*trained),
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
            values, levels = {}, {}
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


def _levels(a: Figures | None, b: Figures | None) -> dict[Metric, tuple[float, float]]:
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


def judge_claims(
    ledger: Ledger, summaries: Summaries, scores: Scores | None = None
) -> list[ClaimVerdict]:
    """The verdict on every comparison; a result always decides, a reason counts only without one."""
    return [_judge(ledger, entry, summaries, scores or {}) for entry in ledger.entries()]


def count(ledger: Ledger) -> list[Counted]:
    """The verdict on every number of parameters: within 5 % of the printed one or not."""
    counted = []
    for size in ledger.sizes:
        recipe = preset_recipe(size.method, "paper").override(*size.settings)
        ours = count_parameters(recipe, size.part) / 1e6
        near = abs(ours - size.millions) <= SIZE_TOLERANCE * size.millions
        counted.append(Counted(size, ours, "reproduced" if near else "not reproduced"))
    return counted


def rule(claimed: float, result: ClaimResult) -> tuple[VerdictName, Extent]:
    """The direction of a result.

    Args:
        claimed: the paper's difference, not 0.
        result: our difference of the same two things.

    Returns:
        `direction seen` if the interval over images and every seed lie on the paper's side of 0, `contrary` if they all
        lie on the other side, else `not reproduced`; and where the paper's difference lies.
    """
    sign = 1.0 if claimed > 0 else -1.0
    low, high = sorted((sign * result.low, sign * result.high))
    seeds = [sign * value for value in result.by_seed]

    size = abs(claimed)
    extent: Extent = "larger" if size > high else "smaller" if size < low else "inside"
    if low > 0 and all(value > 0 for value in seeds):
        return "direction seen", extent
    if high < 0 and all(value < 0 for value in seeds):
        return "contrary", extent
    return "not reproduced", extent


def shortfalls(printed: tuple[float, float], result: ClaimResult) -> tuple[str, ...]:
    """What a result in the paper's direction lacks to count as reproduced; () if nothing.

    Args:
        printed: the two cells of the paper.
        result: ours.
    """
    found = []
    if result.stand_in:
        found.append(result.stand_in)
    if not result.equal_budget:
        found.append("unequal budgets" if result.equal_budget is False else "budgets not stored")

    # another seed could turn the direction
    over = result.over_seeds
    clear = over is not None and (over[0] > 0 or over[1] < 0)
    if not clear and len(result.by_seed) < ENOUGH_SEEDS:
        found.append("one seed" if len(result.seeds) < 2 else f"{len(result.seeds)} seeds")

    if result.levels is None:
        found.append("levels not stored")
    elif any(
        abs(ours - cell) > LEVEL_TOLERANCE
        for ours, cell in zip(result.levels, printed, strict=True)
    ):
        found.append("other levels")
    return tuple(found)


def tally(judged: Sequence[ClaimVerdict | Counted]) -> Counter[VerdictName]:
    """How often each verdict was given."""
    return Counter(found.verdict for found in judged)


def _judge(
    ledger: Ledger, entry: LedgerEntry, summaries: Summaries, scores: Scores
) -> ClaimVerdict:
    if not entry.difference:
        why = entry.blocked or "the paper's two cells are equal"
        return ClaimVerdict(entry, "not testable", why=why)

    data = ledger.data[entry.group.data]
    result, why = _best_result(entry, summaries, scores, data)
    if result is None:
        if entry.blocked:
            return ClaimVerdict(entry, "not testable", why=entry.blocked)
        return ClaimVerdict(entry, "not yet run", why=why)
    verdict, extent = rule(entry.difference, result)
    stand_in = not result.data.startswith(data)

    # on other data the levels are others too, so that only a direction can be seen
    short: tuple[str, ...] = ()
    if verdict == "direction seen":
        short = shortfalls((entry.claim.a[0], entry.claim.b[0]), result)
        short = ("other data", *short) if stand_in else short
        verdict = verdict if short else "reproduced"
    return ClaimVerdict(entry, verdict, result, extent, short=short, stand_in=stand_in)


def _best_result(
    entry: LedgerEntry, summaries: Summaries, scores: Scores, data: str
) -> tuple[ClaimResult | None, str]:
    """The result on the paper's data, of most seeds, of most images, first named, in this order; else why not."""
    best, why = None, ""
    rank: tuple[bool, int, int] = (False, 0, 0)
    for source in entry.sources:
        # the best rank wins, not the first file
        for name in sorted(name for name in summaries if fnmatch(name, source.file)):
            summary = summaries[name]
            if not _fits(source, summary):
                continue
            named = _named_difference(differences_of(summary, scores.get(name)), source)
            if named is None:
                why = why or f"{name} lacks it"
                continue

            difference, sign = named
            value = difference.values.get(entry.metric)
            if value is None or value.low is None or value.high is None:
                why = why or f"{name} has no paired interval of {entry.metric}"
                continue
            result = _claim_result(name, summary, source, entry.metric, difference, sign)
            new = result.data.startswith(data), len(result.seeds), result.n
            if new > rank:
                best, rank = result, new
    return best, why


def _fits(source: ClaimSource, summary: AnyResult) -> bool:
    """Whether a summary is one that a source means."""
    labels = _labelled_percent(summary)
    if source.labels is not None and (labels is None or abs(labels - source.labels) >= 0.05):
        return False
    if not source.study and not source.setting:
        return True
    if not isinstance(summary, StudySummary):
        return False
    fits = not source.study or summary.protocol.study == source.study
    return fits and (not source.setting or source.setting in summary.protocol.settings)


def _labelled_percent(summary: AnyResult) -> float | None:
    """Percent of train that a whole study was trained on: its fraction, or the share that its list names."""
    if not isinstance(summary, StudySummary):
        return None
    if summary.protocol.labelled_fraction is not None:
        return 100 * summary.protocol.labelled_fraction
    listed = summary.protocol.labelled_list
    return None if listed is None else 100 * listed.rows / listed.train_rows


def _named_difference(
    differences: Sequence[ResultDifference], source: ClaimSource
) -> tuple[ResultDifference, float] | None:
    """The difference that a source names, and -1 if the file holds it the other way round."""
    for found in differences:
        if (found.arm, found.minus) == (source.arm, source.minus):
            return found, 1.0
        if (found.arm, found.minus) == (source.minus, source.arm):
            return found, -1.0
    return None


def _claim_result(
    name: str,
    summary: AnyResult,
    source: ClaimSource,
    metric: Metric,
    difference: ResultDifference,
    sign: float,
) -> ClaimResult:
    scale = sign * (1.0 if metric.endswith("_px") else 100.0)
    value = difference.values[metric]
    low, high = _scaled_ends(value, scale)
    levels = difference.levels.get(metric)
    if levels is not None:
        levels = (levels[0] * abs(scale), levels[1] * abs(scale))
    over = difference.over_seeds.get(metric)

    preset = summary.protocol.preset if isinstance(summary, StudySummary) else ""
    return ClaimResult(
        estimate=scale * value.estimate,
        low=low,
        high=high,
        by_seed=tuple(scale * x for x in difference.by_seed.get(metric, ())),
        over_seeds=None if over is None else _scaled_ends(over, scale),
        seeds=difference.seeds,
        n=difference.n,
        file=name,
        data=summary.protocol.data,
        labels=_labelled_percent(summary),
        preset=preset,
        caveat=source.caveat,
        stand_in=source.stand_in,
        levels=levels if sign > 0 or levels is None else (levels[1], levels[0]),
        equal_budget=(
            difference.equal_budget if source.equal_budget is None else source.equal_budget
        ),
    )


def _scaled_ends(value: Value, scale: float) -> tuple[float, float]:
    """Ends of an interval in points, in order; a value without an interval is a point."""
    ends = [value.estimate if end is None else end for end in (value.low, value.high)]
    low, high = sorted(scale * end for end in ends)
    return low, high
