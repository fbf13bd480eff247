"""The training itself: for each stage, epoch and step, sum the weighted losses, update, validate and save."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from textmask.config import Recipe, Stage
from textmask.data.loaders import Loader, SmallerImages
from textmask.errors import DataError
from textmask.methods.base import Method
from textmask.runs import checkpoint
from textmask.runs.folder import RunFolder
from textmask.training.budget import StepTimer
from textmask.training.console import TrainConsole
from textmask.training.labels import unlabelled_rows
from textmask.training.options import TrainOptions
from textmask.training.readings import Readings
from textmask.training.saving import SavedRun, TrainState, pack
from textmask.training.sizes import smaller_parts
from textmask.training.splits import TrainSplits
from textmask.training.steps import GradientStep
from textmask.training.trackers import Tracker
from textmask.training.validation import share_buffers, validate_variants


class Training:
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
        start, before, begin = self.state.step_in_epoch, self.state.images, time.perf_counter()
        readings = Readings(self.fabric.device, self.state.sums, epoch)
        images, lr = before, step.lr
        self.method.train()

        with (
            torch.random.fork_rng(devices=[]),
            self.console.steps(f"{stage.name} {epoch + 1}/{stage.epochs}", total) as advance,
        ):
            self.seed(epoch, start)
            for i, raw in enumerate(loader.epoch(epoch, start), start):
                if i > start and self.saves_at(i):
                    self.save_within(step, i, readings.read(), images, time.perf_counter() - begin)
                    self.seed(epoch, i)
                lr = step.start_step(epoch, i)
                values = step.run(raw.to(self.fabric.device, torch.channels_last), epoch, i)
                images += len(raw) * self.fabric.world_size

                # the clock is right only when the device has been waited for
                note = None
                if readings.add(i, values):
                    timer.tick(time.perf_counter(), readings.every)
                    rate = (images - before) / (time.perf_counter() - begin)
                    note = f"loss {readings.last['loss']:.3f} · {rate:.0f} images/s"
                advance(note)

        # other processes saw other images
        sums = readings.read()
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
        """Validate on all processes; choose, save and log on the first one; the others wait for its state."""
        self.state.epoch += 1
        variant, scores = self.validate(stage, trained, begin)
        if self.fabric.is_global_zero:
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
        # the clocks of the processes differ
        if stage.select != "metric" or not self.fabric.broadcast(due):
            return "", {}
        if self.splits.valid is None:
            raise DataError("there is no valid split to choose by.")
        share_buffers(trained, self.fabric)
        return validate_variants(trained, self.splits.valid, self.recipe, self.fabric)

    def is_finished(self, stage: Stage) -> bool:
        """Whether a stage has trained all its epochs, or is out of patience or time."""
        # what was best at a smaller size does not count as waiting for a better epoch
        share = sum(share for _, share in stage.sizes)
        epoch, best = self.state.epoch, max(self.state.best_epoch, round(share * stage.epochs))
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
            smaller=self.smaller_images(stage),
            on_device=self.fabric.device.type != "cpu",
        )

    def smaller_images(self, stage: Stage) -> list[SmallerImages]:
        """The images of the first steps of a stage, if they are smaller."""
        found = []
        for part in smaller_parts(self.recipe, stage):
            full = part.size == self.recipe.image_size
            data = self.splits.train if full else self.splits.smaller[part.size]
            found.append(SmallerImages(part.share, data.images, data.masks, part.tiles))
        return found

    def mean_over_processes(self, value: float) -> float:
        """Mean of a number over all processes."""
        if self.fabric.world_size == 1:
            return value
        return float(self.fabric.all_reduce(torch.tensor(value), reduce_op="mean"))
