"""Several runs as one folder that loads like a run: their mean probability."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.io.files import file_sha256, what_to_do, write_json, write_whole
from textmask.io.staging import staged
from textmask.methods.registry import get_method
from textmask.runs import layout
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.folder import write_names
from textmask.runs.record import NAME_HASHES, stored_names

# of a run folder and of a hub folder: what predicting and the leak checks need
COPIED = (
    *(layout.RECIPE, layout.DATA, layout.RESULT, layout.ENVIRONMENT, layout.WEIGHTS),
    *(layout.HUB_CONFIG, layout.HUB_WEIGHTS),
)


def make_ensemble(runs: Sequence[Path | str], out: Path) -> Path:
    """Copy runs into one folder that predicts their mean probability and loads like a run.

    `ensemble.json` names the members and the sha256 of their weights; it stands for the weights of the ensemble. The
    lists of train and valid images are those of all members together, so leak checks hold for each of them.

    Args:
        runs: two or more trained runs that agree on what they predict: image size, tiles, precision, threshold,
            laterality, grammar and data.
        out: a folder that does not exist yet.

    Returns:
        `out`.

    Raises:
        ConfigError: fewer than two runs, runs that do not agree, a run that is an ensemble, or `out` exists.
        CheckpointError: a run cannot be loaded, or `out` cannot be written; nothing is left then.
    """
    if len(runs) < 2:
        raise ConfigError(f"got {len(runs)} runs, expected two or more. Name the runs to average.")
    if out.exists():
        raise ConfigError(f"{out} exists. Give a folder that does not exist, or remove this one.")

    # loaded once, so that a damaged member is found now and not by the first prediction
    members = [load_run(run) for run in runs]
    for member in members:
        if layout.is_ensemble(member.path):
            raise ConfigError(f"{member.path} is an ensemble. Name its runs instead.")
        _refuse_difference(members[0], member)

    # the one that stands for all reads prompts if any of them does
    reading = [run for run in members if get_method(run.recipe.method).card.uses_text]
    first = (reading or members)[0]
    try:
        with staged(out) as folder:
            described = []
            for number, member in enumerate(members, start=1):
                _copy(member.path, layout.member_folder(folder, number))
                described.append(
                    {
                        "run": member.path.resolve().name,
                        "method": member.recipe.method,
                        "seed": member.recipe.seed,
                        "weights_sha256": file_sha256(member.weights),
                    }
                )
            lists = {split: _union(members, split) for split in ("train", "valid")}
            hashes = write_names(folder, {name: names for name, names in lists.items() if names})
            write_json(folder / layout.DATA, {**first.data, NAME_HASHES: hashes})
            write_json(folder / layout.RESULT, _result(first, members))
            write_json(folder / layout.ENSEMBLE, {"version": 1, "members": described})
            # last: this file makes the folder a run
            write_whole(folder / layout.RECIPE, first.recipe.to_json().encode())
    except (OSError, DataError) as error:
        code = error.errno if isinstance(error, OSError) else None
        raise CheckpointError(
            f"cannot write the ensemble {out}: {error} {what_to_do(code)}"
        ) from error
    return out


def _refuse_difference(first: Run, other: Run) -> None:
    """Refuse runs whose probabilities do not mean the same, pixel by pixel."""
    theirs = _agreed(other)
    for name, value in _agreed(first).items():
        if theirs[name] != value:
            raise ConfigError(
                f"{first.path} and {other.path} differ in {name}: {value!r} and {theirs[name]!r}. "
                "An ensemble needs runs that agree on it; train one of them again with the other's value."
            )


def _agreed(run: Run) -> dict[str, Any]:
    """What the members of an ensemble have in common."""
    recipe = run.recipe
    return {
        "image_size": tuple(recipe.image_size),
        "tiles": recipe.tiles,
        "precision": recipe.precision,
        "threshold": recipe.threshold,
        "empty_policy": recipe.empty_policy,
        "laterality": run.data.get("laterality"),
        "grammar": run.data.get("grammar"),
        "domain": run.data.get("domain"),
        "data (sha256 of the manifest)": run.data.get("hash"),
    }


def _copy(run: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in COPIED:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    if (run / layout.SPLITS).is_dir():
        shutil.copytree(run / layout.SPLITS, folder / layout.SPLITS)


def _union(members: Sequence[Run], split: str) -> list[str]:
    """The images that any member has in a split: none of them may be scored as new."""
    names: dict[str, None] = {}
    for member in members:
        names.update(dict.fromkeys(stored_names(member.path, split)))
    return list(names)


def _result(first: Run, members: Sequence[Run]) -> dict[str, Any]:
    """The result of the ensemble: no epoch and no score were measured for it."""
    seconds = [float(member.result.get("seconds") or 0) for member in members]
    return {
        "stage": first.recipe.stages[-1].name,
        "ensemble_of": len(members),
        "seconds": round(sum(seconds), 1),
    }
