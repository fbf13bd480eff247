"""Cost of SSA's alignment and guidance in a training step: the lite preset at 224 x 224, batch 32.

Both sides take turns in this process with the same batch, optimizer and precision: the backbone as a method of its own,
and `ssa` over it, with all of its loss terms. The logits of both are equal at equal weights, so that only the terms
differ. All cores are used.
"""

import os
import time
from statistics import median

import torch
from timing import Goals

from textmask.data.loaders import build_text
from textmask.methods.registry import build_method, get_method
from textmask.runs.environment import prepare_cpu
from textmask.statement import Laterality
from textmask.text.grammar import parse
from textmask.training.optim import build_optimizer, parameter_groups, weighted_sum
from textmask.types import Batch

ROUNDS = 15
PROMPTS = (
    "bilateral pulmonary infection, two infected areas, lower left lung and middle lower right lung.",
    "unilateral pulmonary infection, one infected area, upper left lung.",
)


def make_batch(n: int = 32) -> Batch:
    """Random images and masks with captions of the length that QaTa's have."""
    generator = torch.Generator().manual_seed(0)
    prompts = tuple(PROMPTS[i % len(PROMPTS)] for i in range(n))
    statements = [parse(prompt, laterality=Laterality.IMAGE) for prompt in prompts]
    image = torch.rand(n, 3, 224, 224, generator=generator)
    mask = (torch.rand(n, 1, 224, 224, generator=generator) > 0.9).float()
    return Batch(image, build_text(prompts, statements), mask).to("cpu", torch.channels_last)


class Trainer:
    """One method and its optimizer; a call is a whole training step."""

    def __init__(self, name: str, *settings: str) -> None:
        recipe = get_method(name).recipe().lite().override(*settings)
        self.stage, self.method = recipe.stages[0], build_method(recipe)
        self.method.prepare(PROMPTS)
        self.method.to(memory_format=torch.channels_last).train()
        self.optimizer = build_optimizer(
            self.stage.optim, parameter_groups(self.method, self.stage)
        )

    def step(self, batch: Batch) -> float:
        """Seconds of forward, losses, backward and update."""
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.method.losses(self.stage.name, batch)
        self.optimizer.zero_grad(set_to_none=True)
        weighted_sum(losses, self.stage.weights, 100.0).backward()
        torch.nn.utils.clip_grad_norm_(self.method.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - begin


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    prepare_cpu()
    goals, batch = Goals(), make_batch()
    for backbone in ("mmi_unet", "guide_decoder"):
        alone, ssa = Trainer(backbone), Trainer("ssa", f"backbone.name={backbone}")
        pairs = [(alone.step(batch), ssa.step(batch)) for _ in range(ROUNDS + 2)][2:]
        shares = [a / b for a, b in pairs]
        alone_ms, ssa_ms = (1e3 * median(pair[i] for pair in pairs) for i in (0, 1))
        print(
            f"{backbone}: step {alone_ms:.0f} ms alone, {ssa_ms:.0f} ms in ssa, "
            f"share {min(shares):.3f} to {max(shares):.3f}, {torch.get_num_threads()} threads"
        )
        goals.at_least(
            f"{backbone}_step_over_ssa_step", median(shares), 1 / 1.05
        )  # at most 5 % added
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
