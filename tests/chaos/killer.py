"""Run a command again and again, and kill it before its first write, its second, its third ... until it ends by itself.

Usage: python killer.py PRISTINE WORK ARGUMENT ... with {work} in an argument for the copy of PRISTINE that a trial
writes to. WORK/1, WORK/2 ... are what the kills left; the last one is of the command that ended by itself. Its exit
status is written to WORK/status.

A write is a call that changes what is in the copy: a file opened for writing, a name made, renamed or removed. Python
announces each in an audit event before it happens. Native code that writes into an open file is not seen; the calls
before and after it are.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
WRITES |= {"os.truncate", "shutil.rmtree", "shutil.copyfile", "shutil.move"}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MOST = 400


def is_write(event: str, arguments: tuple, inside: str) -> bool:
    """Whether an audit event is of a call that will change something in a folder."""
    if event == "ctypes.dlsym":  # the exchange of two names is no function of Python
        return arguments[1] == "renameat2"
    if event == "open":
        return str(arguments[0]).startswith(inside) and bool((arguments[2] or 0) & CHANGES)
    return event in WRITES and any(str(name).startswith(inside) for name in arguments)


def run(arguments: list[str], inside: str, kill_before: int) -> int:
    """Run the command in this process, which dies before its write of that number."""
    seen = 0

    def count(event: str, found: tuple) -> None:
        nonlocal seen
        if not is_write(event, found, inside):
            return
        seen += 1
        if seen == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    from textmask.cli.app import main

    sys.argv = ["textmask", *arguments]
    sys.addaudithook(count)
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def trials(pristine: Path, work: Path, arguments: list[str]) -> None:
    """All kills, each in its own copy and in a fork of this process, which has imported everything once."""
    import torch

    import textmask.export.export
    import textmask.inference.calibration
    import textmask.reports.page  # noqa: F401

    torch.set_num_threads(1)
    # once to the end: what is imported and compiled now is there in all forks
    warm = work / "warm"
    shutil.copytree(pristine, warm)
    run([argument.replace("{work}", str(warm)) for argument in arguments], str(warm), 0)
    shutil.rmtree(warm)

    for number in range(1, MOST):
        copy = work / str(number)
        shutil.copytree(pristine, copy)
        child = os.fork()
        if not child:
            filled = [argument.replace("{work}", str(copy)) for argument in arguments]
            status = run(filled, str(copy), number)
            sys.stdout.flush()
            os._exit(status)

        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            (work / "status").write_text(str(os.WEXITSTATUS(status)))
            return
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise RuntimeError(f"trial {number} ended with signal {os.WTERMSIG(status)}")
    raise RuntimeError(f"the command did not end after {MOST} writes")


if __name__ == "__main__":
    trials(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
