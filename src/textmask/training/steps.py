"""One optimizer step of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn

from textmask.config import Optim, Stage
from textmask.methods.base import Method
from textmask.runs.checkpoint import unpack_optimizer
from textmask.training.averaging import MovingAverage
from textmask.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    weighted_sum,
)
from textmask.training.prompt_losses import prompt_losses
from textmask.training.saving import AVERAGE, SCALER, pack, with_prefix
from textmask.types import Batch


class LossModule(nn.Module):
    """The losses as a `forward`, so that autocast and gradient synchronization see them."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, stage: str, batch: Callable[[], Batch]) -> dict[str, Tensor]:
        """Unweighted loss terms. The batch comes in a closure: Fabric would copy and cast a bare dataclass."""
        return prompt_losses(self.method, stage, batch())


class GradientStep:
    """Losses, backward pass, optimizer and moving average of one stage.

    Args:
        fabric: launched.
        method: on the device of `fabric`.
        stage: weights, schedule and clipping.
        optim: optimizer of the stage.
        steps_per_epoch: optimizer steps per epoch.
        restored: tensors of an unfinished stage, as `pack` makes them; empty in a new one.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        stage: Stage,
        optim: Optim,
        steps_per_epoch: int,
        restored: Mapping[str, Tensor],
    ) -> None:
        self.fabric, self.method, self.stage = fabric, method, stage
        self.lr, self.steps_per_epoch = optim.lr, steps_per_epoch

        optimizer = build_optimizer(optim, parameter_groups(method, stage))
        if any(key.startswith("optim/") for key in restored):
            unpack_optimizer(optimizer, restored)
        self.average: MovingAverage | None = None
        if stage.ema_decay is not None:
            self.average = MovingAverage(method, stage.ema_decay)
            if saved := with_prefix(restored, AVERAGE):
                self.average.load_state_dict(saved)

        # Fabric's wrappers have no useful types
        module, wrapped = fabric.setup(LossModule(method), optimizer)
        self.module: Any = module
        self.optimizer: Any = wrapped
        saved_scaler = with_prefix(restored, SCALER)
        if saved_scaler and (scaler := self._scaler()) is not None:
            state = scaler.state_dict()
            state["scale"] = float(saved_scaler["scale"])
            state["_growth_tracker"] = int(saved_scaler["_growth_tracker"])
            scaler.load_state_dict(state)

    @property
    def trained(self) -> Method:
        """The model to validate and keep: the moving average if there is one."""
        return self.method if self.average is None else cast(Method, self.average.module)

    def tensors(self) -> dict[str, Tensor]:
        """All that the stage changes, for resuming."""
        tensors = pack(self.method, self.optimizer.optimizer, self.average)
        if (scaler := self._scaler()) is not None:
            state = scaler.state_dict()
            for name in ("scale", "_growth_tracker"):  # the others never change
                tensors[f"{SCALER}{name}"] = torch.tensor(state[name], dtype=torch.float64)
        return tensors

    def start_step(self, epoch: int, i: int) -> float:
        """Set and return the learning rate of step `i` of an epoch, both from 0."""
        step, steps = epoch * self.steps_per_epoch + i, self.stage.epochs * self.steps_per_epoch
        lr = learning_rate(self.stage.schedule, self.lr, step, steps, self.steps_per_epoch)
        set_learning_rate(self.optimizer, lr)
        return lr

    def run(self, batch: Batch, epoch: int, i: int) -> dict[str, Tensor]:
        """Train on one batch. Nothing is read from the device, so that the host may run ahead of it.

        Args:
            batch: on the device.
            epoch: from 0.
            i: number of the step in the epoch, from 0.

        Returns:
            The total loss, each loss term and each monitored value, on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts = batch.parts(self.stage.accumulate)
        found = []
        for number, part in enumerate(parts, 1):
            # gradients are shared among the processes once, with those of the last part
            with self.fabric.no_backward_sync(self.module, enabled=number < len(parts)):
                found.append(self._backward(part, epoch + i / self.steps_per_epoch, len(parts)))
        if self.stage.clip_norm is not None:
            self._clip(self.stage.clip_norm)
        self.optimizer.step()

        # teachers and averages follow the new weights
        self.method.after_step(self.stage.name, epoch * self.steps_per_epoch + i)
        if self.average is not None:
            self.average.update_parameters(self.method)
        return found[0] if len(found) == 1 else _means(found)

    def _backward(self, part: Batch, epoch: float, parts: int) -> dict[str, Tensor]:
        """Add the gradients of one of the equal parts of a batch; returns its values."""
        # weighted sum of the terms, all of which are logged
        losses = self.module(self.stage.name, lambda: part)
        loss = weighted_sum(losses, self.stage.weights, epoch)
        self.fabric.backward(loss if parts == 1 else loss / parts)

        values = {"loss": loss.detach()}
        for name, term in losses.items():
            values[f"loss/{name}"] = term.detach()
        for name, value in self.method.monitors().items():
            values[f"monitor/{name}"] = torch.as_tensor(value)
        return values

    def _clip(self, norm: float) -> None:
        """Limit the norm of the gradients."""
        scaler = self._scaler()
        if scaler is None:
            self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=norm, error_if_nonfinite=False
            )
            return
        # Fabric refuses this for fused optimizers, which take gradients that are scaled or not
        scaler.unscale_(self.optimizer.optimizer)
        nn.utils.clip_grad_norm_(self.method.parameters(), norm)

    def _scaler(self) -> torch.amp.GradScaler | None:
        """Scales the gradients in fp16, otherwise None."""
        precision = self.fabric.strategy.precision
        return precision.scaler if isinstance(precision, MixedPrecision) else None


def _means(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each value over the parts of a batch."""
    means = {}
    for name in found[0]:
        means[name] = torch.stack([values[name] for values in found]).float().mean()
    return means
