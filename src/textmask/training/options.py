"""How a training is executed, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textmask.errors import ConfigError
from textmask.runs.data_options import DataOptions


@dataclass(frozen=True)
class TrainOptions:
    """How a training is executed. Nothing here is part of the recipe.

    Attributes:
        trackers: "tensorboard", "mlflow".
        time_limit_s: stop after the epoch that reaches this many seconds of training and validation; every stage
            trains for at least one epoch.
        devices: processes per node or a list of GPU numbers, as in Lightning Fabric; batch sizes are global.
        num_nodes: as in Lightning Fabric.
        strategy: as in Lightning Fabric.
        accelerator: as in Lightning Fabric.
        auto_batch: a new run takes the largest batches that fit on its GPUs; they become part of its recipe.
        data_options: how the data were read; kept in the run, see `Run.options`.
        source: path of the data; kept in the run, see `Run.source`.
        init: a run, `default` or a hub folder whose weights a new run starts from, see `training.init`.
        accept_changes: resume although data or machine differ, with a warning.
        save_every_steps: also save within an epoch. Random numbers are then drawn anew after each saved step, so that
            a resumed run has those of one that was not stopped.
    """

    trackers: tuple[str, ...] = ()
    time_limit_s: float | None = None
    devices: int | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"
    auto_batch: bool = False
    data_options: DataOptions | None = None
    source: Path | None = None
    init: Path | None = None
    accept_changes: bool = False
    save_every_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is not offered.

        Raises:
            ConfigError: the strategy shards the weights.
        """
        refuse_sharding(self.strategy)


def refuse_sharding(strategy: str) -> None:
    """Refuse strategies that divide the weights among the processes.

    Raises:
        ConfigError: it is one of them.
    """
    if strategy.startswith("fsdp"):
        raise ConfigError(
            f"strategy {strategy!r} is not offered: Lightning Fabric runs FSDP on GPUs only, so that no test without "
            "GPUs can show that its checkpoints are whole and a resumed run is exact. Use ddp. A frozen text encoder "
            "needs no sharding: it reads each prompt once, and its output is cached."
        )


@dataclass(frozen=True)
class TrainResult:
    """Folder and chosen epoch of a run; `best` is -1 if the last stage has no validation score.

    `warnings` says in words what makes the score doubtful.
    """

    path: Path
    best: float
    best_epoch: int
    seconds: float
    warnings: tuple[str, ...] = ()
