"""Optimizers, learning-rate schedules and loss weights of a stage, as plain functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from textmask.config import Optim, Ramp, Schedule, Stage
from textmask.errors import ConfigError
from textmask.methods.base import Method

# of the schedule `poly`, in nnU-Net, TransUNet and Swin-Unet alike
POLY_POWER = 0.9


def learning_rate(
    schedule: Schedule, lr: float, step: int, steps: int, steps_per_epoch: int
) -> float:
    """Learning rate of one optimizer step.

    `one_cycle` starts at lr / 25.

    Args:
        schedule: name and parameters.
        lr: highest learning rate.
        step: number of the step, from 0.
        steps: number of steps in the stage.
        steps_per_epoch: optimizer steps per epoch.
    """
    low = schedule.lr_min
    if schedule.name == "constant":
        return lr
    if schedule.name == "warm_restarts":
        period = schedule.period_epochs * steps_per_epoch
        return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (step % period) / period))

    if schedule.name == "poly":
        return low + (lr - low) * math.pow(max(1 - step / steps, 0.0), POLY_POWER)

    # cosine up to lr, then cosine down to lr_min
    warm = round(schedule.warmup * steps) if schedule.name == "one_cycle" else 0
    if step < warm:
        return lr / 25 + (lr - lr / 25) * 0.5 * (1 - math.cos(math.pi * step / warm))
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def parameter_groups(method: Method, stage: Stage) -> list[dict[str, Any]]:
    """Group parameters by learning-rate factor and weight decay.

    A factor of 0 freezes a parameter. Norms and biases have no weight decay.

    Raises:
        ConfigError: a pattern of `lr_scale` matches no parameter.
    """
    # the first pattern that matches a name decides
    unused = set(stage.lr_scale)
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        matching = [pattern for pattern in stage.lr_scale if fnmatchcase(name, pattern)]
        unused -= set(matching)
        factor = stage.lr_scale[matching[0]] if matching else 1.0
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)

    if unused:
        names = sorted({name.split(".")[0] for name, _ in method.named_parameters()})
        raise ConfigError(
            f"lr_scale {sorted(unused)} of stage {stage.name!r} match no parameter. Parts: {names}."
        )

    # matrices decay, vectors do not
    decay = stage.optim.weight_decay if stage.optim else 0.0
    return [
        {"params": params, "factor": factor, "weight_decay": decay if decays else 0.0}
        for (factor, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(optim: Optim, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the optimizer of a stage over parameter groups; fused if all parameters are on CUDA."""
    # one kernel for all parameters; with scaled gradients it also skips a step without asking the host
    fused = all(p.device.type == "cuda" for group in groups for p in group["params"]) or None
    if optim.name in ("sgd", "nesterov"):
        nesterov = optim.name == "nesterov"
        return torch.optim.SGD(
            groups, lr=optim.lr, momentum=optim.betas[0], nesterov=nesterov, fused=fused
        )
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=optim.betas, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def weighted_sum(
    losses: Mapping[str, Tensor], weights: Mapping[str, float | Ramp], epoch: float
) -> Tensor:
    """Sum of weights[k] * losses[k].

    Raises:
        ConfigError: the keys differ, so that a term would be ignored.
    """
    if losses.keys() != weights.keys():
        raise ConfigError(
            f"the method returns the loss terms {sorted(losses)}, the recipe has weights for {sorted(weights)}. "
            "Name exactly the returned terms in the weights of the stage (0 disables a term)."
        )
    device = next((loss.device for loss in losses.values()), torch.device("cpu"))
    total = torch.zeros((), device=device)
    for name, loss in losses.items():
        weight = weights[name]
        # a term with weight 0 may be NaN and must not count
        value = weight.at(epoch) if isinstance(weight, Ramp) else weight
        if value:
            total = total + value * loss
    return total
