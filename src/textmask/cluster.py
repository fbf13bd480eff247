"""Other machines: tasks of a Ray cluster and jobs of SLURM."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from textmask.errors import ConfigError, choose

THREADS = 4  # of a cell on a cluster, unless asked otherwise
POLL_S = 1.0
DAY_MIN = 24 * 60
LAUNCHERS = ("local", "slurm", "ray")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Launcher:
    """Where cells run.

    Attributes:
        name: local, slurm or ray.
        threads: of torch in a cell; None is torch's own choice here, and 4 (or all of a smaller machine) elsewhere.
        slurm: `field=value` parameters of submitit's AutoExecutor, e.g. `slurm_partition=gpu`, `timeout_min=600`.
        cluster: what submitit submits to; "local" and "debug" are this machine.
    """

    name: str = "local"
    threads: int | None = None
    slurm: tuple[str, ...] = ()
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        choose("engine", self.name, LAUNCHERS)
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}, expected at least 1.")
        if self.slurm and self.name != "slurm":
            raise ConfigError(
                f"SLURM parameters ({' '.join(self.slurm)}) need --engine slurm, got {self.name}."
            )


def run_tasks(
    engine: Launcher,
    function: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    device: str = "cpu",
) -> Iterator[tuple[int, Result | None, str]]:
    """Call a function of this package with each tuple of arguments; yields (number, answer, error) as each ends.

    The processes share the folders that the arguments name. An error of a task is told, not raised: its answer is
    None then. A task reserves a GPU if `device` says that it uses one, see `ray_gpus`.

    Raises:
        ConfigError: the engine is not installed or not reachable, or cannot run single tasks (slurm).
    """
    if engine.name == "slurm":
        raise ConfigError("single tasks run with --engine local or ray, got slurm.")
    if engine.name == "local" or not tasks:
        for i, task in enumerate(tasks):
            yield i, function(*task), ""
        return
    ray = import_ray()
    with ray_cluster(ray):
        threads = ray_threads(ray, engine)
        remote = ray.remote(function).options(
            num_cpus=threads, num_gpus=ray_gpus(ray, device), name="textmask"
        )
        waiting = {remote.remote(*task): i for i, task in enumerate(tasks)}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            i = waiting.pop(ended)
            try:
                yield i, ray.get(ended), ""
            except ray.exceptions.RayError as error:
                yield i, None, last_line(error)


def import_ray() -> Any:
    """The module ray.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs Ray: pip install 'textmask[ray]' ({error})."
        ) from error
    return ray


def ray_nodes(ray: Any) -> list[dict[str, float]]:
    """Resources of each live machine of the cluster, e.g. {"CPU": 4.0, "GPU": 1.0}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def ray_threads(ray: Any, engine: Launcher) -> int:
    """CPUs of a task: as asked, or 4, or all of a smaller machine."""
    largest = int(max(node.get("CPU", 0) for node in ray_nodes(ray)))
    threads = engine.threads or min(THREADS, largest)
    if threads > largest:
        raise ConfigError(
            f"--engine ray: no machine of the cluster has {threads} CPUs (the largest has {largest}), so a cell of "
            f"{threads} threads would wait for ever. Give --threads {largest}."
        )
    return threads


def ray_gpus(ray: Any, device: str) -> int:
    """GPUs that a task reserves: one if it runs on CUDA, or on `auto` in a cluster that has any; else none.

    Raises:
        ConfigError: CUDA is asked for, and no machine of the cluster has a GPU.
    """
    if not device.startswith(("auto", "cuda")):
        return 0
    found = any(node.get("GPU", 0) for node in ray_nodes(ray))
    if device != "auto" and not found:
        raise ConfigError(
            f"--device {device}: no machine of the Ray cluster has a GPU. Use --device auto or cpu."
        )
    return int(found)


@contextmanager
def ray_cluster(ray: Any) -> Iterator[None]:
    """Use the connection there is, or make one and end it."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises just that
        raise ConfigError(f"--engine ray: cannot reach or start Ray: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def slurm_parameter(text: str) -> tuple[str, Any]:
    """`field=value`, the value as JSON and as plain text where it is none."""
    name, sep, value = text.partition("=")
    if not sep:
        raise ConfigError(
            f"--slurm {text!r} has no '='. Write field=value, e.g. slurm_partition=gpu."
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def last_line(error: object) -> str:
    """The exception itself, below its traceback from another process."""
    text = str(error).split("\n----------------------\nYou can check full logs")[0]  # of submitit
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
