"""Studies of several runs side by side: what each condition costs, who reads the sentence, what breaks first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textmask.errors import CheckpointError
from textmask.evaluation.tables import cell, markdown

LOSS = "dice_per_image_minus_clean"
TITLES = {
    "prompts": "other sentences",
    "text-noise": "text noise",
    "corruption": "image corruption",
}
SAME = (
    "data",
    "data_hash",
    "split",
    "n",
    "n_groups",
    "empty_policy",
)  # of runs that stand in one table

Summary = dict[str, Any]


def robustness_table(summaries: Sequence[Summary]) -> str:
    """Markdown of the summaries of `textmask study prompts | text-noise | corruption`: a table a study, a column a run.

    Args:
        summaries: in the order of the columns; a run appears once a study.

    Raises:
        CheckpointError: no summary of such a study, or studies of other pictures under one title.
    """
    studies: dict[str, list[Summary]] = {}
    for summary in summaries:
        if summary.get("study") not in TITLES:
            raise CheckpointError(
                f"study is {summary.get('study')!r}, expected the summary.json of one of {', '.join(TITLES)}."
            )
        studies.setdefault(summary["study"], []).append(summary)
    return "\n".join(_study_section(name, studies[name]) for name in TITLES if name in studies)


def _study_section(name: str, summaries: Sequence[Summary]) -> str:
    first = summaries[0]["protocol"]
    for summary in summaries:
        if other := [key for key in SAME if summary["protocol"][key] != first[key]]:
            raise CheckpointError(
                f"{name} of {summary['protocol']['run']} and of {first['run']} differ in {', '.join(other)}: they do "
                "not stand in one table. Make them on the same pictures (--limit, --split, --seed)."
            )
    rows = [{_condition(row): row for row in summary["rows"]} for summary in summaries]
    head = [TITLES[name], *(summary["protocol"]["run"] for summary in summaries)]
    lines = [
        ["true sentence, clean picture", *(cell(row["clean"]["dice_per_image"]) for row in rows)]
    ]
    for condition in dict.fromkeys(
        condition for row in rows for condition in row if condition != "clean"
    ):
        lines.append(
            [condition, *(cell(row[condition][LOSS]) if condition in row else "" for row in rows)]
        )
    if name == "prompts":
        lines += _obedience(summaries)
    lines.append(["costs most", *(_worst(row) for row in rows)])
    sizes = {
        f"{s['protocol']['run']} {s['protocol']['size'][0]} x {s['protocol']['size'][1]}"
        for s in summaries
    }
    return (
        f"{markdown(head, lines)}\n\n"
        "First row dice_per_image in percent, then what each condition adds to it in points, paired on the pictures it "
        f"changes. {first['data']}, split {first['split']}, n = {first['n']} in {first['n_groups']} groups, scored at "
        f"{', '.join(sorted(sizes))}; in parentheses: {first['interval']}.\n"
    )


def _condition(row: dict[str, Any]) -> str:
    """The kind and its severity: "motion_blur 7"; one without grades is its name alone."""
    return f"{row['kind']} {row['severity']:g}" if row["severity"] else str(row["kind"])


def _obedience(summaries: Sequence[Summary]) -> list[list[str]]:
    """How far the mask moves with the sentence, and how often it stays where the sentence denies it."""

    def numbers(verdict: str, value: str, key: str = "") -> list[str]:
        found = [summary["verdicts"][verdict].get(value) for summary in summaries]
        found = [entry.get(key) if key and entry is not None else entry for entry in found]
        return ["" if number is None else f"{100 * number:.1f}" for number in found]

    errors = [cell(summary["equivariance"]["error"]) for summary in summaries]
    return [
        [
            "sides swapped, median IoU to its own mask, %",
            *numbers("ignores_text", "medians", "side_swapped"),
        ],
        [
            "shuffled, median IoU to its own mask, %",
            *numbers("ignores_text", "medians", "shuffled"),
        ],
        [
            "still paints where told that there is nothing, % of pictures",
            *numbers("paints_absent", "share"),
        ],
        [
            "still paints for a senseless sentence, % of pictures",
            *numbers("paints_unrelated", "share"),
        ],
        ["flip(image), swap(text) against flip(mask), 1 - Dice", *errors],
    ]


def _worst(rows: dict[str, dict[str, Any]]) -> str:
    losses = {
        name: row[LOSS]["estimate"] for name, row in rows.items() if name != "clean" and LOSS in row
    }
    if not losses or min(losses.values()) >= 0:
        return "nothing"
    return min(losses, key=lambda name: losses[name])
