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


def find_beside(run: Run, beside: Sequence[Path] = ()) -> dict[str, Path]:
    """Run folders to set beside a run: the given ones, and baselines of the same data among its neighbours.

    Of several neighbours of one method the one most like the run is taken: as many labels, the same size, the same
    seed, named as its method, first in the alphabet.

    Raises:
        CheckpointError: a given folder is no run.
    """
    found: dict[str, Path] = {}
    seen = {run.path.resolve()}
    for path in map(run_path, beside):
        method = read_record(path).method
        if path.resolve() not in seen:
            seen.add(path.resolve())
            names = (method, f"{method} ({path.name})", f"{method} ({path})")
            found[next(name for name in names if name not in (run.recipe.method, *found))] = path
    likest: dict[str, tuple[Any, ...]] = {}
    for path in sorted(run.path.resolve().parent.iterdir()):
        try:
            record = read_record(path)
        except CheckpointError:
            continue
        recipe, data, name = record.recipe, record.data, record.method
        usable = name in BASELINES and name != run.recipe.method and name not in found
        if usable and data.get("hash") == run.data["hash"] and record.result:
            differs = (
                labelled_rows(data) != labelled_rows(run.data),
                tuple(recipe.get("image_size", ())) != run.recipe.image_size,
                recipe.get("seed") != run.recipe.seed,
                path.name != name,
            )
            likest[name] = min(likest.get(name, (differs, path)), (differs, path))
    return found | {name: likest[name][1] for name in BASELINES if name in likest}
