"""Overhead of the training loop over forward and backward: the lite presets at 224 x 224, batch 32.

Both sides train the same model with the same optimizer and precision in this process, in turn: one repeats its
step on a prepared batch, the other is the training loop with cache, augmentation, views and logging. All cores are
used, and the loader competes with the model for them.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from timing import Goals

from textmask.config import Recipe
from textmask.data.loaders import Loader, open_split
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.methods.registry import build_method, get_method
from textmask.runs.environment import prepare_cpu
from textmask.training.loop import train
from textmask.training.optim import build_optimizer, parameter_groups, weighted_sum

STEPS, ROUNDS = 8, 7


def bare_speed(recipe: Recipe, manifest, cache: Path) -> float:
    """Images per second of forward, backward and optimizer step on one prepared batch."""
    stage = recipe.stages[0]
    method = build_method(recipe)
    data = open_split(manifest, "train", recipe.image_size, cache)
    method.prepare(data.prompts)
    method.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(stage.optim, parameter_groups(method, stage))
    batch = next(Loader(data, stage, seed=0, train=True).batches(0)).to("cpu", torch.channels_last)
    begin = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            losses = method.losses(stage.name, batch)
        loss = weighted_sum(losses, stage.weights, 0.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), stage.clip_norm)
        optimizer.step()
    return STEPS * stage.batch_size / (time.perf_counter() - begin)


def loop_speed(recipe: Recipe, manifest, cache: Path, out: Path) -> float:
    """Images per second that the run's own log reports for its second epoch."""
    train(recipe, manifest, out, cache_dir=cache, progress=False)
    return json.loads((out / "log.jsonl").read_text().splitlines()[-1])["images_per_s"]


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    prepare_cpu()
    goals = Goals()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        counts = {"train": STEPS * 32, "valid": 4}
        manifest = read_manifest(write_phantoms(root / "data", counts, PhantomConfig(), seed=0))
        for name in ("statement_unet", "biclip"):
            recipe = (
                get_method(name)
                .recipe()
                .lite()
                .override("stages.segment.epochs=2", "stages.*.patience=null")
            )
            ratios, bare, loop = [], [], []
            for i in range(ROUNDS):
                bare.append(bare_speed(recipe, manifest, root))
                loop.append(loop_speed(recipe, manifest, root, root / f"{name}-{i}"))
                ratios.append(loop[-1] / bare[-1])
            print(
                f"{name}: forward+backward+step {median(bare):.1f} images/s, whole loop {median(loop):.1f} images/s, "
                f"ratio {min(ratios):.3f} to {max(ratios):.3f}, {torch.get_num_threads()} threads"
            )
            goals.at_least(f"{name}_loop_over_bare_step", median(ratios), 0.95)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
