"""One optimizer step of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from textmask.config import Optim, Stage
from textmask.errors import TextMaskError
from textmask.methods.base import Method
from textmask.runs.checkpoint import unpack_optimizer
from textmask.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    weighted_sum,
)
from textmask.training.saving import AVERAGE, pack, with_prefix
from textmask.types import Batch


class LossModule(nn.Module):
    """The losses as a `forward`, so that autocast and gradient synchronization see them."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, stage: str, batch: Callable[[], Batch]) -> dict[str, Tensor]:
        """Unweighted loss terms. The batch comes in a closure: Fabric would copy and cast a bare dataclass."""
        return self.method.losses(stage, batch())


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
        self.average = _build_average(method, stage.ema_decay, with_prefix(restored, AVERAGE))

        # Fabric's wrappers have no useful types
        module, wrapped = fabric.setup(LossModule(method), optimizer)
        self.module: Any = module
        self.optimizer: Any = wrapped

    @property
    def trained(self) -> Method:
        """The model to validate and keep: the moving average if there is one."""
        return self.method if self.average is None else cast(Method, self.average.module)

    def tensors(self) -> dict[str, Tensor]:
        """All that the stage changes, for resuming."""
        return pack(self.method, self.optimizer.optimizer, self.average)

    def start_step(self, epoch: int, i: int) -> float:
        """Set and return the learning rate of step `i` of an epoch, both from 0."""
        step, steps = epoch * self.steps_per_epoch + i, self.stage.epochs * self.steps_per_epoch
        lr = learning_rate(self.stage.schedule, self.lr, step, steps, self.steps_per_epoch)
        set_learning_rate(self.optimizer, lr)
        return lr

    def run(self, batch: Batch, epoch: int, i: int) -> dict[str, float]:
        """Train on one batch.

        Args:
            batch: on the device.
            epoch: from 0.
            i: number of the step in the epoch, from 0.

        Returns:
            The total loss, each loss term and each monitored value.

        Raises:
            TextMaskError: the loss is not finite.
        """
        losses = self.module(self.stage.name, lambda: batch)
        loss = weighted_sum(losses, self.stage.weights, epoch + i / self.steps_per_epoch)
        values = {"loss": loss.item()}
        for name, term in losses.items():
            values[f"loss/{name}"] = term.item()
        for name, value in self.method.monitors().items():
            values[f"monitor/{name}"] = float(value)
        if not math.isfinite(values["loss"]):
            raise TextMaskError(
                f"the loss is not finite at epoch {epoch + 1}, step {i + 1}: {values}. "
                "Lower the learning rate or set precision=fp32."
            )

        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.stage.clip_norm is not None:
            self.fabric.clip_gradients(
                self.module,
                self.optimizer,
                max_norm=self.stage.clip_norm,
                error_if_nonfinite=False,
            )
        self.optimizer.step()

        # teachers and averages follow the new weights
        self.method.after_step(self.stage.name, epoch * self.steps_per_epoch + i)
        if self.average is not None:
            self.average.update_parameters(self.method)
        return values


def _build_average(
    method: Method, decay: float | None, restored: Mapping[str, Tensor]
) -> AveragedModel | None:
    """Moving average of the parameters; buffers (running statistics) are copied from the model, not averaged."""
    if decay is None:
        return None
    average = AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    if restored:
        average.load_state_dict(dict(restored))
    return average
