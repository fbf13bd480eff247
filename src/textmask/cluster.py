"""Where work runs: in this process, on a Ray cluster, or on SLURM."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from textmask.errors import ConfigError, choose

THREADS = 4  # of a task on a cluster, by default
POLL_S = 1.0
DAY_MIN = 24 * 60
AHEAD = 4  # tasks of Ray that wait for each free place
RETRIES = 3  # of a task whose process or machine dies
LAUNCHERS = ("local", "slurm", "ray")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Launcher:
    """Where trainings and predictions run.

    Attributes:
        name: local, slurm or ray.
        threads: CPU threads per task; None is the choice of torch when local, and 4 on a cluster (or all CPUs of a
            smaller machine).
        slurm: `field=value` parameters of submitit's AutoExecutor, e.g. `slurm_partition=gpu`, `timeout_min=600`.
        cluster: what submitit submits to; "local" and "debug" mean this machine.
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


@dataclass(frozen=True)
class SharedValue:
    """A large argument that all tasks of `run_tasks` have in common: each process reads it once.

    Attributes:
        value: the argument; None in another process, which reads it where `sent` says.
        sent: on a cluster, a list with Ray's reference. In a list, it is not read for each task.
        name: tells values apart in a process that works for several callers.
    """

    value: Any = field(default=None, compare=False)
    sent: list[Any] = field(default_factory=list, compare=False)
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    def get(self) -> Any:
        """The value."""
        return self.value if not self.sent else _read_shared(self)

    def for_tasks(self, ray: Any) -> SharedValue:
        """The same value as tasks of Ray are given it."""
        return SharedValue(None, [ray.put(self.value)], self.name)


@lru_cache(maxsize=2)
def _read_shared(shared: SharedValue) -> Any:
    return import_ray().get(shared.sent[0])


def run_tasks(
    engine: Launcher,
    function: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    device: str = "cpu",
    shared: SharedValue | None = None,
) -> Iterator[tuple[int, Result | None, str]]:
    """Call a function of this package with each tuple of arguments; yields (number, result, error) as each ends.

    The processes share the folders that the arguments name. On a cluster, an error of a task is yielded, not raised:
    its result is None then. A task reserves a GPU if `device` says that it uses one, see `ray_gpus`. A few tasks per
    free place are handed out at a time, so that the memory does not grow with their number. A task whose process or
    machine dies is run again elsewhere, at most `RETRIES` times: the function must be able to find its own leftovers.

    Args:
        engine: where they run.
        function: what is called.
        tasks: its arguments.
        device: what it computes on.
        shared: goes before the arguments of each task.

    Raises:
        ConfigError: the launcher is not installed or not reachable, or cannot run single tasks (slurm).
    """
    if engine.name == "slurm":
        raise ConfigError("single tasks run with --engine local or ray, got slurm.")
    if engine.name == "local" or not tasks:
        for i, task in enumerate(tasks):
            yield i, function(*([shared] if shared else []), *task), ""
        return

    # on a cluster, yield each result as soon as it is there
    ray = import_ray()
    with ray_cluster(ray):
        threads = ray_threads(ray, engine)
        remote = ray.remote(function).options(
            num_cpus=threads,
            num_gpus=ray_gpus(ray, device),
            name="textmask",
            max_retries=RETRIES,
        )
        first = () if shared is None else (shared.for_tasks(ray),)
        places = sum(node.get("CPU", 0) for node in ray_nodes(ray)) // threads
        rest = enumerate(tasks)
        waiting = {}
        for i, task in islice(rest, AHEAD * max(1, int(places))):
            waiting[remote.remote(*first, *task)] = i
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            i = waiting.pop(ended)
            for following, task in islice(rest, 1):
                waiting[remote.remote(*first, *task)] = following
            try:
                yield i, ray.get(ended), ""
            except ray.exceptions.RayError as error:
                yield i, None, last_line(error)


def import_ray() -> Any:
    """Import ray.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
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
    """CPUs per task: as given, else 4, or all CPUs of a smaller machine.

    Raises:
        ConfigError: no machine of the cluster has so many.
    """
    largest = int(max(node.get("CPU", 0) for node in ray_nodes(ray)))
    threads = engine.threads or min(THREADS, largest)
    if threads > largest:
        raise ConfigError(
            f"--engine ray: no machine of the cluster has {threads} CPUs (the largest has {largest}), so a task with "
            f"{threads} threads would wait forever. Give --threads {largest}."
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
    """Use the existing connection to Ray, or open one and close it at the end.

    Raises:
        ConfigError: Ray cannot be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises plain exceptions
        raise ConfigError(f"--engine ray: cannot reach or start Ray: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def slurm_parameter(text: str) -> tuple[str, Any]:
    """Split `field=value`; the value is read as JSON if it is JSON, else as text."""
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
    """The message of an exception from another process, without its traceback."""
    text = str(error).split("\n----------------------\nYou can check full logs")[0]  # of submitit
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
