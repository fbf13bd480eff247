"""The page and the picture of the ledger of claims."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from textmask.io.files import write_whole
from textmask.io.images import few_colors
from textmask.plots.charts import forest_png
from textmask.studies.claims.ledger import Ledger, ledger
from textmask.studies.claims.verdicts import (
    VERDICTS,
    ClaimResult,
    ClaimVerdict,
    Counted,
    count,
    judge_claims,
    read_results,
    tally,
)

PIXELS = ("hd95_pooled_px", "assd_px")
HEAD = """# Claims of the five papers, tested here

Made by `textmask study claims` from the ledger in the package (`textmask/studies/claims/claims.toml`) and the
summaries in `results/`; verdicts are computed, never typed. A test fails where this page and its sources differ.

A claim is one table cell minus another, as printed. The rule:

- **reproduced**: our paired difference of the same two things has a 95 % interval over images on the paper's side of
  0, and every seed lies there too. This is the direction. Beside it stands whether the paper's *size* lies inside our
  interval, or is larger or smaller.
- **contrary**: interval and every seed lie on the other side of 0.
- **not reproduced**: anything else that has a result.
- **not testable**: no result, and a reason why there can be none here. **not yet run**: no result so far.
- A number of parameters is reproduced where ours is within 5 % of it.

What a verdict is not: our trainings are shorter, mostly CPU presets with other encoders, on the public part of a test
set. A verdict speaks of that setting; "not reproduced" does not show that a paper is wrong. The interval over images
(paired bootstrap of groups, each at 95 %, none corrected for the number of claims) holds for these very trainings.
What another seed would do is known only where several are listed; their interval (Student's t) stands in brackets.

"Protocol" is what the two printed (Dice, IoU) pairs can be, by D = 2I/(1+I) (`textmask verify-table`): pooled, per
image, mixed (one of each, so that their difference measures no method), or impossible (one is neither). Ours has one
protocol on both sides, that of the paper's own rows. IoU is not listed apart.

Result files are the `study.json` or `summary.json` that the commands leave, copied to `results/` under the name given.
"""


def write_claims(results: Path, out: Path) -> list[ClaimVerdict | Counted]:
    """Judge the ledger by a folder of results; write the page and, beside it, the picture.

    Returns:
        All verdicts, comparisons first.

    Raises:
        CheckpointError: no such folder, or a file that is no summary.
        DataError: `out` cannot be written.
    """
    judged, counted = _verdicts(results)
    if png := claims_chart(judged):
        write_whole(out.with_suffix(".png"), png)
    write_whole(out, page(ledger(), judged, counted, out.with_suffix(".png").name).encode())
    return [*judged, *counted]


def claims_page(results: Path, picture_name: str = "claims.png") -> str:
    """The page alone, as `write_claims` writes it."""
    return page(ledger(), *_verdicts(results), picture_name)


def page(
    ledger: Ledger, judged: Sequence[ClaimVerdict], counted: Sequence[Counted], picture_name: str
) -> str:
    """Markdown of all verdicts, paper by paper."""
    parts = [HEAD, _overview(ledger, judged, counted), _standing(judged)]
    if any(found.result for found in judged):
        parts.append(f"![our differences with their intervals, and the papers']({picture_name})\n")
    for name, paper in ledger.papers.items():
        parts.append(f"## {paper.title}\n\nIts own rows are compared by {paper.metric}.\n")
        mine = [found for found in judged if found.entry.group.paper == name]
        parts += [
            _group(list(found))
            for _, found in groupby(mine, key=lambda found: id(found.entry.group))
        ]
        parts += _sizes([found for found in counted if found.size.paper == name])
    reasons = "".join(f"- *{name}*: {text}\n" for name, text in ledger.reasons.items())
    return "\n".join([*parts, f"## Why something cannot be tested here\n\n{reasons}"])


def claims_chart(judged: Sequence[ClaimVerdict]) -> bytes:
    """PNG of all Dice differences that have a result, ours and the papers'; empty bytes where there is none."""
    rows = []
    for found in judged:
        entry, ours = found.entry, found.result
        if ours is not None and entry.metric not in PIXELS:
            group = entry.group
            data = f"{group.data}, here {_data(ours)}" if found.stand_in else group.data
            label = f"{group.paper} {group.table.partition(',')[0]} ({data}): {entry.claim.claim.partition(':')[0]}"
            rows.append((label, entry.difference, ours.estimate, ours.low, ours.high))
    names = "ours, 95 % interval over images", "the paper's"
    return few_colors(forest_png(rows, "difference in Dice, points", names)) if rows else b""


def _verdicts(results: Path) -> tuple[list[ClaimVerdict], list[Counted]]:
    return judge_claims(ledger(), read_results(results)), count(ledger())


def _overview(ledger: Ledger, judged: Sequence[ClaimVerdict], counted: Sequence[Counted]) -> str:
    lines = []
    for name, paper in ledger.papers.items():
        mine = [found for found in judged if found.entry.group.paper == name]
        found = tally([*mine, *(size for size in counted if size.size.paper == name)])
        lines.append(
            [
                paper.title.partition(":")[0],
                *(str(found[verdict]) for verdict in VERDICTS),
                str(found.total()),
            ]
        )
    found = tally([*judged, *counted])
    lines.append(["all", *(str(found[verdict]) for verdict in VERDICTS), str(found.total())])
    return _table(["paper", *VERDICTS, "claims"], lines)


def _standing(judged: Sequence[ClaimVerdict]) -> str:
    """How firmly the verdicts stand."""
    results = [found.result for found in judged if found.result]
    over_seeds = [result.over_seeds for result in results if result.over_seeds]
    protocols = [found.entry.protocol for found in judged]
    counts = {
        "comparisons": len(judged),
        "of them a pooled figure against a per-image one (mixed)": protocols.count("mixed"),
        "of them with a pair that is neither (impossible)": protocols.count("impossible"),
        "with a result": len(results),
        "different results behind these": len({(r.file, abs(r.estimate)) for r in results}),
        "of these on other data than the paper's": sum(found.stand_in for found in judged),
        "of these with several seeds": len(over_seeds),
        "of which an interval over seeds leaves out 0 as well": sum(
            low > 0 or high < 0 for low, high in over_seeds
        ),
        "results whose interval holds the paper's size": sum(
            found.extent == "inside" for found in judged
        ),
    }
    return "".join(f"- {what}: {n}\n" for what, n in counts.items())


def _group(judged: list[ClaimVerdict]) -> str:
    group = judged[0].entry.group
    head = ["claim", "paper", "protocol", "verdict", "ours", "n, seeds", "of"]
    lines = [_claim_line(found) for found in judged]
    notes: dict[str, list[str]] = {}
    for found in judged:
        for text in _claim_notes(found):
            notes.setdefault(text, []).append(found.entry.claim.claim.partition(":")[0])
    listed = "".join(f"- {'; '.join(names)}: {text}.\n" for text, names in notes.items())
    commands = "".join(
        f"- `{command}`\n" for command in group.commands if any(f.entry.sources for f in judged)
    )
    tested = f"\nTested by:\n\n{commands}" if commands else ""
    return (
        f"### {group.table}, {group.data}\n\n{_table(head, lines)}"
        + (f"\n{listed}" if listed else "")
        + tested
    )


def _claim_line(found: ClaimVerdict) -> list[str]:
    entry, ours = found.entry, found.result
    a, b = (f"{cells[0]:.2f}" for cells in (entry.claim.a, entry.claim.b))
    cells = [entry.claim.claim, f"{a} - {b} = {entry.difference:+.2f}", entry.protocol]
    if ours is None:
        return [*cells, f"{found.verdict}{f' ({found.why})' if found.why else ''}", "", "", ""]
    extent = "inside" if found.extent == "inside" else f"paper's is {found.extent}"
    where = f"**{found.verdict}**, size: {extent}"
    value = f"{ours.estimate:+.2f} ({ours.low:+.2f} to {ours.high:+.2f})"
    if ours.over_seeds:
        value += f" [{ours.over_seeds[0]:+.2f} to {ours.over_seeds[1]:+.2f}]"
    seeds = f"{ours.n}, seed{'s' if len(ours.seeds) > 1 else ''} {', '.join(map(str, ours.seeds))}"
    return [*cells, where, value, seeds, f"`{ours.file}`"]


def _claim_notes(found: ClaimVerdict) -> list[str]:
    """What must be known beside a line: other data, fewer labels, unequal budgets, the paper's own words."""
    ours, notes = found.result, []
    if ours is not None:
        setting = (
            [f"here on {_data(ours)} in place of {found.entry.group.data}"]
            if found.stand_in
            else []
        )
        setting += [f"{ours.labels:.3g} % of train labelled"] if ours.labels is not None else []
        setting += [f"preset {ours.preset}"] if ours.preset else []
        setting += [ours.caveat] if ours.caveat else []
        notes += [", ".join(setting)] if setting else []
    return [*notes, *([found.entry.claim.note] if found.entry.claim.note else [])]


def _sizes(counted: Sequence[Counted]) -> list[str]:
    if not counted:
        return []
    head = ["millions of parameters", "where", "paper", "ours", "verdict", "counted by", "note"]
    lines = []
    for found in counted:
        size = found.size
        settings = "".join(f" with {setting}" for setting in size.settings)
        ours = [f"{size.millions:g}", f"{found.millions:.2f}", f"**{found.verdict}**"]
        lines.append(
            [
                size.claim,
                size.table,
                *ours,
                f"`textmask methods show {size.method}`{settings}",
                size.caveat,
            ]
        )
    return [f"### Size\n\n{_table(head, lines)}"]


def _data(result: ClaimResult) -> str:
    return result.data.partition(" ")[0]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(text.replace('|', '/') for text in row)} |\n" for row in rows)
