"""The largest batch that fits on a GPU, found by trying before the run begins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from textmask.config import Optim, Recipe, Stage
from textmask.data.loaders import Loader
from textmask.errors import ConfigError
from textmask.methods.base import Method
from textmask.training.labels import unlabelled_rows
from textmask.training.launch import new_method
from textmask.training.optim import build_optimizer, parameter_groups, weighted_sum
from textmask.training.prompt_losses import prompt_losses
from textmask.training.splits import TrainSplits

LARGEST_TRIED = 1024
SHARE_OF_DATA = 8  # an epoch keeps at least so many steps


def largest_batch(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest of start, 2 start, 4 start ... that fits; if `start` does not, of start / 2, start / 4 ...

    Args:
        fits: tries a size.
        start: is tried first.
        most: nothing larger is tried.

    Raises:
        ConfigError: not even the smallest fits.
    """
    size = start
    if fits(size):
        while 2 * size <= most and fits(2 * size):
            size *= 2
        return size
    while size % 2 == 0:
        size //= 2
        if fits(size):
            return size
    raise ConfigError(
        f"not even a batch of {size} fits into the memory of the device. Reduce image_size, train tiles, or set "
        "stages.*.accumulate."
    )


def with_largest_batches(
    recipe: Recipe, splits: TrainSplits, fabric: Fabric
) -> tuple[Recipe, list[str]]:
    """The recipe with the largest batch of each stage that fits into the memory of every process.

    The learning rate stays as it is. The unlabelled stream grows with the labelled one.

    Returns:
        The recipe, and what was found in words.
    """
    if fabric.device.type != "cuda":
        return recipe, ["batch_size auto keeps that of the recipe: only CUDA devices are tried"]
    method = new_method(recipe, splits, fabric)
    stages, lines = [], []
    for stage in recipe.stages:
        if stage.optim is None or not stage.epochs:
            stages.append(stage)
            continue

        def fits(size: int, stage: Stage = stage, optim: Optim = stage.optim) -> bool:
            """Whether the batch fits in every process."""
            fitting = _step_fits(_resized(stage, size), optim, method, recipe, splits, fabric)
            shared = fabric.all_reduce(torch.tensor(float(fitting)), reduce_op="sum")
            return bool(float(shared) == fabric.world_size)

        rows = len(splits.labelled[stage.name])
        most = max(min(LARGEST_TRIED, rows // SHARE_OF_DATA), stage.batch_size)
        size = largest_batch(fits, stage.batch_size, most)
        lines.append(f"batch_size of {stage.name}: {stage.batch_size} -> {size} (auto)")
        stages.append(_resized(stage, size))
    return recipe.model_copy(update={"stages": tuple(stages)}), lines


def _resized(stage: Stage, size: int) -> Stage:
    """The stage with another batch size and the unlabelled one that belongs to it."""
    other = stage.unlabelled_batch_size * size // stage.batch_size
    return stage.model_copy(update={"batch_size": size, "unlabelled_batch_size": other})


def _step_fits(
    stage: Stage,
    optim: Optim,
    method: Method,
    recipe: Recipe,
    splits: TrainSplits,
    fabric: Fabric,
) -> bool:
    """Whether one step of this process fits into the memory of its device."""
    labelled = splits.labelled[stage.name]
    loader = Loader(
        splits.train,
        stage,
        seed=recipe.seed,
        train=True,
        indices=labelled,
        unlabelled_indices=unlabelled_rows(splits.train, stage, labelled),
        tiles=recipe.tiles,
        process=(fabric.global_rank, fabric.world_size),
        on_device=True,
    )
    optimizer = build_optimizer(optim, parameter_groups(method, stage))
    try:
        batch = next(loader.batches(0)).to(fabric.device, torch.channels_last)
        for part in batch.parts(stage.accumulate):
            with fabric.autocast():
                losses = prompt_losses(method, stage.name, part)
            torch.autograd.backward(weighted_sum(losses, stage.weights, 0.0))
        optimizer.step()
        torch.cuda.synchronize(fabric.device)
    except torch.OutOfMemoryError:
        return False
    finally:
        method.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True
