"""What the committed results say of each claim of the ledger, by one rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from textmask.errors import CheckpointError
from textmask.io.files import read_json
from textmask.methods.registry import count_parameters, preset_recipe
from textmask.studies.claims.ledger import ClaimSize, ClaimSource, Ledger, LedgerEntry, Metric

VerdictName = Literal["reproduced", "not reproduced", "contrary", "not testable", "not yet run"]
VERDICTS: tuple[VerdictName, ...] = (
    "reproduced",
    "not reproduced",
    "contrary",
    "not testable",
    "not yet run",
)
# where the paper's difference lies, seen from our interval and in the direction that the paper claims
Extent = Literal["inside", "larger", "smaller"]
SIZE_TOLERANCE = 0.05  # of a number of parameters
Summaries = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class ClaimResult:
    """A paired difference of a result file, in points or pixels.

    Attributes:
        estimate, low, high: of a minus b with its 95 % interval over images.
        by_seed: the difference of each seed where there are several.
        over_seeds: ends of the interval over seeds, None with one seed.
        n: images.
        file, data: where it stands, and the name of the table of the data.
        labels: percent of train that kept its masks, None as the recipe says or unknown.
        preset: of the study, "" where the file does not say.
        caveat: of the source.
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


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim and what became of it; `why` says it where there is no result, `extent` where there is one."""

    entry: LedgerEntry
    verdict: VerdictName
    result: ClaimResult | None = None
    extent: Extent | None = None
    why: str = ""
    stand_in: bool = False


@dataclass(frozen=True)
class Counted:
    """A printed number of parameters and ours, in millions."""

    size: ClaimSize
    millions: float
    verdict: VerdictName


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every summary of a folder by file name.

    Raises:
        CheckpointError: no such folder, or a file that is no JSON object.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder; expected the one that holds the committed summaries."
        )
    found = {
        path.name: _with_differences(read_json(path)) for path in sorted(folder.glob("*.json"))
    }
    return {
        name: summary
        for name, summary in found.items()
        if "differences" in summary and "protocol" in summary
    }


def _with_differences(summary: dict[str, Any]) -> dict[str, Any]:
    """A study of changed inputs keeps its differences in its rows, each from the clean one."""
    rows = summary.get("rows")
    if "differences" in summary or not isinstance(rows, list):
        return summary
    end = "_minus_clean"
    differences = [
        {
            "arm": f"{row['kind']}-{row['severity']:g}" if row.get("severity") else row["kind"],
            "minus": "clean",
        }
        | {"n": row["n"]}
        | {name.removesuffix(end): value for name, value in row.items() if name.endswith(end)}
        for row in rows
        if "kind" in row
    ]
    return summary | {"differences": differences}


def judge_claims(ledger: Ledger, summaries: Summaries) -> list[ClaimVerdict]:
    """The verdict on every comparison; a result always decides, a reason only where there is none."""
    return [_judge(ledger, entry, summaries) for entry in ledger.entries()]


def count(ledger: Ledger) -> list[Counted]:
    """The verdict on every number of parameters: within 5 % of ours or not."""
    counted = []
    for size in ledger.sizes:
        ours = count_parameters(preset_recipe(size.method, "paper").override(*size.settings)) / 1e6
        near = abs(ours - size.millions) <= SIZE_TOLERANCE * size.millions
        counted.append(Counted(size, ours, "reproduced" if near else "not reproduced"))
    return counted


def rule(claimed: float, result: ClaimResult) -> tuple[VerdictName, Extent]:
    """The verdict on a result.

    Args:
        claimed: the paper's difference, not 0.
        result: ours, of the same two things.

    Returns:
        `reproduced` where the interval over images and every seed lie on the paper's side of 0, `contrary` where they
        lie on the other side, else `not reproduced`; and where the paper's difference lies.
    """
    sign = 1.0 if claimed > 0 else -1.0
    low, high = sorted((sign * result.low, sign * result.high))
    seeds = [sign * value for value in result.by_seed]
    size = abs(claimed)
    extent: Extent = "larger" if size > high else "smaller" if size < low else "inside"
    if low > 0 and all(value > 0 for value in seeds):
        return "reproduced", extent
    if high < 0 and all(value < 0 for value in seeds):
        return "contrary", extent
    return "not reproduced", extent


def tally(judged: Sequence[ClaimVerdict | Counted]) -> Counter[VerdictName]:
    """How often each verdict was given."""
    return Counter(found.verdict for found in judged)


def _judge(ledger: Ledger, entry: LedgerEntry, summaries: Summaries) -> ClaimVerdict:
    if not entry.difference:
        return ClaimVerdict(
            entry, "not testable", why=entry.blocked or "the paper's two cells are equal"
        )
    found, why = _find(entry, summaries, ledger.data[entry.group.data])
    if found is None:
        return (
            ClaimVerdict(entry, "not testable", why=entry.blocked)
            if entry.blocked
            else ClaimVerdict(entry, "not yet run", why=why)
        )
    verdict, extent = rule(entry.difference, found)
    return ClaimVerdict(
        entry,
        verdict,
        found,
        extent,
        stand_in=not found.data.startswith(ledger.data[entry.group.data]),
    )


def _find(entry: LedgerEntry, summaries: Summaries, data: str) -> tuple[ClaimResult | None, str]:
    """The result on the paper's data, of most seeds, of most images, first named, in this order; else why not."""
    best, why = None, ""
    rank: tuple[bool, int, int] = (False, 0, 0)
    for source in entry.sources:
        for name in sorted(
            name
            for name in summaries
            if fnmatch(name, source.file) and _fits(source, summaries[name])
        ):
            pair = _named_difference(summaries[name], source)
            if pair is None:
                why = why or f"{name} lacks it"
            elif (pair[0].get(entry.metric) or {}).get("low") is None:
                why = why or f"{name} has no paired interval of {entry.metric}"
            else:
                result = _claim_result(name, summaries[name], source, entry.metric, *pair)
                new = result.data.startswith(data), len(result.seeds), result.n
                if new > rank:
                    best, rank = result, new
    return best, why


def _fits(source: ClaimSource, summary: dict[str, Any]) -> bool:
    protocol = summary["protocol"]
    labels = _labelled_percent(protocol)
    fits = not source.study or protocol.get("study") == source.study
    fits &= not source.setting or source.setting in protocol.get("settings", ())
    return fits and (
        source.labels is None or (labels is not None and abs(labels - source.labels) < 0.05)
    )


def _labelled_percent(protocol: dict[str, Any]) -> float | None:
    """Percent of train that a whole study was trained on: its fraction, or the share that its list names."""
    if protocol.get("labelled_fraction") is not None:
        return 100 * float(protocol["labelled_fraction"])
    listed = protocol.get("labelled_list")
    return 100 * listed["rows"] / listed["train_rows"] if isinstance(listed, dict) else None


def _named_difference(
    summary: dict[str, Any], source: ClaimSource
) -> tuple[dict[str, Any], float] | None:
    """The difference that a source names, and -1 where the file holds it the other way round.

    In a file of `evaluate` every difference is that of its first row.
    """
    first = (
        next(iter(summary["rows"]))
        if isinstance(summary.get("rows"), dict) and summary["rows"]
        else None
    )
    for entry in summary["differences"]:
        names = entry.get("arm", first), entry["minus"]
        if names == (source.arm, source.minus):
            return entry, 1.0
        if names == (source.minus, source.arm):
            return entry, -1.0
    return None


def _claim_result(
    name: str,
    summary: dict[str, Any],
    source: ClaimSource,
    metric: Metric,
    pair: dict[str, Any],
    sign: float,
) -> ClaimResult:
    protocol, value = summary["protocol"], pair[metric]
    scale = sign * (1.0 if metric.endswith("_px") else 100.0)
    ends = scale * value["low"], scale * value["high"]
    over = pair.get(f"{metric}_over_seeds")
    found = ClaimResult(
        estimate=scale * value["estimate"],
        low=min(ends),
        high=max(ends),
        by_seed=tuple(scale * x for x in pair.get(f"{metric}_by_seed", ())),
        over_seeds=None,
        seeds=tuple(pair.get("seeds", [protocol.get("seed")])),
        n=pair.get("n", protocol["n"]),
        file=name,
        data=protocol["data"],
        labels=_labelled_percent(protocol),
        preset=protocol.get("preset", ""),
        caveat=source.caveat,
    )
    if over is None:
        return found
    low, high = sorted((scale * over["low"], scale * over["high"]))
    return replace(found, over_seeds=(low, high))
