"""What a run has reached, stored after each epoch so that a stopped run can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from textmask.config import Recipe
from textmask.methods.base import Method
from textmask.runs import checkpoint, layout
from textmask.runs.folder import RunFolder

NO_SCORE = -1.0  # below every score; JSON has no minus infinity
METHOD, AVERAGE, SCALER = "method/", "average/", "scaler/"


@dataclass
class TrainState:
    """Training progress; stored with `last.safetensors`, so that a resumed run continues at the same place.

    Attributes:
        stage: number of the stage, from 0.
        epoch: finished epochs of the stage.
        step: finished optimizer steps of the run.
        best: best validation score of the stage, or `NO_SCORE`.
        best_epoch: epoch of that score, from 1; -1 before the first one.
        best_variant: which weights had that score, if the method has several.
        seconds: time spent in epochs and validation.
        done: all stages are finished.
        step_in_epoch: finished steps of an unfinished epoch; 0 between epochs.
        sums: of the values of these steps, for the row of the epoch.
        images: seen in these steps.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    best: float = NO_SCORE
    best_epoch: int = -1
    best_variant: str = ""
    seconds: float = 0.0
    done: bool = False
    step_in_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0

    def next_stage(self, stages: int) -> None:
        """Move to the next of `stages` stages, or be done."""
        if self.stage + 1 == stages:
            self.done = True
            return
        self.stage, self.epoch = self.stage + 1, 0
        self.best, self.best_epoch = NO_SCORE, -1

    def keep(self, score: float | None, variant: str) -> None:
        """Note that the epoch just finished is the best one."""
        self.best = NO_SCORE if score is None else score
        self.best_epoch, self.best_variant = self.epoch, variant


@dataclass
class SavedRun:
    """The content of `last.safetensors`; empty for a new run.

    Attributes:
        state: how far it has come.
        log: one row per finished epoch.
        tensors: the optimizer and moving average of an unfinished stage; empty otherwise.
    """

    state: TrainState = field(default_factory=TrainState)
    log: list[dict[str, Any]] = field(default_factory=list)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def pack(
    method: Method, optimizer: torch.optim.Optimizer | None, average: AveragedModel | None
) -> dict[str, Tensor]:
    """All that training changes, as flat tensors."""
    tensors = {f"{METHOD}{key}": value for key, value in method.state_dict().items()}
    if optimizer is not None:
        tensors.update(checkpoint.pack_optimizer(optimizer))
    if average is not None:
        for key, value in average.state_dict().items():
            tensors[f"{AVERAGE}{key}"] = value
    return tensors


def restore(folder: RunFolder, recipe: Recipe, method: Method) -> SavedRun:
    """Read `last.safetensors` and load its weights into the method.

    Args:
        folder: of the run.
        recipe: with the epochs of its budget.
        method: receives the weights.

    Raises:
        CheckpointError: the file is damaged.
    """
    tensors, metadata = checkpoint.read_tensors(folder.path / layout.LAST)
    method.load_state_dict(with_prefix(tensors, METHOD))
    state = TrainState(**metadata["state"])

    # the run may have been stopped between two stages
    stage = recipe.stages[state.stage]
    if state.epoch >= stage.epochs or stage.optim is None:
        state.next_stage(len(recipe.stages))
        tensors = {}
    return SavedRun(state, metadata["log"], tensors)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
