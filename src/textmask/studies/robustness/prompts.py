"""Does a model read its prompt? The same images with original, empty, foreign, false and irrelevant prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from textmask.data.loaders import SplitData
from textmask.data.manifest import Manifest
from textmask.data.shuffled_text import read_prompts, shuffled_prompts
from textmask.evaluation.records import (
    Equivariance,
    MaskMove,
    PerturbationRow,
    PromptVerdict,
    PromptVerdicts,
)
from textmask.evaluation.summary import RobustnessSummary
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
    Column,
    PerturbationTable,
    RobustnessStudy,
    same_claim,
    write_robustness,
)
from textmask.text.edit import UNRELATED, absent, contradict, mirror, swap_levels, swap_sides

UNMOVED = 0.95  # median IoU to itself from which a mask counts as the same
PAINTS = 0.5  # share of the images with a mask that keep one although the prompt says there is nothing to segment
PLACES = ("shuffled", "side_swapped", "level_swapped")  # the prompt claims another place
MOVES = (*PLACES, "empty", "absent", "unrelated")
COLUMNS: dict[str, Column] = {
    "IoU to its own mask": lambda row: row.iou_to_clean.mean if row.iou_to_clean else None,
    "empty masks": lambda row: row.empty_masks,
    "dice_per_image": lambda row: row.dice_per_image,
    "minus original prompt": lambda row: row.dice_per_image_minus_clean,
    "dice_pooled": lambda row: row.dice_pooled,
    "minus original prompt, pooled": lambda row: row.dice_pooled_minus_clean,
    "location F1, prompt given": lambda row: row.location_given,
    "location F1, original prompt": lambda row: row.location_own,
}
# name of a verdict -> what is said of a method if it holds, and if it does not
VERDICT_WORDS = {
    "ignores_text": (
        "{} IGNORES its prompt",
        "{} reads its prompt: other prompts move its mask",
    ),
    "ignores_place": (
        "{} IGNORES the place that the prompt names",
        "{} moves its mask with the place that the prompt names",
    ),
    "paints_absent": (
        "{} SEGMENTS findings reported as absent",
        "{} segments few findings reported as absent",
    ),
    "paints_unrelated": (
        "{} SEGMENTS for irrelevant prompts",
        "{} segments little for irrelevant prompts",
    ),
}


def study_prompts(
    run: Path, manifest: Manifest, split: str = "test", options: RobustnessOptions | None = None
) -> RobustnessStudy:
    """Give a run other prompts for the same images and measure how far, and where, its masks move.

    Args:
        run: run folder.
        manifest: the manifest that holds the split.
        split: its name.
        options: the rest.

    Returns:
        The study; its summary holds rows, equivariance and verdicts.

    Raises:
        ConfigError, DataError, CheckpointError: as `open_bench`.
    """
    options = options or RobustnessOptions()
    bench = open_bench(run, manifest, split, "prompts", options)
    table = PerturbationTable(bench)
    mirrored = None
    for result in bench.results([*prompt_perturbations(options.seed), flipped(bench.data)]):
        if result.perturbation.kind == "flipped":
            mirrored = equivariance(result, table)
        elif (row := table.add(result)).n:
            table.rows[-1] = _with_moves(row, result, table.clean or result)

    # rules are applied to the finished rows
    found = verdicts(table.rows)
    summary = RobustnessSummary(
        study="prompts",
        protocol=bench.protocol(),
        equivariance=mirrored,
        rows=tuple(table.rows),
        verdicts=found,
    )
    lines = verdict_lines(summary.protocol.method, found)
    if mirrored is not None:
        lines.append(_equivariance_line(mirrored))
    notes = [*lines, *where_lines(table.rows)]
    return write_robustness(table, summary, COLUMNS, notes, _bars_chart(table.rows))


def prompt_perturbations(seed: int) -> list[Perturbation]:
    """The prompts that an image is given in place of its own."""

    def foreign(data: SplitData) -> list[str | None]:
        prompts = shuffled_prompts(data, seed)[0]
        claims = read_prompts(prompts, data.rows)
        kept: list[str | None] = []
        for prompt, claim, own in zip(prompts, claims, data.statements, strict=True):
            kept.append(None if same_claim(claim, own) else prompt)
        return kept

    def irrelevant(_: str, rng: np.random.Generator) -> str:
        return UNRELATED[int(rng.integers(len(UNRELATED)))]

    edits: dict[str, Callable[[str, np.random.Generator], str | None]] = {
        "side_swapped": lambda prompt, _: swap_sides(prompt),
        "level_swapped": lambda prompt, _: swap_levels(prompt),
        "contradictory": lambda prompt, _: contradict(prompt),
        "absent": lambda prompt, _: absent(prompt),
        "unrelated": irrelevant,
    }
    found = [
        Perturbation("empty", prompts=each("empty", lambda prompt, _: "", seed)),
        Perturbation("shuffled", prompts=foreign),
    ]
    for kind, edit in edits.items():
        found.append(Perturbation(kind, prompts=each(kind, edit, seed)))
    return found


def flipped(data: SplitData) -> Perturbation:
    """The mirrored image with the mirrored prompt, if left and right mean the sides of the image."""
    sided = [row.laterality is Laterality.IMAGE for row in data.rows]

    def rewrite(_: SplitData) -> list[str | None]:
        pairs = zip(data.prompts, sided, strict=True)
        return [mirror(prompt) if of_image else None for prompt, of_image in pairs]

    return Perturbation("flipped", prompts=rewrite, image=lambda image, _: image.flip(-1))


def equivariance(result: PerturbedResult, table: PerturbationTable) -> Equivariance:
    """1 - Dice of the mask of the mirrored image and prompt to the mirrored mask; 0 is perfect."""
    kept, clean = result.changed, table.clean
    if clean is None or not kept.any():
        note = "no prompt with the image's left and right could be mirrored"
        return Equivariance(n=0, error=None, note=note)
    error = 1 - dice_per_image(counts(result.masks[kept], clean.masks[kept][:, :, ::-1]))
    return Equivariance(
        n=int(kept.sum()),
        error=table.bootstrap.take(kept).mean(error),
        median=float(np.median(error)),
    )


def verdicts(rows: Sequence[PerturbationRow]) -> PromptVerdicts:
    """Apply the rules: does a model ignore its prompt, or the place in it, or segment what is reported as absent?

    A verdict is None if nothing can be said: no prompt could be rewritten, or the model segmented nothing at all.
    """
    # kinds that nothing is known of are left out
    medians: dict[str, float] = {}
    shares: dict[str, float] = {}
    for row in rows:
        if row.iou_to_clean is not None and row.iou_to_clean.median is not None:
            medians[row.kind] = row.iou_to_clean.median
        if row.still_painted is not None:
            shares[row.kind] = row.still_painted

    def unmoved(kinds: Sequence[str]) -> PromptVerdict:
        judged = {kind: medians[kind] for kind in kinds if kind in medians}
        rule = f"median IoU of the mask to that of the original prompt is at least {UNMOVED} for each of "
        return PromptVerdict(
            holds=all(value >= UNMOVED for value in judged.values()) if judged else None,
            rule=rule + ", ".join(kinds),
            medians=judged,
        )

    def painted(kind: str, prompt: str) -> PromptVerdict:
        share = shares.get(kind)
        rule = f"more than {PAINTS:.0%} of the images that get a mask with their original prompt still get one with "
        holds = None if share is None else share > PAINTS
        return PromptVerdict(holds=holds, rule=rule + prompt, share=share)

    return PromptVerdicts(
        ignores_text=unmoved(MOVES),
        ignores_place=unmoved(PLACES),
        paints_absent=painted("absent", "a prompt that reports no finding"),
        paints_unrelated=painted("unrelated", "a prompt about something else"),
    )


def verdict_lines(method: str, found: PromptVerdicts) -> list[str]:
    """The verdicts in words, with their figures and rules."""
    lines = []
    for name, verdict in found.named.items():
        yes, no = VERDICT_WORDS[name]
        words = f"{name}: unknown"
        if verdict.holds is not None:
            words = (yes if verdict.holds else no).format(method)

        numbers = [f"{kind} {value:.3f}" for kind, value in (verdict.medians or {}).items()]
        if verdict.share is not None:
            numbers.append(f"share {verdict.share:.3f}")
        figures = f" ({', '.join(numbers)})" if numbers else ""
        lines.append(f"{words}{figures}. Rule: {verdict.rule}.")
    return lines


def where_lines(rows: Sequence[PerturbationRow]) -> list[str]:
    """Where the masks went, kind by kind."""
    lines = []
    for row in rows:
        moved = row.where
        if moved is not None and row.kind != CLEAN.kind:
            lines.append(
                f"{row.kind}: area {moved.area_before * 100:.1f} to {moved.area_after * 100:.1f} % of the image; "
                f"left half {_percent(moved.left_before)} to {_percent(moved.left_after)} % of the mask; center moves "
                f"{_percent(moved.right_by)} % of the width to the right and {_percent(moved.down_by)} % of the "
                f"height down on average, {_percent(moved.distance)} % of the side in any direction "
                f"(n = {moved.n} with both masks)"
            )
    return lines


def _equivariance_line(found: Equivariance) -> str:
    error = (found.note or "") if found.error is None else cell(found.error)
    return (
        f"flip(image) and swap(text) against flip(mask), 1 - Dice, percent: {error}, n = {found.n}."
    )


def _with_moves(
    row: PerturbationRow, result: PerturbedResult, clean: PerturbedResult
) -> PerturbationRow:
    """Add area, share of the left half and shift of the center, and how many images still get a mask."""
    kept = result.changed
    before, after = _geometry(clean.masks[kept]), _geometry(result.masks[kept])
    painted, still = before[:, 0] > 0, after[:, 0] > 0
    both = painted & still
    shift = after[both, 2:] - before[both, 2:]

    where = MaskMove(
        n=int(both.sum()),
        area_before=float(before[:, 0].mean()),
        area_after=float(after[:, 0].mean()),
        left_before=_mean(before[both, 1]),
        left_after=_mean(after[both, 1]),
        right_by=_mean(shift[:, 0]),
        down_by=_mean(shift[:, 1]),
        distance=_mean(np.hypot(shift[:, 0], shift[:, 1])),
    )

    # of the images with a clean mask, how many still have one
    return row.model_copy(update={"where": where, "still_painted": _mean(still[painted])})


def _geometry(masks: Bools) -> Floats:
    """N 4: area and, of it, the share in the left half, the mean column and the mean row, all as shares of 1."""
    n, rows, columns = masks.shape
    across, down = masks.sum(1, dtype=np.int64), masks.sum(2, dtype=np.int64)
    area = across.sum(1)
    x, y = ((np.arange(size) + 0.5) / size for size in (columns, rows))
    parts = [area / (rows * columns), across @ (x < 0.5), across @ x, down @ y]

    # an empty mask has zeros
    out = np.zeros((n, 4))
    out[:, 0] = parts[0]
    out[:, 1:] = np.stack(parts[1:], 1) / np.maximum(area, 1)[:, None]
    return out


def _mean(values: Floats | Bools) -> float | None:
    return float(values.mean()) if len(values) else None


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value * 100:.1f}"


def _bars_chart(rows: Sequence[PerturbationRow]) -> bytes:
    bars = []
    for row in rows:
        mean = row.iou_to_clean.mean if row.iou_to_clean else None
        if mean is not None and row.kind != CLEAN.kind:
            bars.append(bar(f"{row.kind} (n = {row.n})", mean))
    return bar_intervals_png(
        bars or [("no mask to compare", 0.0, 0.0, 0.0)],
        "IoU to the mask of the original prompt\n1: the mask stays where it was",
        "",
    )
