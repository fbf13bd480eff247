"""What a score was measured on and how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmask.data.manifest import Row, image_of
from textmask.errors import CheckpointError, DataError
from textmask.io.files import file_sha256
from textmask.runs.layout import split_list
from textmask.runs.record import read_record

if TYPE_CHECKING:
    from textmask.evaluation.scoring import Scorer
    from textmask.runs.checkpoint import Run

# figures stand in one table only where these agree
COMPARABLE = ("data_hash", "split", "n", "size", "empty_policy", "hd95")

HD95 = "pooled directed distances, px; one empty mask counts as the image diagonal"


def provenance_lines(summary: dict[str, Any]) -> list[str]:
    """Which weights and data made each row, and what the rows with other sentences were given."""
    protocol = summary["protocol"]
    lines = [f"data {protocol['data_hash'][:12]} (sha256 of the table)"]
    for name, row in summary["rows"].items():
        if row["sentences"] == "own":
            size = " x ".join(map(str, row["size"]))
            lines.append(
                f"{name}: weights {row['weights_sha256'][:12]}, {row['labelled_rows']} labelled pictures, "
                f"predicted at {size}, threshold {row['threshold']}, seed {row['seed']}"
                + (
                    f", {cut} sentences longer than it reads"
                    if (cut := row.get("sentences_cut"))
                    else ""
                )
            )
    if any(row["sentences"] == "shuffled" for row in summary["rows"].values()):
        lines.append(
            f"shuffled text: each picture gets another picture's sentence (seed {protocol['shuffled_seed']}), one that "
            f"names other zones; {protocol['shuffled_same_claim']} of {protocol['n']} could only get the same zones"
        )
    return lines


def labelled_rows(data: dict[str, Any]) -> int:
    """Labelled training pictures of a run's data.json; the most any stage had."""
    return max(data.get("labelled_rows", {}).values(), default=0)


def _listed(run: Path, split: str) -> set[str]:
    """The images of a split of a run."""
    path = split_list(run, split)
    names = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {image_of(name) for name in names}


def refuse_leaks(run: Path, rows: Iterable[Row], split: str) -> None:
    """Check that rows can be scored: not trained on (unless the training split is what is asked for), each with a mask.

    Raises:
        DataError: naming some of the rows that cannot.
    """
    rows = list(rows)
    trained = _listed(run, "train") if split != "train" else set()
    shared = sorted(trained.intersection(row.image for row in rows))
    if shared:
        raise DataError(
            f"{len(shared)} pictures of split {split!r} were trained on by {run}, e.g. {shared[:3]}. "
            "Evaluate on other pictures, or on --split train and say so."
        )
    missing = [row.image for row in rows if row.mask is None]
    if missing:
        raise DataError(
            f"{len(missing)} pictures of split {split!r} have no mask to score against, e.g. {missing[:3]}. "
            "Name their masks in the table, or move the rows to a split of their own."
        )


def protocol_of(scorer: Scorer, run: Run, groups: list[str], n_bootstrap: int) -> dict[str, Any]:
    """What a table has to say of its run, its pictures and its rules."""
    stage = run.recipe.stages[-1]
    chosen_by = (
        f"valid {run.recipe.select_on}"
        if stage.optim and stage.select == "metric"
        else "being the last epoch"
    )
    if stage.optim and _listed(run.path, "valid").intersection(
        row.image for row in scorer.data.rows
    ):
        chosen_by += " on these very pictures, which flatters the figures"
    return {
        "data": scorer.manifest.name,
        "data_hash": scorer.manifest.hash(),
        "trained_on": run.data.get("hash"),
        "split": scorer.split,
        "n": len(scorer.data),
        "n_groups": count_groups(groups),
        "size": ["each mask's own size"] if scorer.native else list(run.recipe.image_size),
        "threshold": run.recipe.threshold,
        "empty_policy": run.recipe.empty_policy,
        "hd95": HD95 if scorer.surface else "not computed",
        "interval": f"95 % bootstrap over groups, {n_bootstrap} resamples; p: paired permutation of groups, Holm",
        "chosen_by": chosen_by,
        "chosen_epoch": run.result.get("epoch"),
        "weights_sha256": file_sha256(run.weights),
        "train_seconds": run.result.get("seconds"),
        "seed": run.recipe.seed,
        "git_commit": read_record(run.path).environment.get("git_commit", ""),
        "laterality": run.data.get("laterality"),
    }


def count_groups(groups: Sequence[str]) -> int:
    """Independent groups among the names of N images; the name "" is a group of its own each time."""
    return len({group for group in groups if group}) + sum(not group for group in groups)


def comparable_key(protocol: dict[str, Any]) -> str:
    """All on which figures must agree to stand in one table."""
    return json.dumps([protocol[name] for name in COMPARABLE])


def not_a_summary(path: Path, error: Exception) -> CheckpointError:
    """What to raise for a file that another version has written, or nobody."""
    return CheckpointError(
        f"{path} is no summary of this version of textmask ({error!r}). Evaluate the run again."
    )
