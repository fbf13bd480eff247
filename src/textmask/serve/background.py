"""Background jobs: segment folders of images one after the other, and report progress."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from textmask.errors import DataError, TextMaskError
from textmask.inference.jobs import BatchItem, read_jobs
from textmask.inference.report_masks import prompts_of
from textmask.serve.access import below
from textmask.serve.problems import Problem
from textmask.serve.store import new_id

MOST_FAILURES = 100  # reported per job
MOST_FINISHED = 64  # finished jobs that are kept

Work = Callable[[BatchItem], tuple[str, ...]]


@dataclass
class BackgroundJob:
    """Images to segment into a folder, and the progress.

    Attributes:
        rows: images and prompts.
        out: folder of the results.
        shown_out: its name in responses, relative to the jobs folder.
        work: segments one row and returns its warning codes.
        id: random and unguessable.
        status: waiting, running, done, failed (no image succeeded) or cancelled.
        done: number of images that succeeded.
        failed: number of images that failed.
        with_warnings: number of images with warnings.
        failures: (image, message) of the first `MOST_FAILURES`.
        cancelled: set to stop the job after the current image.
    """

    rows: Sequence[BatchItem]
    out: Path
    shown_out: str
    work: Work
    id: str = field(default_factory=new_id)
    status: str = "waiting"
    done: int = 0
    failed: int = 0
    with_warnings: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)


def rows_below(root: Path, source: str, prompt: str | None, most: int) -> list[BatchItem]:
    """Read the images of a folder or a jobs file, all of them below `root`.

    Args:
        root: the jobs folder.
        source: folder, image or jobs file, relative to `root`.
        prompt: for all images; None if the jobs file has its own.
        most: largest accepted number of images.

    Raises:
        Problem: 403 if a path leaves `root`, 404 if `source` does not exist, 413 if there are more than `most` images,
            422 if there is nothing to do.
    """
    base, path = root.resolve(), below(root, source)
    if not _path_exists(path):
        raise Problem(404, "no_such_source", "there is no such folder or file in the jobs folder.")
    try:
        rows = read_jobs(path, prompt)
    except (TextMaskError, OSError) as error:
        raise Problem(422, "no_jobs", _relative(str(error), base)) from error

    # a report is one row per finding
    rows = [replace(row, text=text) for row in rows for text in prompts_of(row.text)]

    # a jobs file may name any path
    if len(rows) > most:
        raise Problem(413, "too_many_rows", f"{len(rows):,} images; the limit is {most:,} per job.")
    for row in rows:
        if row.image.is_absolute() and not row.image.is_relative_to(base):
            raise Problem(403, "outside_jobs_root", "a row names an image outside the jobs folder.")
        below(base, str(row.image.relative_to(base)))  # also refuses ../ and links that lead out
    return rows


def _path_exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for the disk
        return False


def _relative(message: str, base: Path) -> str:
    """An error message without the absolute path of the jobs folder."""
    return message.replace(f"{base}/", "").replace(str(base), "the jobs folder")


class BackgroundJobs:
    """One background thread that runs the jobs one after the other.

    Args:
        most: largest number of jobs that wait or run.
        count: called with `done` or `failed` for each image.
    """

    def __init__(self, most: int, count: Callable[[str], None] = lambda _: None) -> None:
        self._most, self._count = most, count
        self._jobs: dict[str, BackgroundJob] = {}
        self._waiting: queue.SimpleQueue[BackgroundJob | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> int:
        """Number of jobs that wait or run."""
        with self._lock:
            return sum(job.status in ("waiting", "running") for job in self._jobs.values())

    def add(self, job: BackgroundJob) -> BackgroundJob:
        """Queue a job.

        Raises:
            Problem: 429 if too many jobs are queued, 422 if the results folder cannot be created.
        """
        if self.active >= self._most:
            raise Problem(
                429, "busy", f"{self._most} jobs are waiting or running.", {"Retry-After": "30"}
            )
        try:
            job.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(
                422, "no_out", f"the results folder cannot be created ({error.strerror})."
            ) from error

        with self._lock:
            # only the latest finished jobs are kept
            finished = []
            for name, other in self._jobs.items():
                if other.status not in ("waiting", "running"):
                    finished.append(name)
            for name in finished[: max(0, len(finished) - MOST_FINISHED + 1)]:
                del self._jobs[name]

            self._jobs[job.id] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="textmask-jobs", daemon=True)
                self._thread.start()
        self._waiting.put(job)
        return job

    def get(self, name: str) -> BackgroundJob | None:
        """The job with this id; None if there is none."""
        with self._lock:
            return self._jobs.get(name)

    def remove(self, name: str) -> bool:
        """Cancel and forget a job, but keep its results; returns whether there was one."""
        with self._lock:
            job = self._jobs.pop(name, None)
        if job is not None:
            job.cancelled.set()
        return job is not None

    def close(self) -> None:
        """Cancel all jobs and wait for the current image."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            job.status = "running"
            for row in job.rows:
                if job.cancelled.is_set():
                    break
                self._one(job, row)
            ended = "done" if job.done or not job.failed else "failed"
            job.status = "cancelled" if job.done + job.failed < len(job.rows) else ended

    def _one(self, job: BackgroundJob, row: BatchItem) -> None:
        try:
            warnings = job.work(row)
        except Exception as error:  # one bad image does not end the job
            job.failed += 1
            if len(job.failures) < MOST_FAILURES:
                job.failures.append((row.image.name, _problem_text(error)))
            self._count("failed")
        else:
            job.done += 1
            job.with_warnings += bool(warnings)
            self._count("done")


def _problem_text(error: Exception) -> str:
    if isinstance(error, Problem):
        return error.message
    return str(error) if isinstance(error, DataError) else f"unexpected {type(error).__name__}"
