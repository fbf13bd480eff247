"""`python -m textmask` and the command `textmask`: what must be settled before anything is imported."""

from __future__ import annotations

import os
import signal
import statistics
import time
from types import FrameType

INTERRUPTED = 130
SAMPLES, PAUSE_S = 5, 0.002


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """End while modules are imported: nothing has been started, so there is nothing to put away."""
    os.write(2, b"\nstopped before anything was started\n")
    os._exit(INTERRUPTED)


def too_few_cores() -> bool:
    """Whether other processes leave fewer cores than this one has threads, so that a waiting thread should sleep.

    Spinning threads are quicker on free cores (a third of a training step on two cores), and several times slower
    where a thread that they wait for has lost its core: benchmarks/threads.py.
    """
    cores = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdigit() else cores
    return running_beside() + threads > cores


def running_beside() -> int:
    """Other processes and threads of the machine that run or wait for a core now; 0 where Linux is not there to ask."""
    counts = []
    for _ in range(SAMPLES):
        try:
            with open("/proc/loadavg", encoding="ascii") as file:
                running = file.read().split()[3]
            counts.append(int(running.partition("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return 0
        # a process that runs for a moment only does not count
        time.sleep(PAUSE_S)
    return int(statistics.median(counts))


def start() -> None:
    """Entry point: imports the command line with Ctrl-C and SIGTERM guarded, then runs it."""
    # OpenMP reads this once, when torch loads it
    if too_few_cores():
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    # Ctrl-C counts from the first moment on
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop_at_once)

    from textmask.cli.app import main

    main()


if __name__ == "__main__":
    start()
