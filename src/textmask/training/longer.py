"""More epochs for a finished run."""

from __future__ import annotations

from pathlib import Path

from textmask.config import Recipe
from textmask.errors import CheckpointError
from textmask.io.files import read_json, write_whole
from textmask.runs import layout
from textmask.training.budget import fit_stage


def with_more_epochs(run: Path, recipe: Recipe, more: int) -> Recipe:
    """Add epochs to the last stage of a finished run, so that it can be resumed; the best weights so far are kept.

    The learning rate follows the schedule of the longer stage: it jumps up to what it would have been there.

    Args:
        run: a finished run folder.
        recipe: of the run.
        more: epochs to add.

    Returns:
        The recipe that the run has now.

    Raises:
        CheckpointError: the run is not finished, or cannot be trained further.
    """
    stage = recipe.stages[-1]
    if not (run / layout.RESULT).is_file() or not (run / layout.LAST).is_file():
        raise CheckpointError(
            f"{run} is not finished. Resume it first: textmask train --resume {run}"
        )
    if stage.optim is None:
        raise CheckpointError(
            f"stage {stage.name!r} of {run} is not trained in epochs: more of them change nothing."
        )

    # what was trained may be more than what is declared, see `Stage.steps`
    fitted = stage.model_copy(update={"steps": None})
    for plan in read_json(run / layout.DATA).get("plan", ()):
        if plan["stage"] == stage.name:
            fitted, _ = fit_stage(stage, plan["images"], plan["unlabelled"])
    # the run has reached its full size and does not go back to a smaller one
    last = fitted.model_copy(update={"epochs": fitted.epochs + more, "sizes": ()})
    longer = recipe.model_copy(update={"stages": (*recipe.stages[:-1], last)})

    # a run that is stopped between the two is resumed with its old epochs, which finishes it at once
    (run / layout.RESULT).unlink()
    write_whole(run / layout.RECIPE, longer.to_json().encode())
    return longer
