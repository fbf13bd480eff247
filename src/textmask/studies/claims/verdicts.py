"""What the committed results say about each claim of the ledger, by one rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

from textmask.evaluation.records import Value
from textmask.evaluation.scores import ImageScores
from textmask.evaluation.summary import AnyResult, StudySummary
from textmask.methods.registry import count_parameters, preset_recipe
from textmask.studies.claims.differences import ResultDifference, differences_of
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
# where the paper's difference lies relative to our interval, in the direction that the paper claims
Extent = Literal["inside", "larger", "smaller"]
SIZE_TOLERANCE = 0.05  # of a number of parameters
LEVEL_TOLERANCE = 5.0  # points or pixels between our level of a cell and the printed one
ENOUGH_SEEDS = 3  # on one side of 0, in place of an interval over seeds that excludes it
Summaries = Mapping[str, AnyResult]
# name of a result file -> its rows, image by image
Scores = Mapping[str, Mapping[str, ImageScores]]


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
