"""A demonstration on synthetic radiographs: the bundled model, a training, its evaluation and the report."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch

from textmask.config import Augment, Recipe
from textmask.data.manifest import Manifest, read_manifest
from textmask.data.phantom import Phantom, PhantomConfig, make_phantom, write_phantoms
from textmask.errors import ConfigError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.inference.predictor import Predictor
from textmask.io.images import write_png
from textmask.methods.registry import get_method
from textmask.plots.overlays import overlay, side_by_side
from textmask.reports.page import Section, write_report
from textmask.runs.layout import DEFAULT_RUN
from textmask.statement import Side
from textmask.text.edit import mirror
from textmask.training.loop import TrainOptions, train

SIZE = (80, 80)
BATCH = 16
COUNTS = {"train": 480, "valid": 48, "test": 64}  # images per split
MARK = ".textmask-demo"

# each model's share of the time that is left for training when its turn comes; the map of places takes no steps
SHARES = {"text_prior": 0.0, "unet": 0.3, "statement_unet": 1.0}
MODEL = "statement_unet"
# at most, per training and per epoch
EPOCHS, MAX_STEPS = 6, 600
# steps that measure the speed, and the share of a training's time that they may take
PROBE_STEPS, PROBE_SHARE = 4, 0.2
# share of the budget after which training ends; evaluation and report need the rest
TRAINING_SHARE = 0.82
# least share of the budget for training, on a machine that was slow until then
LEAST_TRAINING = 0.2
# share of a training's time that is spent in its steps; validation and saving need the rest
PLANNED_SHARE = 0.75


def run_demo(
    out: Path,
    *,
    smoke: bool = False,
    seed: int = 0,
    minutes: float = 3.0,
    started: float | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Segment a synthetic radiograph with the bundled model, train and evaluate models of its kind, write a report.

    Args:
        out: folder to create; what an earlier demo left in it is replaced.
        smoke: everything tiny, for tests; `minutes` has no meaning then.
        seed: of images and training.
        minutes: time budget of the whole; each model trains for at least one step.
        started: reading of `time.perf_counter` from which the budget counts; None means now.
        say: prints one line.

    Returns:
        Path of the report, `out`/report.html.

    Raises:
        ConfigError: `out` contains something that no demo has written, or `minutes` is not above 0.
    """
    started = time.perf_counter() if started is None else started
    if not minutes > 0:
        raise ConfigError(f"the demo's time budget is {minutes} minutes, expected more than 0.")
    _make_folder(out)
    config = PhantomConfig(size=(64, 64) if smoke else SIZE, difficulty=0.3)
    image = two_sided_phantom(config)
    prompts = _opposite_prompts(image)

    # the quickest result first
    bundled = _segment_row(DEFAULT_RUN, image, prompts)
    path = out / "bundled-model.png"
    write_png(path, bundled)
    say(f"{path}: the bundled model on a synthetic radiograph, for two prompts: {prompts}")

    say("Drawing synthetic radiographs.")
    counts = {split: n // 20 + 4 for split, n in COUNTS.items()} if smoke else COUNTS
    manifest = read_manifest(write_phantoms(out / "data", counts, config, seed))

    budget_s = minutes * 60
    deadline = max(
        started + budget_s * TRAINING_SHARE, time.perf_counter() + budget_s * LEAST_TRAINING
    )
    with _free_cores():
        _train_all(manifest, out, smoke, seed, deadline, say)
        say(f"Evaluating {MODEL} on {counts['test']} test images.")
        run = out / "runs" / MODEL
        options = EvaluationOptions(zones="phantom", cache_dir=_cache(out))
        evaluate(run, manifest, "test", options)
        trained = _segment_row(run, image, prompts)

    write_png(out / "two-sentences.png", trained)
    write_png(out / "two-models.png", np.vstack([trained, bundled]))
    return write_report(run, out / "report.html", extra=[_two_prompts(out, prompts)])


def two_sided_phantom(config: PhantomConfig, first_seed: int = 10_000) -> Phantom:
    """The first image from `first_seed` whose prompt names the left only, with unnamed opacities on the right.

    Raises:
        ConfigError: there is none among 2000 seeds.
    """
    for seed in range(first_seed, first_seed + 2000):
        phantom = make_phantom(config, seed)
        others = {lesion.zone[0] for lesion in phantom.distractors}
        if (
            phantom.statement.sides == {Side.LEFT}
            and others == {Side.RIGHT}
            and mirror(phantom.text)
        ):
            return phantom
    raise ConfigError(
        "no image with opacities on both sides among 2000; raise the difficulty or distractor_share."
    )


def _make_folder(out: Path) -> None:
    """Empty an earlier demo's folder; nothing that a person may have put there is deleted."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out} exists and is not a demo folder. Remove it, or give another --out."
        )
    for name in ("data", "runs"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _cache(out: Path) -> Path:
    """Folder of the decoded images."""
    return out / "data" / "cache"


def _demo_recipe(method: str, smoke: bool, seed: int) -> Recipe:
    """The CPU preset with smaller images; flips come with mirrored prompts and double the number of images."""
    base: Recipe = get_method(method).recipe()
    if smoke:
        return base.smoke().override(f"seed={seed}")
    # bf16 is several times slower than fp32 on CPUs without instructions for it
    recipe = base.lite().override(f"seed={seed}", f"image_size={list(SIZE)}", "precision=fp32")
    if recipe.stages[0].optim is None:
        return recipe
    augment = Augment(flip=0.5).model_dump_json()
    return recipe.override(f"stages.*.augment={augment}", f"stages.*.batch_size={BATCH}")


@contextmanager
def _free_cores() -> Iterator[None]:
    """Use only the cores that other work leaves free: threads that wait for a busy core are slower than one thread."""
    threads = torch.get_num_threads()
    free = round((os.cpu_count() or 1) - os.getloadavg()[0])
    torch.set_num_threads(int(np.clip(free, 1, threads)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train_all(
    manifest: Manifest,
    out: Path,
    smoke: bool,
    seed: int,
    deadline: float,
    say: Callable[[str], None],
) -> None:
    """Train each method until its share of the time before `deadline` (of `time.perf_counter`) is over."""
    for method, share in SHARES.items():
        recipe = _demo_recipe(method, smoke, seed)
        if smoke or recipe.stages[0].optim is None:
            say(f"Training {method}.")
            _train(recipe, manifest, out, None)
            continue
        seconds = max(deadline - time.perf_counter(), 0.0) * share
        say(f"Training {method} for about {seconds:.0f} s, after a short measurement of its speed.")
        _train(recipe, manifest, out, seconds)


def _train(recipe: Recipe, manifest: Manifest, out: Path, seconds: float | None) -> None:
    """Train a recipe into `out`/runs; `seconds` sets the number of its steps, None leaves it to the recipe."""
    options = TrainOptions()
    if seconds is not None:
        deadline = time.perf_counter() + seconds
        step_s = _step_seconds(recipe, manifest, out, seconds * PROBE_SHARE)
        seconds = max(deadline - time.perf_counter(), 0.0)

        # the schedule ends with the time; the limit is for a machine that becomes slower meanwhile
        steps = int(np.clip(seconds * PLANNED_SHARE / step_s, 1, EPOCHS * MAX_STEPS))
        epochs = min(steps, EPOCHS)
        recipe = recipe.override(
            f"stages.*.epochs={epochs}", f"stages.*.steps_per_epoch={steps // epochs}"
        )
        options = TrainOptions(time_limit_s=seconds)
    train(recipe, manifest, out / "runs" / recipe.method, cache_dir=_cache(out), options=options)


def _step_seconds(recipe: Recipe, manifest: Manifest, out: Path, limit_s: float) -> float:
    """Seconds per training step, measured in the last of a few epochs of one step."""
    run = out / "runs" / f"speed-{recipe.method}"
    short = recipe.override(
        f"stages.*.epochs={PROBE_STEPS}", "stages.*.steps_per_epoch=1", "stages.*.select=last"
    )
    options = TrainOptions(time_limit_s=limit_s)
    train(short, manifest, run, cache_dir=_cache(out), progress=False, options=options)
    last = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    shutil.rmtree(run)
    return float(recipe.stages[0].batch_size / json.loads(last)["images_per_s"])


def _opposite_prompts(image: Phantom) -> tuple[str, str]:
    """An image's own prompt and the one for the other side."""
    opposite = mirror(image.text)
    if opposite is None:
        raise ConfigError(f"the prompt {image.text!r} cannot be mirrored.")
    return image.text, opposite


def _segment_row(run: Path, image: Phantom, prompts: Sequence[str]) -> np.ndarray:
    """The image, then a model's overlay for each prompt, next to each other."""
    opened = Predictor(run).open(image.image)
    panels = [image.image]
    for prompt in prompts:
        panels.append(overlay(image.image, opened.segment(prompt, abstain=False).mask))
    enlarged = [cv2.resize(panel, (336, 336), interpolation=cv2.INTER_NEAREST) for panel in panels]
    return side_by_side(enlarged)


def _two_prompts(out: Path, prompts: Sequence[str]) -> Section:
    """The part of the report that shows both models on one image."""
    return Section(
        "One image, two opposite prompts",
        (out / "two-models.png").read_bytes(),
        f"Top row, the model that was just trained on such images: the image; its mask for {prompts[0]!r}; its mask "
        f"for {prompts[1]!r}. The image shows opacities in both lungs, so only the prompt says which one is meant. "
        "Training lasted only for the time budget (--minutes), which may be too short to follow the prompt. "
        "Bottom row, the bundled model, which was trained on real radiographs and has never seen a synthetic one.",
    )
