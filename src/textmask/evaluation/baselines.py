"""What a run is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError
from textmask.evaluation.protocol import labelled_rows
from textmask.runs.checkpoint import Run
from textmask.runs.layout import run_path
from textmask.runs.record import read_record

BASELINES = ("text_prior", "unet", "statement_unet")


def find_neighbors(run: Run, given: Sequence[Path] = ()) -> dict[str, Path]:
    """Run folders to compare a run with: the given ones, and baselines of the same data next to the run.

    If several folders hold the same baseline, the one most like the run is taken: as many labels, the same size, the
    same seed, named as its method, first in the alphabet.

    Returns:
        Name of a table row -> run folder.

    Raises:
        CheckpointError: a given folder is not a run folder.
    """
    found: dict[str, Path] = {}
    seen = {run.path.resolve()}
    for path in map(run_path, given):
        method = read_record(path).method
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())

        # two runs of one method are told apart by folder, then by path
        names = (method, f"{method} ({path.name})", f"{method} ({path})")
        found[next(name for name in names if name not in (run.recipe.method, *found))] = path

    baselines = _nearest_baselines(run)
    for name in BASELINES:
        if name in baselines and name not in found:
            found[name] = baselines[name]
    return found


def _nearest_baselines(run: Run) -> dict[str, Path]:
    """The finished baselines of the same data in the folder that holds the run, each the one most like it."""
    best: dict[str, tuple[Any, ...]] = {}
    for path in sorted(run.path.resolve().parent.iterdir()):
        try:
            record = read_record(path)
        except CheckpointError:
            continue
        recipe, data, name = record.recipe, record.data, record.method
        if name not in BASELINES or name == run.recipe.method:
            continue
        if data.get("hash") != run.data["hash"] or not record.result:
            continue

        differs = (
            labelled_rows(data) != labelled_rows(run.data),
            tuple(recipe.get("image_size", ())) != run.recipe.image_size,
            recipe.get("seed") != run.recipe.seed,
            path.name != name,
        )
        best[name] = min(best.get(name, (differs, path)), (differs, path))
    return {name: path for name, (_, path) in best.items()}
