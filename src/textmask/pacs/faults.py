"""When a task is tried again: faults that may pass are told apart from images and prompts that stay unusable."""

from __future__ import annotations

import traceback

from textmask.errors import PacsAccessError, PacsError

FIRST_RETRY_S, LONGEST_RETRY_S = 30.0, 3600.0
RETRY_DAYS = 7.0  # then a task has failed
OVERDUE_S = 3600.0  # a task that waits longer is an alarm
MAX_TRACE = 8_000  # letters
# the server or the network (also a full disk, a proxy, an object that is not there yet), and this machine
PASSING = (PacsError, PacsAccessError, OSError, MemoryError)


def retry_after_s(faults: int) -> float:
    """Seconds until the next try after so many faults: 30 s, twice as long each time, at most an hour."""
    return min(FIRST_RETRY_S * 2.0 ** min(max(faults - 1, 0), 30), LONGEST_RETRY_S)


def trace_of(error: BaseException) -> str:
    """The places in the code that an error and its causes passed, without their messages, which may quote an image."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 5:
        parts.append("".join(traceback.format_tb(cause.__traceback__)) + type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return "\ncaused by\n".join(parts)[-MAX_TRACE:]
