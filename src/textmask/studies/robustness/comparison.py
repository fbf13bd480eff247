"""Robustness studies of several runs next to each other: what each condition costs, and who reads the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from textmask.errors import CheckpointError
from textmask.evaluation.records import CLEAN_KIND, PerturbationRow
from textmask.evaluation.summary import RobustnessKind, RobustnessProtocol, RobustnessSummary
from textmask.evaluation.tables import cell, markdown

TITLES: dict[RobustnessKind, str] = {
    "prompts": "other prompts",
    "text-noise": "text noise",
    "corruption": "image corruption",
}


def robustness_table(summaries: Sequence[RobustnessSummary]) -> str:
    """Markdown of robustness studies: one table per study, one column per run.

    Args:
        summaries: in the order of the columns; a run appears once per study.

    Raises:
        CheckpointError: studies of other images under one title.
    """
    studies: dict[RobustnessKind, list[RobustnessSummary]] = {}
    for summary in summaries:
        studies.setdefault(summary.study, []).append(summary)
    return "\n".join(_study_section(name, studies[name]) for name in TITLES if name in studies)


def _study_section(name: RobustnessKind, summaries: Sequence[RobustnessSummary]) -> str:
    first = summaries[0].protocol
    for summary in summaries:
        if other := _differing_fields(summary.protocol, first):
            raise CheckpointError(
                f"{name} of {summary.protocol.run} and of {first.run} differ in {', '.join(other)}: they do not "
                "belong in one table. Make them on the same images (--limit, --split, --seed)."
            )

    rows = [{_condition(row): row for row in summary.rows} for summary in summaries]
    conditions: dict[str, None] = {}
    for row in rows:
        conditions.update(dict.fromkeys(row))

    # a run that was not tried under a condition has an empty cell
    lines = []
    for condition in conditions:
        found = [row.get(condition) for row in rows]
        if condition == CLEAN_KIND:
            lines.append(["original prompt, clean image", *map(_clean_cell, found)])
        else:
            lines.append([condition, *map(_loss_cell, found)])
    if name == "prompts":
        lines += _obedience(summaries)
    lines.append(["costs most", *(_worst(row) for row in rows)])

    head = [TITLES[name], *(summary.protocol.run for summary in summaries)]
    sizes = {f"{s.protocol.run} {' x '.join(map(str, s.protocol.size))}" for s in summaries}
    return (
        f"{markdown(head, lines)}\n\n"
        "First row dice_per_image in percent, then what each condition adds to it in points, paired on the images it "
        f"changes. {first.data}, split {first.split}, n = {first.n} in {first.n_groups} groups, scored at "
        f"{', '.join(sorted(sizes))}; in parentheses: {first.interval}.\n"
    )


def _differing_fields(a: RobustnessProtocol, b: RobustnessProtocol) -> list[str]:
    """Fields that must agree in one table, and do not."""
    pairs = {
        "data": (a.data, b.data),
        "data_hash": (a.data_hash, b.data_hash),
        "content": (a.content, b.content),
        "split": (a.split, b.split),
        "n": (a.n, b.n),
        "n_groups": (a.n_groups, b.n_groups),
        "empty_policy": (a.empty_policy, b.empty_policy),
    }
    return [name for name, (x, y) in pairs.items() if x != y]


def _condition(row: PerturbationRow) -> str:
    """The kind and its severity: "motion_blur 7"; a kind without grades is its name alone."""
    return f"{row.kind} {row.severity:g}" if row.severity else row.kind


def _clean_cell(row: PerturbationRow | None) -> str:
    return "" if row is None or row.dice_per_image is None else cell(row.dice_per_image)


def _loss_cell(row: PerturbationRow | None) -> str:
    if row is None or row.dice_per_image_minus_clean is None:
        return ""
    return cell(row.dice_per_image_minus_clean)


def _obedience(summaries: Sequence[RobustnessSummary]) -> list[list[str]]:
    """How far the mask moves with the prompt, and how often it stays although the prompt denies it."""

    def percent(values: list[float | None]) -> list[str]:
        return ["" if value is None else f"{100 * value:.1f}" for value in values]

    swapped: list[float | None] = []
    shuffled: list[float | None] = []
    absent: list[float | None] = []
    unrelated: list[float | None] = []
    for verdicts in (summary.verdicts for summary in summaries):
        medians = (verdicts.ignores_text.medians if verdicts else None) or {}
        swapped.append(medians.get("side_swapped"))
        shuffled.append(medians.get("shuffled"))
        absent.append(verdicts.paints_absent.share if verdicts else None)
        unrelated.append(verdicts.paints_unrelated.share if verdicts else None)

    errors = []
    for summary in summaries:
        error = summary.equivariance.error if summary.equivariance else None
        errors.append("" if error is None else cell(error))
    return [
        ["sides swapped, median IoU to its own mask, %", *percent(swapped)],
        ["shuffled, median IoU to its own mask, %", *percent(shuffled)],
        ["still segments a finding reported as absent, % of images", *percent(absent)],
        ["still segments for an irrelevant prompt, % of images", *percent(unrelated)],
        ["flip(image), swap(text) against flip(mask), 1 - Dice", *errors],
    ]


def _worst(rows: dict[str, PerturbationRow]) -> str:
    losses = {
        name: row.dice_per_image_minus_clean.estimate
        for name, row in rows.items()
        if name != CLEAN_KIND and row.dice_per_image_minus_clean is not None
    }
    if not losses or min(losses.values()) >= 0:
        return "nothing"
    return min(losses, key=lambda name: losses[name])
