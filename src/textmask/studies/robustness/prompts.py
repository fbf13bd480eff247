"""Does a model read its sentence? The same pictures with true, empty, foreign, false and senseless sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import SplitData
from textmask.data.manifest import Manifest
from textmask.data.shuffled_text import read_prompts, shuffled_prompts
from textmask.evaluation.tables import bar, cell
from textmask.metrics.overlap import Bools, Floats, counts, dice_per_image
from textmask.plots.charts import bar_intervals_png
from textmask.statement import Laterality
from textmask.studies.robustness.perturbations import (
    CLEAN,
    Perturbation,
    PerturbedResult,
    RobustnessOptions,
    each,
    open_bench,
)
from textmask.studies.robustness.summary import (
    PerturbationTable,
    RobustnessStudy,
    Row,
    same_claim,
    write_variants,
)
from textmask.text.edit import UNRELATED, absent, contradict, mirror, swap_levels, swap_sides

UNMOVED = 0.95  # median IoU to itself from which a mask counts as the same
PAINTS = 0.5  # share of the pictures with a mask that keep one although the sentence says there is nothing to mark
PLACES = ("shuffled", "side_swapped", "level_swapped")  # the sentence claims another place
NOTHING_THERE = ("absent", "unrelated")
MOVES = (*PLACES, "empty", *NOTHING_THERE)
COLUMNS = {
    "IoU to its own mask": "iou_to_clean",
    "empty masks": "empty_masks",
    "dice_per_image": "dice_per_image",
    "minus true sentence": "dice_per_image_minus_clean",
    "dice_pooled": "dice_pooled",
    "minus true sentence, pooled": "dice_pooled_minus_clean",
    "location F1, sentence given": "location_given",
    "location F1, true sentence": "location_own",
}


def study_prompts(
    run: Path, manifest: Manifest, split: str = "test", options: RobustnessOptions | None = None
) -> RobustnessStudy:
    """Give a run other sentences for the same pictures and say how far, and where, its masks move.

    Args:
        run: run folder.
        manifest: the table that holds the split.
        split: its name.
        options: the rest.

    Returns:
        The study; its summary holds `rows`, `equivariance`, `verdicts` and `protocol`.

    Raises:
        ConfigError, DataError, CheckpointError: as `open_bench`.
    """
    options = options or RobustnessOptions()
    bench = open_bench(run, manifest, split, "prompts", options)
    table = PerturbationTable(bench)
    summary: dict[str, Any] = {"study": "prompts", "protocol": bench.protocol()}
    for outcome in bench.outcomes([*prompt_variants(options.seed), flipped(bench.data)]):
        if outcome.variant.kind == "flipped":
            summary["equivariance"] = equivariance(outcome, table)
        else:
            row = table.add(outcome)
            if row["n"]:
                row |= _where(outcome, table)
    summary |= {"rows": table.rows, "verdicts": verdicts(table.rows)}
    notes = [*verdict_lines(summary), *where_lines(table.rows)]
    return write_variants(table, summary, COLUMNS, notes, _bars_chart(table.rows))


def prompt_variants(seed: int) -> list[Perturbation]:
    """The sentences that a picture is given, beside its own."""

    def foreign(data: SplitData) -> list[str | None]:
        texts = shuffled_prompts(data, seed)[0]
        trios = zip(texts, read_prompts(texts, data.rows), data.statements, strict=True)
        return [None if same_claim(claim, own) else text for text, claim, own in trios]

    def senseless(_: str, rng: np.random.Generator) -> str:
        return UNRELATED[int(rng.integers(len(UNRELATED)))]

    edits: dict[str, Callable[[str, np.random.Generator], str | None]] = {
        "side_swapped": lambda text, _: swap_sides(text),
        "level_swapped": lambda text, _: swap_levels(text),
        "contradictory": lambda text, _: contradict(text),
        "absent": lambda text, _: absent(text),
        "unrelated": senseless,
    }
    return [
        Perturbation("empty", text=each("empty", lambda text, _: "", seed)),
        Perturbation("shuffled", text=foreign),
        *(Perturbation(kind, text=each(kind, edit, seed)) for kind, edit in edits.items()),
    ]


def flipped(data: SplitData) -> Perturbation:
    """The mirrored picture with the mirrored sentence, where left and right mean those of the picture."""
    sided = [row.laterality is Laterality.IMAGE for row in data.rows]

    def rewrite(_: SplitData) -> list[str | None]:
        return [
            mirror(text) if image else None for text, image in zip(data.prompts, sided, strict=True)
        ]

    return Perturbation("flipped", text=rewrite, image=lambda image, _: image.flip(-1))


def equivariance(outcome: PerturbedResult, table: PerturbationTable) -> dict[str, Any]:
    """1 - Dice of the mask of the mirrored picture and sentence to the mirrored mask; 0 is perfect."""
    kept, clean = outcome.changed, table.clean
    if clean is None or not kept.any():
        note = "no sentence whose left is that of the picture could be mirrored"
        return {"n": 0, "error": None, "note": note}
    error = 1 - dice_per_image(counts(outcome.masks[kept], clean.masks[kept][:, :, ::-1]))
    return {
        "n": int(kept.sum()),
        "error": table.interval(error, kept),
        "median": float(np.median(error)),
    }


def verdicts(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """What the rules say of a model: does it ignore its sentence, or the place in it, or paint what is said absent.

    A rule is None where nothing can be told: no sentence could be rewritten, or the model painted nothing at all.
    """
    medians = {
        row["kind"]: row["iou_to_clean"]["median"]
        for row in rows
        if row["n"] and row["iou_to_clean"]["n"]
    }
    shares = {
        row["kind"]: row["still_painted"] for row in rows if row.get("still_painted") is not None
    }
    found = {}
    for name, kinds in (("ignores_text", MOVES), ("ignores_place", PLACES)):
        judged = {kind: medians[kind] for kind in kinds if kind in medians}
        listed = ", ".join(kinds)
        rule = f"median IoU of the mask to that of the true sentence is at least {UNMOVED} for each of {listed}"
        found[name] = {
            "holds": _all(value >= UNMOVED for value in judged.values()),
            "rule": rule,
            "medians": judged,
        }
    for kind in NOTHING_THERE:
        rule = (
            f"more than {PAINTS:.0%} of the pictures that get a mask with their true sentence still get one with "
            f"{'a sentence that says there is no finding' if kind == 'absent' else 'a sentence about something else'}"
        )
        share = shares.get(kind)
        found[f"paints_{kind}"] = {
            "holds": None if share is None else share > PAINTS,
            "rule": rule,
            "share": share,
        }
    return found


def verdict_lines(summary: dict[str, Any]) -> list[str]:
    """The verdicts and the equivariance in words."""
    name, found = summary["protocol"]["method"], summary["verdicts"]
    said = {
        "ignores_text": (
            f"{name} IGNORES its text",
            f"{name} reads its text: other sentences move its mask",
        ),
        "ignores_place": (
            f"{name} IGNORES the place it is told",
            f"{name} moves its mask with the place it is told",
        ),
        "paints_absent": (
            f"{name} PAINTS a finding that is said absent",
            f"{name} paints little that is said absent",
        ),
        "paints_unrelated": (
            f"{name} PAINTS for senseless sentences",
            f"{name} paints little for senseless sentences",
        ),
    }
    lines = []
    for key, (yes, no) in said.items():
        holds = found[key]["holds"]
        words = f"{key}: cannot be told" if holds is None else yes if holds else no
        figures = found[key].get("medians") or {"share": found[key].get("share")}
        numbers = ", ".join(
            f"{kind} {value:.3f}" for kind, value in figures.items() if value is not None
        )
        lines.append(f"{words}{f' ({numbers})' if numbers else ''}. Rule: {found[key]['rule']}.")
    mirrored = summary["equivariance"]
    error = cell(mirrored["error"]) if mirrored["n"] else mirrored["note"]
    lines.append(
        f"flip(image) and swap(text) against flip(mask), 1 - Dice, percent: {error}, n = {mirrored['n']}."
    )
    return lines


def where_lines(rows: list[Row]) -> list[str]:
    """Where the masks went, kind by kind."""
    lines = []
    for row in rows:
        moved = row.get("where")
        if moved and row["kind"] != CLEAN.kind:
            lines.append(
                f"{row['kind']}: area {moved['area_before'] * 100:.1f} to {moved['area_after'] * 100:.1f} % "
                f"of the picture; left half {_percent(moved['left_before'])} to {_percent(moved['left_after'])} % "
                f"of the mask; centre moves {_percent(moved['right_by'])} % of the width to the right and "
                f"{_percent(moved['down_by'])} % of the height down on average, "
                f"{_percent(moved['distance'])} % of the side in any direction "
                f"(n = {moved['n']} with both masks)"
            )
    return lines


def _where(outcome: PerturbedResult, table: PerturbationTable) -> Row:
    """Area, share of the left half and shift of the centre, before and after; and who still paints."""
    clean = table.clean or outcome
    kept = outcome.changed
    before, after = _geometry(clean.masks[kept]), _geometry(outcome.masks[kept])
    painted, still = before[:, 0] > 0, after[:, 0] > 0
    both = painted & still
    shift = after[both, 2:] - before[both, 2:]
    where: dict[str, Any] = {"n": int(both.sum())}
    where |= {"area_before": float(before[:, 0].mean()), "area_after": float(after[:, 0].mean())}
    figures = {
        "left_before": before[both, 1],
        "left_after": after[both, 1],
        "right_by": shift[:, 0],
    }
    figures |= {"down_by": shift[:, 1], "distance": np.hypot(shift[:, 0], shift[:, 1])}
    where |= {
        name: float(values.mean()) if len(values) else None for name, values in figures.items()
    }
    return {
        "where": where,
        "still_painted": float(still[painted].mean()) if painted.any() else None,
    }


def _geometry(masks: Bools) -> Floats:
    """N 4: area and, of it, the share in the left half, the mean column and the mean row, all as shares of 1."""
    n, rows, columns = masks.shape
    across, down = masks.sum(1, dtype=np.int64), masks.sum(2, dtype=np.int64)
    area = across.sum(1)
    x, y = ((np.arange(size) + 0.5) / size for size in (columns, rows))
    parts = [area / (rows * columns), across @ (x < 0.5), across @ x, down @ y]
    out = np.zeros((n, 4))
    out[:, 0] = parts[0]
    out[:, 1:] = np.stack(parts[1:], 1) / np.maximum(area, 1)[:, None]
    return out


def _all(flags: Any) -> bool | None:
    listed = list(flags)
    return all(listed) if listed else None


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value * 100:.1f}"


def _bars_chart(rows: list[Row]) -> bytes:
    bars = [
        bar(f"{row['kind']} (n = {row['n']})", row["iou_to_clean"]["mean"])
        for row in rows
        if row["n"] and row["kind"] != CLEAN.kind and row["iou_to_clean"]["n"]
    ] or [("no mask to compare", 0.0, 0.0, 0.0)]
    return bar_intervals_png(
        bars, "IoU to the mask of the true sentence\n1: the mask stays where it was", ""
    )
