"""The page and the chart of the ledger of claims."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from textmask.evaluation.tables import bullets, markdown
from textmask.io.files import write_whole
from textmask.io.images import few_colors
from textmask.plots.charts import forest_png
from textmask.studies.claims.differences import read_image_scores, read_results
from textmask.studies.claims.ledger import Ledger, ledger
from textmask.studies.claims.verdicts import (
    VERDICTS,
    ClaimResult,
    ClaimVerdict,
    Counted,
    count,
    judge_claims,
    tally,
)

PIXELS = ("hd95_pooled_px", "assd_px")
HEAD = """# Claims of the five papers, tested here

`textmask study claims` writes this page from the ledger in the package (`textmask/studies/claims/claims.toml`) and the
summaries in `results/`. Verdicts are computed, never typed. A test fails if this page and its sources differ.

A claim is one table cell minus another, as printed. The rule:

- **reproduced**: our paired difference of the same two things has a 95 % interval over images on the paper's side of
  0, and every seed lies there too; both were trained for as many steps; the interval over seeds excludes 0, or three
  seeds lie on one side; and both of our levels are within 5 points (pixels) of the printed ones.
- **direction seen**: interval and every seed lie on the paper's side of 0, and something else is missing and named.
- **contrary**: interval and every seed lie on the other side of 0.
- **not reproduced**: anything else that has a result.
- **not testable**: no result, and a reason why there can be none here. **not yet run**: no result so far.
- A number of parameters is reproduced if ours is within 5 % of it.

The page also says whether the paper's *size* lies inside our interval, or is larger or smaller. Distances are judged by
the scores of single images in `results/scores/`.

What a verdict does not mean: our trainings are shorter, mostly CPU presets with other encoders, on the public part of
a test set. A verdict applies to that setting; "not reproduced" does not show that a paper is wrong. The interval over
images (paired bootstrap of groups, each at 95 %, none corrected for the number of claims) holds for these very
trainings. The effect of another seed is known only if several are listed; their interval (Student's t) is given in
brackets.

All results here are of trainings before version 0.2. Since then the sub-pixel heads of the `lite` presets start at the
prior of a lesion (`SubPixelHead`), so the same commands give other figures today; by how much has not been measured.
What else has changed is said under each paper.

"Protocol" is what the two printed (Dice, IoU) pairs can be, by D = 2I/(1+I) (`textmask verify-table`): pooled, per
image, mixed (one of each, so that their difference measures no method), or impossible (one is neither). Our results
have one protocol on both sides, that of the paper's own rows. IoU is not listed separately.

Result files are the `study.json` or `summary.json` that the commands write, copied to `results/` with the name given.
"""


def write_claims(results: Path, out: Path) -> list[ClaimVerdict | Counted]:
    """Judge the ledger by a folder of results; write the page and, next to it, the chart.

    Returns:
        All verdicts, comparisons first.

    Raises:
        CheckpointError: no such folder, or a file that cannot be read.
        DataError: `out` cannot be written.
    """
    judged, counted = _verdicts(results)
    if png := claims_chart(judged):
        write_whole(out.with_suffix(".png"), png)
    write_whole(out, page(ledger(), judged, counted, out.with_suffix(".png").name).encode())
    return [*judged, *counted]


def claims_page(results: Path, chart_name: str = "claims.png") -> str:
    """The page alone, as `write_claims` writes it."""
    return page(ledger(), *_verdicts(results), chart_name)


def page(
    ledger: Ledger, judged: Sequence[ClaimVerdict], counted: Sequence[Counted], chart_name: str
) -> str:
    """Markdown of all verdicts, paper by paper."""
    parts = [HEAD, _overview(ledger, judged, counted), _standing(judged)]
    if any(found.result for found in judged):
        parts.append(
            f"![our differences with their intervals, and those of the papers]({chart_name})\n"
        )

    # one section per paper, one table per group
    for name, paper in ledger.papers.items():
        parts.append(f"## {paper.title}\n\nIts own rows are compared by {paper.metric}.\n")
        if paper.notes:
            parts.append(bullets(paper.notes))
        mine = [found for found in judged if found.entry.group.paper == name]
        parts += [
            _group(list(found))
            for _, found in groupby(mine, key=lambda found: id(found.entry.group))
        ]
        parts += _sizes([found for found in counted if found.size.paper == name])

    reasons = bullets([f"*{name}*: {text}" for name, text in ledger.reasons.items()])
    return "\n".join([*parts, f"## Why something cannot be tested here\n\n{reasons}"])


def claims_chart(judged: Sequence[ClaimVerdict]) -> bytes:
    """PNG of all Dice differences that have a result, ours and those of the papers; empty bytes if there is none."""
    rows = []
    for found in judged:
        entry, ours = found.entry, found.result
        if ours is None or entry.metric in PIXELS:
            continue
        group = entry.group
        data = f"{group.data}, here {_data(ours)}" if found.stand_in else group.data
        table, claim = group.table.partition(",")[0], entry.claim.claim.partition(":")[0]
        label = f"{group.paper} {table} ({data}): {claim}"
        rows.append((label, entry.difference, ours.estimate, ours.low, ours.high))
    names = "ours, 95 % interval over images", "the paper's"
    return few_colors(forest_png(rows, "difference in Dice, points", names)) if rows else b""


def _verdicts(results: Path) -> tuple[list[ClaimVerdict], list[Counted]]:
    judged = judge_claims(ledger(), read_results(results), read_image_scores(results))
    return judged, count(ledger())


def _overview(ledger: Ledger, judged: Sequence[ClaimVerdict], counted: Sequence[Counted]) -> str:
    lines = []
    for name, paper in ledger.papers.items():
        mine = [found for found in judged if found.entry.group.paper == name]
        sizes = [found for found in counted if found.size.paper == name]
        lines.append(_tally_line(paper.title.partition(":")[0], [*mine, *sizes]))
    lines.append(_tally_line("all", [*judged, *counted]))
    return markdown(["paper", *VERDICTS, "claims"], lines) + "\n"


def _tally_line(name: str, found: Sequence[ClaimVerdict | Counted]) -> list[str]:
    numbers = tally(found)
    return [name, *(str(numbers[verdict]) for verdict in VERDICTS), str(numbers.total())]


def _standing(judged: Sequence[ClaimVerdict]) -> str:
    """How much evidence is behind the verdicts."""
    results = [found.result for found in judged if found.result]
    over_seeds = [result.over_seeds for result in results if result.over_seeds]
    protocols = [found.entry.protocol for found in judged]
    distinct = {(result.file, abs(result.estimate)) for result in results}
    clear = [low > 0 or high < 0 for low, high in over_seeds]
    inside = [found.extent == "inside" for found in judged]

    counts = {
        "comparisons": len(judged),
        "of them a pooled figure against a per-image one (mixed)": protocols.count("mixed"),
        "of them with a pair that is neither (impossible)": protocols.count("impossible"),
        "with a result": len(results),
        "different results behind these": len(distinct),
        "of these on other data than the paper's": sum(found.stand_in for found in judged),
        "of these with several seeds": len(over_seeds),
        "of which the interval over seeds also excludes 0": sum(clear),
        "results whose interval contains the paper's size": sum(inside),
    }
    return bullets([f"{what}: {n}" for what, n in counts.items()])


def _group(judged: list[ClaimVerdict]) -> str:
    group = judged[0].entry.group
    head = ["claim", "paper", "protocol", "verdict", "ours", "levels", "budgets", "n, seeds", "of"]
    lines = [_claim_line(found) for found in judged]
    notes: dict[str, list[str]] = {}
    for found in judged:
        for text in _claim_notes(found):
            notes.setdefault(text, []).append(found.entry.claim.claim.partition(":")[0])

    text = f"### {group.table}, {group.data}\n\n{markdown(head, lines)}\n"
    if notes:
        text += "\n" + bullets([f"{'; '.join(names)}: {note}." for note, names in notes.items()])
    if group.commands and any(found.entry.sources for found in judged):
        text += "\nTested by:\n\n" + bullets([f"`{command}`" for command in group.commands])
    return text


def _claim_line(found: ClaimVerdict) -> list[str]:
    entry, ours = found.entry, found.result
    a, b = (f"{cells[0]:.2f}" for cells in (entry.claim.a, entry.claim.b))
    cells = [entry.claim.claim, f"{a} - {b} = {entry.difference:+.2f}", entry.protocol]
    if ours is None:
        return [*cells, f"{found.verdict}{f' ({found.why})' if found.why else ''}", *[""] * 5]
    extent = "inside" if found.extent == "inside" else f"paper's is {found.extent}"
    short = f" ({', '.join(found.short)})" if found.short else ""
    where = f"**{found.verdict}**{short}, size: {extent}"
    value = f"{ours.estimate:+.2f} ({ours.low:+.2f} to {ours.high:+.2f})"
    if ours.over_seeds:
        value += f" [{ours.over_seeds[0]:+.2f} to {ours.over_seeds[1]:+.2f}]"
    seeds = f"{ours.n}, seed{'s' if len(ours.seeds) > 1 else ''} {', '.join(map(str, ours.seeds))}"
    levels = "" if ours.levels is None else f"{ours.levels[0]:.2f}, {ours.levels[1]:.2f}"
    budgets = {True: "equal", False: "unequal", None: "not stored"}[ours.equal_budget]
    return [*cells, where, value, levels, budgets, seeds, f"`{ours.file}`"]


def _claim_notes(found: ClaimVerdict) -> list[str]:
    """What a reader of a line must know: other data, fewer labels, unequal budgets, the paper's own words."""
    ours, notes = found.result, []
    if ours is not None:
        setting = []
        if found.stand_in:
            setting.append(f"here on {_data(ours)} in place of {found.entry.group.data}")
        if ours.labels is not None:
            setting.append(f"{ours.labels:.3g} % of train labelled")
        if ours.preset:
            setting.append(f"preset {ours.preset}")
        if ours.caveat:
            setting.append(ours.caveat)
        if setting:
            notes.append(", ".join(setting))

    if found.entry.claim.note:
        notes.append(found.entry.claim.note)
    return notes


def _sizes(counted: Sequence[Counted]) -> list[str]:
    if not counted:
        return []
    head = ["millions of parameters", "table", "paper", "ours", "verdict", "counted by", "note"]

    lines = []
    for found in counted:
        size = found.size
        settings = "".join(f" with {setting}" for setting in size.settings)
        lines.append(
            [
                size.claim,
                size.table,
                f"{size.millions:g}",
                f"{found.millions:.2f}",
                f"**{found.verdict}**",
                f"`textmask methods show {size.method}`{settings}",
                size.caveat,
            ]
        )
    return [f"### Size\n\n{markdown(head, lines)}\n"]


def _data(result: ClaimResult) -> str:
    return result.data.partition(" ")[0]
