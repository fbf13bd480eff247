"""As many steps with few labels as with many: a study of labels must not compare lengths of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from textmask.config import Recipe, Stage
from textmask.data.loaders import one_pass
from textmask.studies.grid.trials import Trial


def equal_steps(trials: Sequence[Trial], rows: int) -> tuple[Trial, ...]:
    """The trials, each stage with the steps of the longest trial of the same method.

    Only methods that are trained with several label fractions are changed. Epochs stay as they are; with few labels an
    epoch is several passes over them. The batch is not reduced.

    Args:
        trials: of a study.
        rows: of the train split.
    """
    fractions: dict[str, set[float]] = {}
    for trial in trials:
        fractions.setdefault(trial.recipe.method, set()).add(trial.fraction)

    longest: dict[tuple[str, str], int] = {}
    for trial in trials:
        for stage in _trained(trial.recipe):
            key = trial.recipe.method, stage.name
            longest[key] = max(longest.get(key, 0), _steps_per_epoch(stage, rows))

    found = []
    for trial in trials:
        settings = []
        varied = len(fractions[trial.recipe.method]) > 1
        for stage in _trained(trial.recipe) if varied else ():
            steps = longest[trial.recipe.method, stage.name]
            if stage.steps_per_epoch != steps:
                settings.append(f"stages.{stage.name}.steps_per_epoch={steps}")
        recipe = trial.recipe.override(*settings)
        found.append(replace(trial, recipe=recipe, settings=(*trial.settings, *settings)))
    return tuple(found)


def _trained(recipe: Recipe) -> list[Stage]:
    return [stage for stage in recipe.stages if stage.optim is not None and stage.epochs]


def _steps_per_epoch(stage: Stage, rows: int) -> int:
    """Steps of an epoch, also of a stage with a budget."""
    labelled = max(math.floor(rows * stage.labelled_fraction + 0.5), 1)
    unlabelled = rows - labelled if stage.unlabelled_batch_size else 0
    steps = one_pass(stage, labelled, unlabelled)
    return max(steps, math.ceil((stage.steps or 0) / stage.epochs))
