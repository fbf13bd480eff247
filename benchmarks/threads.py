"""Two threads beside a busy core: a training step and a prediction with one thread, and with two by wait policy.

    python benchmarks/threads.py

OpenMP reads its policy when the process starts, so each candidate is a process of its own; they take turns, and the
medians count. A foreign process keeps one core busy. On a machine with more than two cores, pin everything to two of
them: `taskset -c 0,1 python benchmarks/threads.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from timing import Goals

BUSY = "while True: pass"
POLICY = "OMP_WAIT_POLICY"
SIZE, BATCH = 112, 8


def serve_steps() -> None:
    """The candidate: run what each line of the input names, and print its seconds."""
    import torch

    from textmask.config import Recipe
    from textmask.data.loaders import build_text
    from textmask.methods.registry import build_method, get_method
    from textmask.text.grammar import parse
    from textmask.types import Batch

    recipe: Recipe = get_method("statement_unet").recipe().lite()
    method = build_method(recipe).to(memory_format=torch.channels_last)
    prompt = "opacity in the lower left lung"
    image = torch.rand(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    mask = (torch.rand(BATCH, 1, SIZE, SIZE) > 0.5).float()
    text = build_text([prompt] * BATCH, [parse(prompt)] * BATCH)
    batch = Batch(image, text, mask)

    def train() -> None:
        losses = method.losses(recipe.stages[-1].name, batch)
        torch.stack(list(losses.values())).sum().backward()

    def predict() -> None:
        with torch.inference_mode():
            method(image[:1], build_text([prompt], [parse(prompt)]))

    work = {"train": train, "predict": predict}
    for run in work.values():
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        work[line.strip()]()
        print(time.perf_counter() - begin, flush=True)


class Candidate:
    """A process with some threads and a wait policy."""

    def __init__(self, threads: int, policy: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment.pop(POLICY, None)
        if policy:
            environment[POLICY] = policy
        command = [sys.executable, __file__, "--candidate"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self._read()

    def seconds(self, what: str) -> float:
        """Seconds of one call."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def main() -> int:
    """Print the table and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidate", action="store_true", help="used by the script itself")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if options.candidate:
        serve_steps()
        return 0

    goals = Goals()
    candidates = {
        "1 thread": Candidate(1, ""),
        "2 threads, default": Candidate(2, ""),
        "2 threads, passive": Candidate(2, "passive"),
    }
    for beside in ("nothing", "a busy process"):
        busy = None if beside == "nothing" else subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            for what in ("train", "predict"):
                times: dict[str, list[float]] = {name: [] for name in candidates}
                for _ in range(options.repeats):
                    for name, candidate in candidates.items():
                        times[name].append(candidate.seconds(what))
                medians = {name: statistics.median(found) for name, found in times.items()}
                shown = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in medians.items())
                print(f"{what} beside {beside}: {shown}")
                # what the command line chooses (textmask.__main__.too_few_cores)
                chosen = "2 threads, default" if busy is None else "2 threads, passive"
                goals.at_least(
                    f"threads_{what}_two_over_one_beside_{beside.replace(' ', '_')}",
                    medians["1 thread"] / medians[chosen],
                    1.0,
                )
        finally:
            if busy is not None:
                busy.kill()
                busy.wait()
    for candidate in candidates.values():
        candidate.close()
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
