"""Start the processes of a training, and build the method for their devices."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from textmask.config import Recipe
from textmask.data.loaders import for_tiles
from textmask.methods.base import Method
from textmask.methods.registry import build_method
from textmask.runs.session import computed_precision, is_cpu
from textmask.training.options import TrainOptions
from textmask.training.splits import TrainSplits

# Fabric's names of the precisions
FABRIC_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
# how long processes wait for each other; decoding a large split on a slow disk takes hours
WAIT = timedelta(days=2)
WHY_FP32 = {
    "bf16": "this CPU has no bf16 instructions and is faster in fp32",
    "fp16": "a CPU has no fast fp16",
}


def fitted_recipe(recipe: Recipe, accelerator: str) -> tuple[Recipe, list[str]]:
    """The recipe as this machine computes it.

    Args:
        recipe: as declared.
        accelerator: as in Lightning Fabric.

    Returns:
        The recipe, and what was adapted and why, a line for each.
    """
    lines = []
    precision = computed_precision(recipe.precision, accelerator)
    if precision != recipe.precision:
        why = WHY_FP32[recipe.precision]
        lines.append(f"precision {recipe.precision} -> {precision}, because {why}")
        recipe = recipe.model_copy(update={"precision": precision})
    if recipe.compile and is_cpu(accelerator):
        lines.append("compile is off, because compiled networks are slower on a CPU")
    return recipe, lines


def launch(recipe: Recipe, options: TrainOptions) -> Fabric:
    """Start the processes of a training."""
    strategy: str | DDPStrategy = options.strategy
    devices = options.devices if isinstance(options.devices, int) else len(options.devices)
    if strategy == "ddp" or (strategy == "auto" and devices * options.num_nodes > 1):
        strategy = DDPStrategy(timeout=WAIT)
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=strategy,
        precision=FABRIC_PRECISION[recipe.precision],
    )
    fabric.launch()
    return fabric


def new_method(recipe: Recipe, splits: TrainSplits, fabric: Fabric) -> Method:
    """A new method on the device of this process, which has seen the prompts it will be trained with."""
    method = build_method(recipe)
    prompts, _ = for_tiles(splits.train.prompts, splits.train.statements, recipe.tiles)
    method.prepare(sorted(set(prompts)))
    method.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.compile and fabric.device.type != "cpu":
        compile_networks(method)
    return method


def compile_networks(method: Method, backend: str = "inductor") -> None:
    """Compile the networks of a method in place; what reads prompts stays as it is: each text would be compiled anew.

    Args:
        method: on its device.
        backend: as in `torch.compile`.
    """
    for child in method.children():
        if child is method.text_encoder:
            continue
        # a list of modules is never called, its members are
        network = child.net if child is method.teacher and method.teacher is not None else child
        parts = (
            network.children() if isinstance(network, nn.ModuleList | nn.ModuleDict) else (network,)
        )
        for part in parts:
            part.compile(backend=backend)
