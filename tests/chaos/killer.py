"""Run commands again and again, and kill each before its first moment, its second ... until it ends by itself.

Usage: python killer.py JOBS.json with a list of `Job`. Of each job, WORK/killed/N holds what the kill before moment N
left, WORK/again/N the same after the commands that come next, WORK/complete what the command leaves without a kill.

A moment is a call that changes what is in the folder (a file opened for writing, a name made, renamed or removed), or a
step of a training. Python announces the former in an audit event before they happen. Native code that writes into an
open file is not seen; the calls before and after it are.
"""

import json
import os
import shutil
import signal
import sys
import warnings
from dataclasses import dataclass
from itertools import count
from pathlib import Path

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
WRITES |= {"os.truncate", "shutil.rmtree", "shutil.copyfile", "shutil.move"}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MOST = 600
AT_ONCE = 2
ENDED = 10  # exit status of a trial whose command ended before it was killed
SCORE = "score"  # a command of this file: an evaluation without surfaces and report


@dataclass(frozen=True)
class Job:
    """A command, in whose arguments {work} stands for the folder that a trial writes to.

    Attributes:
        pristine: what is in that folder before the command.
        work: folder of the trials, which does not exist yet.
        command: arguments of `textmask`.
        again: commands that are run after the kill, or after the command if it was not killed.
        kills: number of kills, spread over all moments; None is one before every moment.
    """

    pristine: str
    work: str
    command: list[str]
    again: list[list[str]]
    kills: int | None = None


class Clock:
    """Counts the moments of this process, and ends it before one of them."""

    def __init__(self) -> None:
        self.inside, self.seen, self.kill_before = "", 0, 0
        sys.addaudithook(self.hear)

    def start(self, inside: str, kill_before: int) -> None:
        """Count from now on; 0 kills never, an empty folder counts nothing."""
        self.inside, self.seen, self.kill_before = inside, 0, kill_before

    def hear(self, event: str, found: tuple) -> None:
        """Receive an audit event."""
        if self.inside and is_write(event, found, self.inside):
            self.tick()

    def tick(self) -> None:
        """A moment has come."""
        self.seen += bool(self.inside)
        if self.seen == self.kill_before and self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)


def is_write(event: str, arguments: tuple, inside: str) -> bool:
    """Whether an audit event is of a call that will change something in a folder."""
    if event == "ctypes.dlsym":  # the exchange of two names is no function of Python
        return arguments[1] == "renameat2"
    if event == "open":
        return str(arguments[0]).startswith(inside) and bool((arguments[2] or 0) & CHANGES)
    if event == "os.remove" and not os.path.lexists(arguments[0]):
        return False
    return event in WRITES and any(str(name).startswith(inside) for name in arguments)


def run(arguments: list[str], folder: Path) -> int:
    """Run a command in this process; returns its exit status."""
    filled = [argument.replace("{work}", str(folder)) for argument in arguments]
    if filled[0] == SCORE:
        from textmask.data.manifest import read_manifest
        from textmask.evaluation.evaluate import EvaluationOptions, evaluate

        options = EvaluationOptions(n_bootstrap=20, surface=False, device="cpu")
        evaluate(Path(filled[1]), read_manifest(Path(filled[2])), "test", options)
        return 0

    from textmask.cli.app import main

    sys.argv = ["textmask", *filled]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def expect(status: int, arguments: list[str]) -> None:
    """Stop if a command that was not killed has failed."""
    if status:
        raise RuntimeError(f"exit status {status} of textmask {' '.join(arguments)}")


def trial(job: Job, clock: Clock, number: int) -> int:
    """Kill the command before its moment of that number, then run what comes next; in a process of its own."""
    folder = Path(job.work) / "killed" / str(number)
    shutil.copytree(job.pristine, folder)
    child = os.fork()
    if not child:
        clock.start(str(folder), number)
        status = run(job.command, folder)
        sys.stdout.flush()
        os._exit(status)

    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed:
        expect(os.waitstatus_to_exitcode(status), job.command)
    if killed and not job.again:
        return 0

    after = Path(job.work) / "again" / str(number)
    shutil.copytree(folder, after, symlinks=True)
    for arguments in job.again:
        expect(run(arguments, after), arguments)
    return 0 if killed else ENDED


def warm(job: Job, clock: Clock) -> int:
    """Run everything once, so that the forks have imported and compiled it; returns the moments of the command."""
    folder = Path(job.work) / "warm"
    shutil.copytree(job.pristine, folder)
    clock.start(str(folder), 0)
    expect(run(job.command, folder), job.command)
    moments = clock.seen
    clock.start("", 0)
    for arguments in job.again:
        expect(run(arguments, folder), arguments)
    shutil.rmtree(folder)
    return moments


def trials(job: Job, clock: Clock) -> None:
    """All kills of a job, some at once."""
    moments = warm(job, clock)
    numbers = iter(count(1))
    if job.kills is not None:
        # from the first to the last; a single one in the middle
        step = (moments - 1) / max(job.kills - 1, 1)
        first = 1 if job.kills > 1 else 1 + moments // 2
        spread = dict.fromkeys(first + round(i * step) for i in range(job.kills))
        numbers = iter([*spread, moments + 1])

    running: dict[int, int] = {}
    ended: list[int] = []
    while running or not ended:
        while len(running) < AT_ONCE and not ended and (number := next(numbers, 0)):
            if number > MOST:
                raise RuntimeError(f"the command did not end after {MOST} moments")
            child = os.fork()
            if not child:
                os._exit(guarded(job, clock, number))
            running[child] = number

        child, status = os.wait()
        number = running.pop(child)
        if (code := os.waitstatus_to_exitcode(status)) == ENDED:
            ended.append(number)
        elif code:
            raise RuntimeError(f"trial {number} ended with {code}")

    # the first of those that ended by themselves is the whole one
    work = Path(job.work)
    for number in sorted(ended):
        for kind in ("killed", "again"):
            path = work / kind / str(number)
            if kind == "again" and not (work / "complete").exists():
                path.rename(work / "complete")
            elif path.exists():
                shutil.rmtree(path)


def guarded(job: Job, clock: Clock, number: int) -> int:
    """`trial`, whose error is printed: a fork must not return to the caller."""
    try:
        return trial(job, clock, number)
    except BaseException as error:
        print(f"trial {number}: {error!r}", file=sys.stderr, flush=True)
        return 1


def count_steps(clock: Clock) -> None:
    """Make each step of a training a moment."""
    from textmask.training.steps import GradientStep

    real = GradientStep.run

    def step(self: GradientStep, *arguments: object) -> object:
        clock.tick()
        return real(self, *arguments)

    GradientStep.run = step


def prepare() -> Clock:
    """Import once what all commands need; one thread, because a fork has no others."""
    import torch

    import textmask.export.export
    import textmask.inference.calibration
    import textmask.reports.page  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clock = Clock()
    count_steps(clock)
    return clock


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    shared = prepare()
    for entry in found:
        trials(Job(**entry), shared)
