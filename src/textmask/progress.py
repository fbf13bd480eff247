"""Reports how far a long task has come."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # name of the task, done, total
