"""How the command line ends early: SIGTERM is Ctrl-C, and a second one ends at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # exit status after Ctrl-C and SIGTERM
_pressed = 0


def handle_signals() -> None:
    """Let SIGTERM (job schedulers, `docker stop`) do what Ctrl-C does; the second of either ends the process at once.

    Nothing is lost by that: files are renamed to their names only when they are whole. Processes that are started
    with Ctrl-C ignored (in the background of a script) keep ignoring it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed += 1
    if _pressed > 1:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nstopped at once\n")
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt
