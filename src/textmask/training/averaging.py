"""Moving average of the weights of a stage, evaluated and kept instead of the weights themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """average = decay x average + (1 - decay) x weights after each step; the first step copies the weights.

    Buffers (running statistics) are copied from the model, not averaged. Equal to torch's own update, which reads the
    number of steps from the device each time; here it is also kept on the host.

    Args:
        model: is copied.
        decay: share of the average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.steps = 0
        self.register_load_state_dict_post_hook(_read_steps)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move one step towards the model."""
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        if mine and not self.steps:
            torch._foreach_copy_(mine, theirs)
        elif mine:
            torch._foreach_lerp_(mine, theirs, 1 - self.decay)

        for kept, new in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(new)
        self.steps += 1
        self.n_averaged += 1


def _read_steps(average: MovingAverage, _: Any) -> None:
    """Read the number of steps of an average whose state dict was loaded; called by torch."""
    average.steps = int(average.n_averaged)
