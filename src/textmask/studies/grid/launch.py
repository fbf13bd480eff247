"""Where the trials of a study run: here one after another, as SLURM jobs (submitit), or as tasks of a Ray cluster.

In each case a trial leaves its row in its run folder, and results are read from there. The machines share the folder
of the study, the data and the textmask installation.
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
from textmask.errors import BusyError, ConfigError, TextMaskError
from textmask.runs.environment import limited_threads
from textmask.studies.grid.trials import Trial, TrialSet

Started = Callable[[Trial, str], None]


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended: `error` is "" if it left its row, `busy` if another process is training it."""

    trial: Trial
    error: str = ""
    busy: bool = False


def run_trials(
    launcher: Launcher, study: TrialSet, trials: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    """Train trials; yields each as it ends, in any order.

    With the local launcher an error of a trial is raised and stops the rest; elsewhere it is part of the outcome.

    Args:
        launcher: where they run.
        study: all trials of the study.
        trials: those that have no row yet.
        started: called with a trial, and with where it runs, when it starts here or is submitted elsewhere.
        bar: draw the progress bar of a local training.

    Raises:
        ConfigError: the launcher is not installed, not reachable, or does not take its parameters.
    """
    if trials:
        yield from _LAUNCHERS[launcher.name](launcher, study, trials, started, bar)


def work(study: TrialSet, trial: Trial, threads: int | None, bar: bool = False) -> TrialOutcome:
    """Make one trial in this process."""
    try:
        with limited_threads(threads):
            study.make(trial, bar)
    except BusyError as error:
        return TrialOutcome(trial, str(error), busy=True)
    return TrialOutcome(trial)


def work_elsewhere(study: TrialSet, trial: Trial, threads: int) -> TrialOutcome:
    """Make one trial in a process without a terminal: errors that a user can cause come back as text."""
    try:
        return work(study, trial, threads)
    except TextMaskError as error:
        return TrialOutcome(trial, str(error))


class ClusterTask:
    """`work_elsewhere` as a SLURM job; stopped at its time limit and started again, it resumes its training."""

    def __call__(self, study: TrialSet, trial: Trial, threads: int) -> TrialOutcome:
        """Make the trial."""
        return work_elsewhere(study, trial, threads)

    def checkpoint(self, study: TrialSet, trial: Trial, threads: int) -> Any:
        """What submitit puts back into the queue."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, study, trial, threads)


def _local(
    launcher: Launcher, study: TrialSet, trials: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    for trial in trials:
        started(trial, "")
        yield work(study, trial, launcher.threads, bar)


def _slurm(
    launcher: Launcher, study: TrialSet, trials: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    """An array of jobs. They continue if this process is stopped; a job of a finished or busy trial ends at once."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            f"--engine slurm needs submitit: pip install 'textmask[slurm]' ({error})."
        ) from error

    threads = launcher.threads or THREADS
    parameters: dict[str, Any] = {
        "name": "textmask",
        "cpus_per_task": threads,
        "timeout_min": DAY_MIN,
    }
    parameters.update(slurm_parameter(text) for text in launcher.slurm)
    try:
        executor = submitit.AutoExecutor(
            folder=trials[0].path.parent / "jobs" / "%j", cluster=launcher.cluster
        )
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise ConfigError(f"--engine slurm: submitit reports: {error}") from error

    # jobs share the cache: decode before any of them starts
    study.decode()
    with executor.batch():
        jobs = [executor.submit(ClusterTask(), study, trial, threads) for trial in trials]
    for trial, job in zip(trials, jobs, strict=True):
        started(trial, f"job {job.job_id}")

    waiting = list(zip(trials, jobs, strict=True))
    while waiting:
        ended = [pair for pair in waiting if pair[1].done()]
        waiting = [pair for pair in waiting if pair not in ended]
        for trial, job in ended:
            problem = job.exception()
            failed = TrialOutcome(trial, f"{last_line(problem)} (log: {job.paths.stderr})")
            yield failed if problem else replace(job.result(), trial=trial)
        if waiting:
            time.sleep(POLL_S)


def _ray(
    launcher: Launcher, study: TrialSet, trials: Sequence[Trial], started: Started, bar: bool
) -> Iterator[TrialOutcome]:
    """Tasks of the cluster that RAY_ADDRESS names, or of a Ray instance on this machine that ends with the study."""
    ray = import_ray()
    with ray_cluster(ray):
        threads = ray_threads(ray, launcher)
        study.decode()
        gpus = ray_gpus(ray, study.device)
        task = ray.remote(work_elsewhere).options(num_cpus=threads, num_gpus=gpus, name="textmask")

        # Ray shows a task only the GPU it has reserved
        shared = ray.put(replace(study, device=study.device.partition(":")[0]))
        waiting = {task.remote(shared, trial, threads): trial for trial in trials}
        for trial in trials:
            started(trial, "a task of Ray")

        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            trial = waiting.pop(ended)
            try:
                yield replace(ray.get(ended), trial=trial)
            except ray.exceptions.RayError as error:
                yield TrialOutcome(trial, last_line(error))


_LAUNCHERS: dict[
    str, Callable[[Launcher, TrialSet, Sequence[Trial], Started, bool], Iterator[TrialOutcome]]
] = {
    "local": _local,
    "slurm": _slurm,
    "ray": _ray,
}
