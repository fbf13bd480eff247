"""What a score was measured on and how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmask.data.manifest import Row, image_of
from textmask.errors import DataError
from textmask.evaluation.summary import EvaluationSummary, Protocol
from textmask.io.files import file_sha256
from textmask.runs.record import read_record, stored_names

if TYPE_CHECKING:
    from textmask.evaluation.scoring import Scorer
    from textmask.runs.checkpoint import Run

HD95 = "pooled directed distances, px; one empty mask counts as the image diagonal"


def provenance_lines(summary: EvaluationSummary) -> list[str]:
    """Which weights and data made each row, and which prompts the rows with other prompts were given."""
    protocol = summary.protocol
    data = f"data {protocol.data_hash[:12]} (sha256 of the manifest)"
    if protocol.content:
        data += f", content {protocol.content[:12]}"
    lines = [data]
    for name, row in summary.rows.items():
        if row.sentences == "masks":
            lines.append(f"{name}: masks of the folder {row.run}, sha256 {row.weights_sha256[:12]}")
        if row.sentences != "own":
            continue
        size = " x ".join(map(str, row.size))
        line = (
            f"{name}: weights {row.weights_sha256[:12]}, {row.labelled_rows} labelled images, "
            f"predicted at {size}, threshold {row.threshold}, seed {row.seed}"
        )
        if row.sentences_cut:
            line += f", {row.sentences_cut} prompts longer than it reads"
        lines.append(line)

    if any(row.sentences == "shuffled" for row in summary.rows.values()):
        lines.append(
            f"shuffled text: each image gets another image's prompt (seed {protocol.shuffled_seed}), one that "
            f"names other zones; {protocol.shuffled_same_claim} of {protocol.n} could only get the same zones"
        )
    return lines


def labelled_rows(data: dict[str, Any]) -> int:
    """Labelled training images of a run's data.json; the most that any stage had."""
    return max(data.get("labelled_rows", {}).values(), default=0)


def _listed(run: Path, split: str) -> set[str]:
    """The images of a split of a run."""
    return {image_of(name) for name in stored_names(run, split)}


def refuse_leaks(run: Path, rows: Iterable[Row], split: str) -> None:
    """Check that rows can be scored: not trained on (unless the training split is asked for), each with a mask.

    Raises:
        DataError: naming some of the rows that cannot.
        CheckpointError: the list of what the run was trained on is damaged.
    """
    rows = list(rows)
    trained = _listed(run, "train") if split != "train" else set()
    shared = sorted(trained.intersection(row.image for row in rows))
    if shared:
        raise DataError(
            f"{len(shared)} images of split {split!r} were trained on by {run}, e.g. {shared[:3]}. "
            "Evaluate on other images, or on --split train and say so."
        )

    missing = [row.image for row in rows if row.mask is None]
    if missing:
        raise DataError(
            f"{len(missing)} images of split {split!r} have no mask to score against, e.g. {missing[:3]}. "
            "Name their masks in the manifest, or move the rows to a split of their own."
        )


def protocol_of(scorer: Scorer, run: Run, groups: Sequence[str], interval: str) -> Protocol:
    """What a table has to say of its run, its images and its rules.

    Args:
        scorer: of the split.
        run: the run.
        groups: N names of patients.
        interval: how intervals are made, in words.
    """
    stage = run.recipe.stages[-1]
    chosen_by = "being the last epoch"
    if stage.optim and stage.select == "metric":
        chosen_by = f"valid {run.recipe.select_on}"
    images = [row.image for row in scorer.data.rows]
    if stage.optim and _listed(run.path, "valid").intersection(images):
        chosen_by += " on these very images, which flatters the figures"

    commit = read_record(run.path).environment.get("git_commit", "")
    size: tuple[int | str, ...] = run.recipe.image_size
    if scorer.native:
        size = ("each mask's own size",)
    return Protocol(
        data=scorer.manifest.name,
        data_hash=scorer.manifest.hash(),
        content=scorer.data.content,
        trained_on=run.data.get("hash"),
        split=scorer.split,
        n=len(scorer.data),
        n_groups=count_groups(groups),
        size=size,
        threshold=run.recipe.threshold,
        empty_policy=run.recipe.empty_policy,
        hd95=HD95 if scorer.surface else "not computed",
        interval=interval,
        chosen_by=chosen_by,
        chosen_epoch=run.result.get("epoch"),
        weights_sha256=file_sha256(run.weights),
        train_seconds=run.result.get("seconds"),
        seed=run.recipe.seed,
        git_commit=commit,
        laterality=run.data.get("laterality"),
    )


def count_groups(groups: Sequence[str]) -> int:
    """Independent groups among the names of N images; the name "" is a group of its own each time."""
    return len({group for group in groups if group}) + sum(not group for group in groups)
