"""Where the cells of a grid run: here one after another, as SLURM jobs (submitit), or as tasks of a Ray cluster.

Whichever it is, a cell leaves its row in its run folder, and that is where results are read from: the machines share
the folder of the study, the data and the textmask installation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from textmask.cluster import (
    DAY_MIN,
    POLL_S,
    THREADS,
    Launcher,
    import_ray,
    last_line,
    ray_cluster,
    ray_gpus,
    ray_threads,
    slurm_parameter,
)
from textmask.errors import ConfigError, TextMaskError
from textmask.runs.environment import limited_threads
from textmask.studies.grid.cells import BusyError, Trial, TrialSet

Started = Callable[[Trial, str], None]


@dataclass(frozen=True)
class TrialOutcome:
    """How a cell ended: `error` is "" where it left its row, `busy` where another process is making it."""

    cell: Trial
    error: str = ""
    busy: bool = False


def run_trials(
    engine: Launcher, grid: TrialSet, cells: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
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
        yield from _LAUNCHERS[engine.name](engine, grid, cells, started, bar)


def work(grid: TrialSet, cell: Trial, threads: int | None, bar: bool = False) -> TrialOutcome:
    """Make one cell, in this process."""
    try:
        with limited_threads(threads):
            grid.make(cell, bar)
    except BusyError as error:
        return TrialOutcome(cell, str(error), busy=True)
    return TrialOutcome(cell)


def work_elsewhere(grid: TrialSet, cell: Trial, threads: int) -> TrialOutcome:
    """Make one cell in a process that nobody sees: what a user can cause comes back as text."""
    try:
        return work(grid, cell, threads)
    except TextMaskError as error:
        return TrialOutcome(cell, str(error))


class ClusterTask:
    """`work_elsewhere` as a job that SLURM may stop at its time limit and start again: training then goes on."""

    def __call__(self, grid: TrialSet, cell: Trial, threads: int) -> TrialOutcome:
        """Make the cell."""
        return work_elsewhere(grid, cell, threads)

    def checkpoint(self, grid: TrialSet, cell: Trial, threads: int) -> Any:
        """What submitit puts into the queue again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, grid, cell, threads)


def _local(
    engine: Launcher, grid: TrialSet, cells: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    for cell in cells:
        started(cell, "")
        yield work(grid, cell, engine.threads, bar)


def _slurm(
    engine: Launcher, grid: TrialSet, cells: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    """An array of jobs. They go on when this process is stopped; a job whose cell is finished or busy ends at once."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            f"--engine slurm needs submitit: pip install 'textmask[slurm]' ({error})."
        ) from error
    threads = engine.threads or THREADS
    parameters: dict[str, Any] = {
        "name": "textmask",
        "cpus_per_task": threads,
        "timeout_min": DAY_MIN,
    }
    parameters |= dict(slurm_parameter(text) for text in engine.slurm)
    try:
        executor = submitit.AutoExecutor(
            folder=cells[0].path.parent / "jobs" / "%j", cluster=engine.cluster
        )
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise ConfigError(f"--engine slurm: submitit says: {error}") from error
    grid.decode()
    with executor.batch():
        jobs = [executor.submit(ClusterTask(), grid, cell, threads) for cell in cells]
    for cell, job in zip(cells, jobs, strict=True):
        started(cell, f"job {job.job_id}")
    waiting = list(zip(cells, jobs, strict=True))
    while waiting:
        ended = [(cell, job) for cell, job in waiting if job.done()]
        waiting = [pair for pair in waiting if pair not in ended]
        for cell, job in ended:
            problem = job.exception()
            failed = TrialOutcome(cell, f"{last_line(problem)} (log: {job.paths.stderr})")
            yield failed if problem else replace(job.result(), cell=cell)
        if waiting:
            time.sleep(POLL_S)


def _ray(
    engine: Launcher, grid: TrialSet, cells: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    """Tasks of the cluster that RAY_ADDRESS names, or of a Ray instance on this machine that ends with the study."""
    ray = import_ray()
    with ray_cluster(ray):
        threads = ray_threads(ray, engine)
        grid.decode()
        gpus = ray_gpus(ray, grid.device)
        task = ray.remote(work_elsewhere).options(num_cpus=threads, num_gpus=gpus, name="textmask")
        # Ray shows a task only the GPU it has reserved
        shared = ray.put(replace(grid, device=grid.device.partition(":")[0]))
        waiting = {task.remote(shared, cell, threads): cell for cell in cells}
        for cell in cells:
            started(cell, "a task of Ray")
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ended)
            try:
                yield replace(ray.get(ended), cell=cell)
            except ray.exceptions.RayError as error:
                yield TrialOutcome(cell, last_line(error))


_LAUNCHERS: dict[
    str, Callable[[Launcher, TrialSet, Sequence[Trial], Started, bool], Iterator[TrialOutcome]]
] = {
    "local": _local,
    "slurm": _slurm,
    "ray": _ray,
}
