"""The one training loop: for each stage, epoch and step, sum the weighted losses, update, validate and save."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from textmask.config import Recipe, Stage
from textmask.data.loaders import Loader, for_tiles
from textmask.data.manifest import Manifest
from textmask.data.mask_scan import decide_rule
from textmask.errors import DataError
from textmask.io.locks import one_writer
from textmask.methods.base import Method
from textmask.methods.registry import build_method
from textmask.runs import checkpoint
from textmask.runs.data_options import DataOptions
from textmask.runs.environment import deterministic, prepare_cpu
from textmask.runs.folder import RunFolder
from textmask.runs.session import slow_bf16
from textmask.training.budget import StagePlan, StepTimer, few_steps, plan_training
from textmask.training.console import TrainConsole
from textmask.training.empty_text import refuse_empty_text
from textmask.training.init import load_init, stored_init
from textmask.training.labels import refuse_other_labels, unlabelled_rows
from textmask.training.optim import parameter_groups
from textmask.training.resume import data_record, machine_record, refuse_changes
from textmask.training.saving import NO_SCORE, SavedRun, TrainState, pack, restore
from textmask.training.splits import TrainSplits, open_train_splits
from textmask.training.steps import GradientStep
from textmask.training.trackers import Tracker, build_trackers
from textmask.training.trivial import below_trivial, empty_splits
from textmask.training.validation import validate_variants


@dataclass(frozen=True)
class TrainOptions:
    """How a training is executed. Nothing here is part of the recipe.

    Attributes:
        trackers: "tensorboard", "mlflow".
        time_limit_s: stop after the epoch that reaches this many seconds of training and validation; every stage
            trains for at least one epoch.
        devices: processes per node or a list of GPU numbers, as in Lightning Fabric; batch sizes are global.
        num_nodes: as in Lightning Fabric.
        strategy: as in Lightning Fabric.
        accelerator: as in Lightning Fabric.
        data_options: how the data were read; kept in the run, see `Run.options`.
        source: path of the data; kept in the run, see `Run.source`.
        init: a run, `default` or a hub folder whose weights a new run starts from, see `training.init`.
        accept_changes: resume although data or machine differ, with a warning.
        save_every_steps: also save within an epoch. Random numbers are then drawn anew after each saved step, so that
            a resumed run has those of one that was not stopped.
    """

    trackers: tuple[str, ...] = ()
    time_limit_s: float | None = None
    devices: int | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"
    data_options: DataOptions | None = None
    source: Path | None = None
    init: Path | None = None
    accept_changes: bool = False
    save_every_steps: int | None = None


@dataclass(frozen=True)
class TrainResult:
    """Folder and chosen epoch of a run; `best` is -1 if the last stage has no validation score.

    `warnings` says in words what makes the score doubtful.
    """

    path: Path
    best: float
    best_epoch: int
    seconds: float
    warnings: tuple[str, ...] = ()


@one_writer
def train(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    *,
    resume: bool = False,
    cache_dir: Path | None = None,
    labelled_list: Path | None = None,
    progress: bool = True,
    allow_empty_text: bool = False,
    options: TrainOptions | None = None,
) -> TrainResult:
    """Train a recipe on a manifest's `train` split, choose an epoch on `valid`, and leave a run folder.

    The same seed gives the same numbers. After a kill at any moment `resume=True` continues from the last finished
    epoch, bit for bit on a CPU. The test split is never read.

    Args:
        recipe: what to train and how.
        manifest: the data.
        out: the run folder; must not contain a run unless `resume`.
        resume: continue the run in `out`.
        cache_dir: folder of the decoded images; None means the user's cache folder.
        labelled_list: a text file of image names: only these train rows are labelled (a published few-label list).
        progress: draw a progress bar.
        allow_empty_text: train a method that reads prompts although most train rows have none.
        options: trackers, time limit, devices.

    Returns:
        The chosen epoch and its validation score.

    Raises:
        ConfigError: the run folder exists and `resume` is off, or it contains another recipe.
        DataError: no train rows, or no valid rows to choose by; a resumed run had other labelled images.
        CheckpointError: the disk is full; the previous checkpoint survives.
        BusyError: another process trains in `out`.
    """
    prepare_cpu()
    options = options or TrainOptions()
    if not allow_empty_text:
        refuse_empty_text(recipe, manifest)
    manifest = decide_rule(manifest, cache_dir)
    declared, software = recipe, recipe.precision == "bf16" and slow_bf16(options.accelerator)
    if software:
        recipe = recipe.model_copy(update={"precision": "fp32"})
    fabric = _launch(recipe, options)

    # the run folder and its data
    folder = RunFolder(Path(out), declared, manifest, options.data_options, options.source)
    resumed = folder.open(resume)
    splits = open_train_splits(fabric, recipe, manifest, cache_dir, labelled_list)
    if resumed:
        refuse_changes(folder.path, recipe, splits.by_name(), fabric, accept=options.accept_changes)
        refuse_other_labels(folder.path, splits.train.keys, splits.labelled)

    # the model, new or as the run left it
    recipe, plans = plan_training(recipe, splits, fabric.world_size)
    method = _new_method(recipe, splits, fabric.device)
    for stage in recipe.stages:
        if stage.optim is not None:
            parameter_groups(method, stage)  # a wrong pattern is found before anything is written
    init = None
    if not resumed:
        source = options.init or (stored_init(folder.path) if resume else None)
        init = None if source is None else load_init(method, recipe, source, manifest.laterality)
    saved = restore(folder, recipe, method) if resumed else SavedRun()
    if resumed and fabric.is_global_zero:
        folder.write_log(saved.log)  # a kill may have lost its last row
    trackers: list[Tracker] = []
    if fabric.is_global_zero:
        if not resumed:
            more: dict[str, object] = {"plan": [plan.record() for plan in plans]}
            more["trained_in"] = recipe.precision
            more["identity"] = data_record(splits.by_name())
            more["machine"] = machine_record(fabric, recipe)
            if init is not None:
                more["init"] = init.record()
            folder.describe(splits.by_name(), splits.labelled, method, more)
        trackers = build_trackers(options.trackers, folder.path, recipe)

    with TrainConsole(progress and fabric.is_global_zero) as console:
        found: list[str] = []
        if fabric.is_global_zero:
            for line in () if init is None else init.lines():
                console.say(line)
            found = _say_plan(console, plans, splits, software)
        training = _Training(
            fabric, folder, recipe, splits, method, saved, console, trackers, options
        )
        with deterministic(recipe.deterministic):
            state = training.run()

    for tracker in trackers:
        tracker.close()
    if fabric.is_global_zero:
        score = None if state.best == NO_SCORE else state.best
        folder.finish(state.best_epoch, score, state.seconds, state.best_variant)
        if score is not None:
            found += below_trivial(recipe, splits, score)

    fabric.barrier()
    return TrainResult(folder.path, state.best, state.best_epoch, state.seconds, tuple(found))


def _say_plan(
    console: TrainConsole, plans: Sequence[StagePlan], splits: TrainSplits, software: bool
) -> list[str]:
    """Print what will be done; returns the warnings that are known before the first step."""
    for plan in plans:
        for line in plan.lines():
            console.say(line)
    if software:
        console.say(
            "  adapted: precision bf16 -> fp32, because this CPU has no bf16 instructions and is faster in fp32"
        )
    return [*few_steps(plans), *empty_splits(splits)]


class _Training:
    """One training on one process. Read `run` first: stage, epoch, step.

    Args:
        fabric: launched.
        folder: where the run is written.
        recipe: with the epochs of its budget.
        splits: train and valid.
        method: on the device of `fabric`.
        saved: what a resumed run has reached.
        console: shows progress.
        trackers: receive the row of each epoch.
        options: time limit and checkpoints within an epoch.
    """

    def __init__(
        self,
        fabric: Fabric,
        folder: RunFolder,
        recipe: Recipe,
        splits: TrainSplits,
        method: Method,
        saved: SavedRun,
        console: TrainConsole,
        trackers: list[Tracker],
        options: TrainOptions,
    ) -> None:
        self.fabric, self.folder, self.recipe = fabric, folder, recipe
        self.splits, self.method = splits, method
        self.state, self.log, self.restored = saved.state, saved.log, saved.tensors
        self.console, self.trackers = console, trackers
        self.time_limit_s, self.save_every = options.time_limit_s, options.save_every_steps

    def run(self) -> TrainState:
        """Train the stages that are left."""
        while not self.state.done:
            stage = self.recipe.stages[self.state.stage]
            if stage.epochs:
                self.run_stage(stage)
            self.state.next_stage(len(self.recipe.stages))
        return self.state

    def run_stage(self, stage: Stage) -> None:
        """Train (or observe) one stage from the epoch it has reached."""
        restored, self.restored = self.restored, {}
        # an unfinished stage continues with its own weights
        if stage.start_from and not restored:
            tensors, metadata = checkpoint.read_tensors(self.folder.weights_path(stage.start_from))
            checkpoint.load_weights(self.method, tensors, metadata, self.recipe)

        loader = self.build_loader(stage)
        if stage.optim is None:
            self.observe(stage, loader)
            return

        step = GradientStep(
            self.fabric, self.method, stage, stage.optim, loader.steps_per_epoch, restored
        )
        left = (stage.epochs - self.state.epoch) * loader.steps_per_epoch
        timer = StepTimer(self.console.say, stage.name, left)
        while not self.is_finished(stage):
            begin = time.perf_counter()
            row = self.train_epoch(stage, loader, step, timer)
            self.end_epoch(stage, row, begin, step.trained, step.tensors)

    def train_epoch(
        self, stage: Stage, loader: Loader, step: GradientStep, timer: StepTimer
    ) -> dict[str, float]:
        """Train for one epoch; returns its learning rate, mean losses and throughput."""
        epoch, total = self.state.epoch, loader.steps_per_epoch
        start, sums = self.state.step_in_epoch, dict(self.state.sums)
        images, lr, begin = self.state.images, step.lr, time.perf_counter()
        before = images
        self.method.train()

        with (
            torch.random.fork_rng(devices=[]),
            self.console.steps(f"{stage.name} {epoch + 1}/{stage.epochs}", total) as advance,
        ):
            self.seed(epoch, start)
            for i, cpu_batch in enumerate(loader.epoch(epoch, start), start):
                if i > start and self.saves_at(i):
                    self.save_within(step, i, sums, images, time.perf_counter() - begin)
                    self.seed(epoch, i)
                lr = step.start_step(epoch, i)
                batch = cpu_batch.to(self.fabric.device, torch.channels_last)
                values = step.run(batch, epoch, i)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
                timer.tick(time.perf_counter())
                images += len(batch) * self.fabric.world_size
                rate = (images - before) / (time.perf_counter() - begin)
                advance(f"loss {values['loss']:.3f} · {rate:.0f} images/s")

        # other processes saw other images
        self.state.step += total - start
        self.state.step_in_epoch, self.state.sums, self.state.images = 0, {}, 0
        row = {"lr": lr}
        for name, value in sums.items():
            row[name] = self.mean_over_processes(value / total)
        row["images_per_s"] = (images - before) / (time.perf_counter() - begin)
        return row

    def seed(self, epoch: int, i: int) -> None:
        """Seed torch's default generator, from which library code draws (dropout), at the first step or a saved one."""
        key = [
            self.recipe.seed,
            self.state.stage,
            epoch,
            self.fabric.global_rank,
            *([i] if i else []),
        ]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def saves_at(self, i: int) -> bool:
        """Whether a checkpoint is due before step `i` of an epoch."""
        return self.save_every is not None and i % self.save_every == 0

    def save_within(
        self, step: GradientStep, i: int, sums: dict[str, float], images: int, seconds: float
    ) -> None:
        """Save an unfinished epoch before its step `i`; its sums so far are those of the first process."""
        state = self.state
        done = i - state.step_in_epoch
        within = replace(
            state, step=state.step + done, step_in_epoch=i, sums=dict(sums), images=images
        )
        within.seconds += seconds
        if self.fabric.is_global_zero:
            self.folder.save_last(step.tensors(), vars(within), self.log)
        self.fabric.barrier()

    def observe(self, stage: Stage, loader: Loader) -> None:
        """Show every training batch once to the method of a stage without gradient."""
        begin = time.perf_counter()
        with torch.no_grad(), self.console.steps(stage.name, loader.steps_per_epoch) as advance:
            for batch in loader.epoch(0):
                self.method.observe(stage.name, batch.to(self.fabric.device))
                advance("")
        self.end_epoch(
            stage, {"lr": 0.0}, begin, self.method, lambda: pack(self.method, None, None)
        )

    def end_epoch(
        self,
        stage: Stage,
        row: Mapping[str, Any],
        begin: float,
        trained: Method,
        tensors: Callable[[], dict[str, Tensor]],
    ) -> None:
        """Validate, choose, save and log on the first process; the others wait for its state."""
        if self.fabric.is_global_zero:
            self.state.epoch += 1
            variant, scores = self.validate(stage, trained, begin)
            self.state.seconds += time.perf_counter() - begin

            # the best weights so far
            score = scores.get(self.recipe.select_on)
            if stage.select == "last" or (score is not None and score > self.state.best):
                self.state.keep(score, variant)
                self.folder.save_weights(stage.name, trained, self.state.epoch, score)

            entry = {"stage": stage.name, "epoch": self.state.epoch, "step": self.state.step}
            entry.update(row)
            for name, value in scores.items():
                entry[f"valid/{name}"] = value
            entry["seconds"] = self.state.seconds
            # all that --resume needs, then what people read
            self.log.append(entry)
            self.folder.save_last(tensors(), vars(self.state), self.log)

            for tracker in self.trackers:
                tracker.log(entry, self.state.epoch)
            chosen = self.state.best_epoch == self.state.epoch
            self.console.print_epoch(stage.epochs, entry, chosen)

        self.state = TrainState(**self.fabric.broadcast(vars(self.state)))

    def validate(self, stage: Stage, trained: Method, begin: float) -> tuple[str, dict[str, float]]:
        """Best variant and scores of the epoch that began at `begin`; no scores if no validation is due."""
        last = self.state.epoch == stage.epochs or self.out_of_time(time.perf_counter() - begin)
        due = last or self.state.epoch % stage.validate_every == 0
        if stage.select != "metric" or not due:
            return "", {}
        if self.splits.valid is None:
            raise DataError("there is no valid split to choose by.")
        return validate_variants(trained, self.splits.valid, self.recipe)

    def is_finished(self, stage: Stage) -> bool:
        """Whether a stage has trained all its epochs, or is out of patience or time."""
        epoch, best = self.state.epoch, max(self.state.best_epoch, 0)
        if epoch >= stage.epochs or (epoch and self.out_of_time()):
            return True
        return stage.patience is not None and epoch - best >= stage.patience

    def out_of_time(self, more_s: float = 0.0) -> bool:
        """Whether the run, `more_s` seconds from its last finished epoch, has used up its time limit."""
        return self.time_limit_s is not None and self.state.seconds + more_s >= self.time_limit_s

    def build_loader(self, stage: Stage) -> Loader:
        """The batches of a stage for this process."""
        labelled = self.splits.labelled[stage.name]
        return Loader(
            self.splits.train,
            stage,
            seed=self.recipe.seed,
            train=stage.optim is not None,
            indices=labelled,
            unlabelled_indices=unlabelled_rows(self.splits.train, stage, labelled),
            tiles=self.recipe.tiles,
            process=(self.fabric.global_rank, self.fabric.world_size),
        )

    def mean_over_processes(self, value: float) -> float:
        """Mean of a number over all processes."""
        if self.fabric.world_size == 1:
            return value
        return float(self.fabric.all_reduce(torch.tensor(value), reduce_op="mean"))


def _launch(recipe: Recipe, options: TrainOptions) -> Fabric:
    """Start the processes of a training."""
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _new_method(recipe: Recipe, splits: TrainSplits, device: torch.device) -> Method:
    """A new method that has seen the prompts it will be trained with."""
    method = build_method(recipe)
    prompts, _ = for_tiles(splits.train.prompts, splits.train.statements, recipe.tiles)
    method.prepare(sorted(set(prompts)))
    method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method
