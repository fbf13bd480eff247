"""Options of the machine that trains: how many processes, on which devices, in which precision."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from textmask.cli.options import MAX_DEVICES, check_device
from textmask.errors import ConfigError, choose
from textmask.training.options import refuse_sharding

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
STRATEGIES = ("auto", "ddp", "single_device")
PRECISIONS = ("bf16", "fp16", "fp32")

Devices = Annotated[
    int,
    typer.Option(
        help="Processes per node; batch sizes stay global (default: 1).", min=1, max=MAX_DEVICES
    ),
]
NumNodes = Annotated[
    int, typer.Option("--num-nodes", help="Number of nodes (default: 1).", min=1, max=MAX_DEVICES)
]
Strategy = Annotated[
    str,
    typer.Option(help="Strategy of Lightning Fabric: auto, ddp or single_device (default: auto)."),
]
Accelerator = Annotated[
    str | None,
    typer.Option(
        help="Accelerator of Lightning Fabric: auto, cpu, cuda, gpu or mps (default: that of --device)."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Precision: bf16, fp16 or fp32 (default: that of the recipe)."
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Images per step, or auto: the most that fit on a GPU (default: that of the recipe).",
    ),
]


def machine_settings(precision: str | None, batch_size: str | None) -> list[str]:
    """The settings of a recipe that `--precision` and `--batch-size` stand for.

    Raises:
        ConfigError: a value is not one of those named in the help.
    """
    settings = []
    if precision is not None:
        settings.append(f"precision={choose('precision', precision, PRECISIONS)}")
    if batch_size is not None and batch_size != "auto":
        if not batch_size.isdecimal() or not int(batch_size):
            raise ConfigError(
                f"--batch-size is {batch_size!r}, expected a number of images or auto."
            )
        settings.append(f"stages.*.batch_size={batch_size}")
    return settings


def process_options(
    device: str, devices: int, num_nodes: int, strategy: str, accelerator: str | None
) -> dict[str, Any]:
    """The fields of `TrainOptions` that say where a training runs.

    Raises:
        ConfigError: options contradict each other, a name is unknown, or this machine does not have the device.
    """
    refuse_sharding(strategy)
    choose("strategy", strategy, STRATEGIES)
    if accelerator is not None:
        choose("accelerator", accelerator, ACCELERATORS)
        if device != "auto":
            raise ConfigError(
                f"--accelerator {accelerator} and --device {device} name the same thing. Leave one of them out."
            )
        device = "cuda" if accelerator == "gpu" else accelerator

    check_device(device)
    from textmask.runs.session import fabric_device, find_device

    find_device(device)
    kind, chosen = fabric_device(device)
    if devices > 1 and isinstance(chosen, list):
        raise ConfigError(
            f"--devices {devices} does not fit --device {device}, which is one device. Leave one of them out."
        )
    return {
        "accelerator": kind,
        "devices": devices if devices > 1 else chosen,
        "num_nodes": num_nodes,
        "strategy": strategy,
    }
