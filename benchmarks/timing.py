"""Fair timing in one process: candidates take turns, the median counts, one line per goal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(
    candidates: Mapping[str, Callable[[], object]], repeats: int = 7
) -> dict[str, float]:
    """Median seconds of each candidate; one warm-up each, then `repeats` rounds in which all take their turn."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(repeats):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


class Goals:
    """Collects `goal NAME measured X wanted >=Y ok|short` lines; the exit status is 0 only if all are ok."""

    def __init__(self) -> None:
        self.met: list[bool] = []

    def at_least(self, name: str, measured: float, wanted: float) -> None:
        """Print one goal line."""
        self.met.append(measured >= wanted)
        print(
            f"goal {name} measured {measured:.3g} wanted >={wanted:g} {'ok' if self.met[-1] else 'short'}"
        )

    def at_most(self, name: str, measured: float, wanted: float) -> None:
        """Print one goal line of a time, a size or an exponent."""
        self.met.append(measured <= wanted)
        print(
            f"goal {name} measured {measured:.3g} wanted <={wanted:g} {'ok' if self.met[-1] else 'short'}"
        )

    def finish(self) -> int:
        """Exit status of the script."""
        return 0 if all(self.met) else 1
