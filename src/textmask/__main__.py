"""`python -m textmask` and the command `textmask`: what must be settled before anything is imported."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """End while modules are imported: nothing has been started, so there is nothing to put away."""
    os.write(2, b"\nstopped before anything was started\n")
    os._exit(INTERRUPTED)


def start() -> None:
    """Entry point: imports the command line with Ctrl-C and SIGTERM guarded, then runs it."""
    # threads that wait for one another sleep: if they spin and another process has the core of one of them, a step
    # takes ten times as long (benchmarks/threads.py); OpenMP reads this once, when torch loads it
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    # Ctrl-C counts from the first moment on
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop_at_once)

    from textmask.cli.app import main

    main()


if __name__ == "__main__":
    start()
