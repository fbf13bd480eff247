"""Cost of a semi-supervised step compared with its parts: the lite presets at 224 x 224, 16 labelled + 16 unlabelled.

The parts are one forward and backward pass of the student on labelled + strong images with the supervised losses, and
one forward pass of the teacher on the weak ones; the step is `losses` of stage `semi`, backward, optimizer and teacher.
All take turns in this process. All cores are used, except for T-PatchMix with its prompts,
which is timed alone on one thread.
"""

import os
from dataclasses import replace

import numpy as np
import torch
from timing import Goals, interleave

from textmask.data.loaders import build_text
from textmask.data.patch_mix import PatchMix, patch_mix
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.registry import build_method, get_method
from textmask.methods.semi_medref.text_views import text_view
from textmask.runs.environment import prepare_cpu
from textmask.statement import Laterality
from textmask.text.grammar import parse
from textmask.training.optim import build_optimizer, parameter_groups, weighted_sum
from textmask.types import Batch, Text

PROMPTS = (
    "bilateral pulmonary infection, two infected areas, lower left lung and middle lower right lung.",
    "unilateral pulmonary infection, one infected areas, upper left lung.",
    "bilateral pulmonary infection, four infected areas, upper middle lower left lung and upper right lung.",
    "unilateral pulmonary infection, two infected areas, middle lower right lung.",
)


def make_batch(n: int, seed: int) -> Batch:
    """Random images and masks with captions of QaTa."""
    generator = torch.Generator().manual_seed(seed)
    prompts = tuple(PROMPTS[i % len(PROMPTS)] for i in range(n))
    statements = [parse(prompt, laterality=Laterality.IMAGE) for prompt in prompts]
    image = torch.rand(n, 3, 224, 224, generator=generator)
    mask = (torch.rand(n, 1, 224, 224, generator=generator) > 0.9).float()
    views = {"strong_blur": image * 0.9}
    return Batch(image, build_text(prompts, statements), mask, prompts, views).to(
        "cpu", torch.channels_last
    )


def steps(name: str) -> dict[str, object]:
    """The whole step and its parts, as functions."""
    recipe = get_method(name).recipe().lite()
    stage, method = recipe.stage("semi"), build_method(recipe)
    method.prepare(PROMPTS)
    method.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(stage.optim, parameter_groups(method, stage))
    labelled, other = make_batch(16, 0), make_batch(16, 1)
    batch = replace(labelled, unlabelled=replace(other, mask=None))
    joined = torch.cat([labelled.image, other.views["strong_blur"]])
    text, mask = Text.joined(labelled.text, other.text), torch.cat([labelled.mask, other.mask])

    def update(loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()

    def whole() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses = method.losses("semi", batch)
        update(weighted_sum(losses, stage.weights, 100.0))
        method.after_step("semi", 0)

    def student() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = method.net(joined, method.text_encoder(text)).logits
            loss = soft_dice(logits, mask) + bce(logits, mask)
        update(loss)

    def teacher() -> None:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            method.teacher(other.image, method.text_encoder(other.text))

    return {"step": whole, "student": student, "teacher": teacher}


def mixing() -> float:
    """Milliseconds of PosAug and T-PatchMix for 32 images on one thread, with a third of the samples mixed."""
    batch, rng = make_batch(32, 2), np.random.default_rng(0)
    probability = torch.rand(32, 1, 224, 224, generator=torch.Generator().manual_seed(3)) * 0.2
    probability[::3] += 0.6
    settings = PatchMix("position", 16, 0.5, 0.55, "block")
    shares = []

    def run() -> None:
        spoken = text_view(batch.text, "posaug", "[MASK]", 0.5, "mix", rng)
        mixed = patch_mix(
            batch.image,
            probability,
            batch.text,
            spoken.prompts,
            settings,
            torch.Generator().manual_seed(len(shares)),
        )
        shares.append(float(mixed.blocks.flatten(1).any(1).float().mean()))

    seconds = interleave({"mix": run}, repeats=31)["mix"]
    print(
        f"PosAug and T-PatchMix, 32 images: {1e3 * seconds:.2f} ms, {100 * np.mean(shares):.0f} % of samples mixed"
    )
    return 1e3 * seconds


def main() -> int:
    torch.set_num_threads(1)
    prepare_cpu()
    goals = Goals()
    goals.at_least("semi_mix_share_of_3_ms", 3 / mixing(), 1.0)
    torch.set_num_threads(os.cpu_count() or 1)
    for name in ("mean_teacher", "semi_medref"):
        found = interleave(steps(name), repeats=9)
        parts = found["student"] + found["teacher"]
        print(
            f"{name}: step {1e3 * found['step']:.0f} ms; student {1e3 * found['student']:.0f} + "
            f"teacher {1e3 * found['teacher']:.0f} = {1e3 * parts:.0f} ms; {torch.get_num_threads()} threads"
        )
        goals.at_least(
            f"{name}_parts_over_step", parts / found["step"], 1 / 1.08
        )  # at most 8 % more
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
