"""Where the cells of a grid run: here one after another, as SLURM jobs (submitit), or as tasks of a Ray cluster.

Whichever it is, a cell leaves its row in its run folder, and that is where results are read from: the machines share
the folder of the study, the data and the textmask installation.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from textmask.errors import ConfigError, TextMaskError, choose
from textmask.run.grid import BusyError, Cell, Grid
from textmask.run.machine import limited_threads

THREADS = 4  # of a cell on a cluster, unless asked otherwise
POLL_S = 1.0
DAY_MIN = 24 * 60
Started = Callable[[Cell, str], None]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Engine:
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
        choose("engine", self.name, list(ENGINES))
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}, expected at least 1.")
        if self.slurm and self.name != "slurm":
            raise ConfigError(f"SLURM parameters ({' '.join(self.slurm)}) need --engine slurm, got {self.name}.")


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `error` is "" where it left its row, `busy` where another process is making it."""

    cell: Cell
    error: str = ""
    busy: bool = False


def run_cells(engine: Engine, grid: Grid, cells: Sequence[Cell], started: Started, bar: bool) -> Iterator[Outcome]:
    """Make cells; yields each as it ends, in any order.

    Here an error of a cell is raised and stops the rest; elsewhere it is told in the outcome.

    Args:
        engine: where.
        grid: of the cells.
        cells: those that have no row yet.
        started: called with a cell, and with where it runs, when it starts here or is handed over elsewhere.
        bar: draw the progress bar of a training here.

    Raises:
        ConfigError: the engine is not installed, not reachable, or does not take its parameters.
    """
    if cells:
        yield from ENGINES[engine.name](engine, grid, cells, started, bar)


def work(grid: Grid, cell: Cell, threads: int | None, bar: bool = False) -> Outcome:
    """Make one cell, in this process."""
    try:
        with limited_threads(threads):
            grid.make(cell, bar)
    except BusyError as error:
        return Outcome(cell, str(error), busy=True)
    return Outcome(cell)


def work_elsewhere(grid: Grid, cell: Cell, threads: int) -> Outcome:
    """Make one cell in a process that nobody sees: what a user can cause comes back as text."""
    try:
        return work(grid, cell, threads)
    except TextMaskError as error:
        return Outcome(cell, str(error))


def run_tasks(
    engine: Engine, function: Callable[..., Answer], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Answer | None, str]]:
    """Call a function of this package with each tuple of arguments; yields (number, answer, error) as each ends.

    The processes share the folders that the arguments name. An error of a task is told, not raised: its answer is
    None then.

    Raises:
        ConfigError: the engine is not installed or not reachable, or cannot run single tasks (slurm).
    """
    if engine.name == "slurm":
        raise ConfigError("single tasks run with --engine local or ray, got slurm.")
    if engine.name == "local" or not tasks:
        for i, task in enumerate(tasks):
            yield i, function(*task), ""
        return
    ray = _import_ray()
    with _ray_cluster(ray):
        threads = _ray_threads(ray, engine)
        remote = ray.remote(function).options(num_cpus=threads, name="textmask")
        waiting = {remote.remote(*task): i for i, task in enumerate(tasks)}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            i = waiting.pop(ended)
            try:
                yield i, ray.get(ended), ""
            except ray.exceptions.RayError as error:
                yield i, None, _last_line(error)


class Job:
    """`work_elsewhere` as a job that SLURM may stop at its time limit and start again: training then goes on."""

    def __call__(self, grid: Grid, cell: Cell, threads: int) -> Outcome:
        """Make the cell."""
        return work_elsewhere(grid, cell, threads)

    def checkpoint(self, grid: Grid, cell: Cell, threads: int) -> Any:
        """What submitit puts into the queue again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, grid, cell, threads)


def _local(engine: Engine, grid: Grid, cells: Sequence[Cell], started: Started, bar: bool) -> Iterator[Outcome]:
    for cell in cells:
        started(cell, "")
        yield work(grid, cell, engine.threads, bar)


def _slurm(engine: Engine, grid: Grid, cells: Sequence[Cell], started: Started, bar: bool) -> Iterator[Outcome]:
    """An array of jobs. They go on when this process is stopped; a job whose cell is finished or busy ends at once."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"--engine slurm needs submitit: pip install 'textmask[slurm]' ({error}).") from error
    threads = engine.threads or THREADS
    parameters: dict[str, Any] = {"name": "textmask", "cpus_per_task": threads, "timeout_min": DAY_MIN}
    parameters |= dict(_parameter(text) for text in engine.slurm)
    try:
        executor = submitit.AutoExecutor(folder=cells[0].path.parent / "jobs" / "%j", cluster=engine.cluster)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise ConfigError(f"--engine slurm: submitit says: {error}") from error
    grid.decode()
    with executor.batch():
        jobs = [executor.submit(Job(), grid, cell, threads) for cell in cells]
    for cell, job in zip(cells, jobs, strict=True):
        started(cell, f"job {job.job_id}")
    waiting = list(zip(cells, jobs, strict=True))
    while waiting:
        ended = [(cell, job) for cell, job in waiting if job.done()]
        waiting = [pair for pair in waiting if pair not in ended]
        for cell, job in ended:
            problem = job.exception()
            failed = Outcome(cell, f"{_last_line(problem)} (log: {job.paths.stderr})")
            yield failed if problem else replace(job.result(), cell=cell)
        if waiting:
            time.sleep(POLL_S)


def _ray(engine: Engine, grid: Grid, cells: Sequence[Cell], started: Started, bar: bool) -> Iterator[Outcome]:
    """Tasks of the cluster that RAY_ADDRESS names, or of a Ray instance on this machine that ends with the study."""
    ray = _import_ray()
    with _ray_cluster(ray):
        threads = _ray_threads(ray, engine)
        grid.decode()
        gpus = 1 if any(node.get("GPU", 0) for node in _ray_nodes(ray)) else 0
        task = ray.remote(work_elsewhere).options(num_cpus=threads, num_gpus=gpus, name="textmask")
        shared = ray.put(grid)
        waiting = {task.remote(shared, cell, threads): cell for cell in cells}
        for cell in cells:
            started(cell, "a task of Ray")
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ended)
            try:
                yield replace(ray.get(ended), cell=cell)
            except ray.exceptions.RayError as error:
                yield Outcome(cell, _last_line(error))


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray: pip install 'textmask[ray]' ({error}).") from error
    return ray


def _ray_nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _ray_threads(ray: Any, engine: Engine) -> int:
    """CPUs of a task: as asked, or 4, or all of a smaller machine."""
    largest = int(max(node.get("CPU", 0) for node in _ray_nodes(ray)))
    threads = engine.threads or min(THREADS, largest)
    if threads > largest:
        raise ConfigError(
            f"--engine ray: no machine of the cluster has {threads} CPUs (the largest has {largest}), so a cell of "
            f"{threads} threads would wait for ever. Give --threads {largest}."
        )
    return threads


@contextmanager
def _ray_cluster(ray: Any) -> Iterator[None]:
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


def _parameter(text: str) -> tuple[str, Any]:
    """`field=value`, the value as JSON and as plain text where it is none."""
    name, sep, value = text.partition("=")
    if not sep:
        raise ConfigError(f"--slurm {text!r} has no '='. Write field=value, e.g. slurm_partition=gpu.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _last_line(error: object) -> str:
    """The exception itself, below its traceback from another process."""
    text = str(error).split("\n----------------------\nYou can check full logs")[0]  # of submitit
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


ENGINES: dict[str, Callable[[Engine, Grid, Sequence[Cell], Started, bool], Iterator[Outcome]]] = {
    "local": _local,
    "slurm": _slurm,
    "ray": _ray,
}
