"""Cost of reading a prompt as a program: `python benchmarks/programs.py`.

One process, one thread. Every round reads prompts that were not read before, so that no cache answers. The first round,
which is not counted, fills the cache of misspelled words.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

from timing import Goals

from textmask.statement import Laterality
from textmask.text.program_grammar import parse_program

PROMPTS = """the left lung
the collarbone above the right lung
every structure except the heart
the kidney with the larger cross-section
second vertebral body from the top
from L2 to L4
what lies inside the ring of heart muscle
The liver is unremarkable. Show only the pancreas.
not the artery but the vein
outline the optic disc
bilateral pulmonary infection, two infected areas, upper left lung and lower right lung.
opacity in the lower left lung""".splitlines()
ROUNDS = 25
ROUND = itertools.count()


def microseconds(read: Callable[[str], object], prompts: list[str]) -> float:
    """Mean microseconds of a prompt, the median of the rounds after the first one."""
    times = []
    for _ in range(ROUNDS):
        # spaces at the end make a prompt new to a cache
        fresh = [prompt + " " * next(ROUND) for prompt in prompts]
        begin = time.perf_counter()
        for prompt in fresh:
            read(prompt)
        times.append((time.perf_counter() - begin) / len(prompts) * 1e6)
    return statistics.median(times[1:])


def main() -> int:
    """Print the time of each prompt and the goal lines; 0 only if every goal is met."""
    parse_program("the left lung")
    goals = Goals()
    costs = []
    for prompt in PROMPTS:
        costs.append(microseconds(lambda text: parse_program(text, Laterality.IMAGE), [prompt]))
        print(f"{costs[-1]:>8.0f} us  {prompt}")
    goals.at_most("program_parse_ms", sum(costs) / len(costs) / 1e3, 0.2)
    known = [microseconds(lambda _: parse_program(PROMPTS[0]), PROMPTS)]
    goals.at_most("program_parse_cached_ms", known[0] / 1e3, 0.01)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
