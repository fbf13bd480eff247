"""The one training loop: for stage, for epoch, for batch: sum the weighted losses, step, log, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from textmask.config import Recipe, Stage
from textmask.data.loaders import (
    Loader,
    SplitData,
    for_tiles,
    indices_from_list,
    labelled_indices,
    open_split,
)
from textmask.data.manifest import Manifest
from textmask.data.options import DataOptions
from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.inference.predict_split import predict_split
from textmask.methods.base import Method
from textmask.methods.registry import build_method
from textmask.metrics.overlap import counts, overlap
from textmask.runs import checkpoint, layout
from textmask.runs.environment import prepare_cpu
from textmask.runs.folder import RunFolder, labelled_names
from textmask.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    weighted_sum,
)
from textmask.training.trackers import Tracker, build_trackers
from textmask.types import Batch

NO_SCORE = -1.0  # below every score; JSON has no minus infinity


@dataclass(frozen=True)
class TrainResult:
    """Where the run is and what it chose; `best` is -1 where the last stage has no validation score."""

    path: Path
    best: float
    best_epoch: int
    seconds: float


@dataclass
class Progressed:
    """How far a run has come; stored with `last.safetensors`, so that a resumed run goes on exactly there."""

    stage: int = 0
    epoch: int = 0  # finished epochs of the stage
    step: int = 0
    best: float = NO_SCORE
    best_epoch: int = -1
    best_variant: str = ""  # which weights scored best, where a method has several
    seconds: float = 0.0
    done: bool = False


class LossModule(nn.Module):
    """The losses as a `forward`, so that autocast and gradient synchronisation see them."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, stage: str, batch: Callable[[], Batch]) -> dict[str, Tensor]:
        """Unweighted loss terms. The batch comes in a closure: Fabric would copy and cast a bare dataclass."""
        return self.method.losses(stage, batch())


def train(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    *,
    resume: bool = False,
    cache_dir: Path | None = None,
    labelled_list: Path | None = None,
    devices: int | list[int] = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    accelerator: str = "auto",
    trackers: Sequence[str] = (),
    progress: bool = True,
    options: DataOptions | None = None,
    source: Path | None = None,
) -> TrainResult:
    """Train a recipe on a manifest's `train` split, choose on `valid`, and leave a run folder.

    With the same seed the numbers are the same; after a kill at any moment `resume=True` continues from the last
    finished epoch, bit for bit on a CPU. The test split is never read.

    Args:
        recipe: what to train and how.
        manifest: the table of the data.
        out: the run folder; must not hold a run unless `resume`.
        resume: continue the run in `out`.
        cache_dir: where decoded pictures are kept; None is the user's cache folder.
        labelled_list: a text file of image names: only these train rows are labelled (a published few-label list).
        devices: processes a node or a list of GPU numbers, as in Lightning Fabric; batch sizes are global.
        num_nodes: as in Lightning Fabric.
        strategy: as in Lightning Fabric.
        accelerator: as in Lightning Fabric.
        trackers: "tensorboard", "mlflow".
        progress: draw a progress bar.
        options: how the data were read; kept in the run, see `Run.options`.
        source: path of the data; kept in the run, see `Run.source`.

    Returns:
        The chosen epoch and its validation score.

    Raises:
        ConfigError: the run folder exists and `resume` is off, or it holds another recipe.
        DataError: no train rows, or no valid rows to choose by; a resumed run had other labelled pictures.
        CheckpointError: the disk is full; the previous checkpoint survives.
    """
    prepare_cpu()
    precision: Any = "bf16-mixed" if recipe.precision == "bf16" else "32-true"
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
    )
    fabric.launch()
    folder = RunFolder(Path(out), recipe, manifest, options, source)
    run = _Run(fabric, folder, resume, cache_dir, labelled_list, tuple(trackers), progress)
    return run.go()


@dataclass
class _Run:
    """State of one `train` call; the methods below read top-down as the loop."""

    fabric: Fabric
    folder: RunFolder
    resume: bool
    cache_dir: Path | None
    labelled_list: Path | None
    tracker_names: tuple[str, ...]
    show: bool
    state: Progressed = field(default_factory=Progressed)
    log: list[dict[str, Any]] = field(default_factory=list)

    def go(self) -> TrainResult:
        """Prepare, run the stages that are left, finish."""
        self.recipe, self.manifest = self.folder.recipe, self.folder.manifest
        resumed = self.folder.open(self.resume)
        self.train_data, self.valid_data = self._open("train"), self._open_valid()
        if resumed:
            self._refuse_other_labels()
        self.method = build_method(self.recipe)
        told, _ = for_tiles(self.train_data.prompts, self.train_data.statements, self.recipe.tiles)
        self.method.prepare(sorted(set(told)))
        self.method.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        restored = self._restore() if resumed else {}
        self.trackers: list[Tracker] = []
        if self.fabric.is_global_zero:
            if not resumed:
                labelled = {stage.name: self._labelled(stage) for stage in self.recipe.stages}
                splits = {"train": self.train_data, "valid": self.valid_data}
                self.folder.describe(
                    {n: data for n, data in splits.items() if data is not None},
                    labelled,
                    self.method,
                )
            self.trackers = build_trackers(self.tracker_names, self.folder.path, self.recipe)
        with self._bar() as self.bar:
            while not self.state.done:
                self._run_stage(self.recipe.stages[self.state.stage], restored)
                restored = {}
        for tracker in self.trackers:
            tracker.close()
        if self.fabric.is_global_zero:
            score = None if self.state.best == NO_SCORE else self.state.best
            self.folder.finish(
                self.state.best_epoch, score, self.state.seconds, self.state.best_variant
            )
        self.fabric.barrier()
        return TrainResult(
            self.folder.path, self.state.best, self.state.best_epoch, self.state.seconds
        )

    def _run_stage(self, stage: Stage, restored: Mapping[str, Tensor]) -> None:
        """Train (or observe) one stage from the epoch it has reached."""
        if not stage.epochs:
            self._next_stage()
            return
        if stage.start_from and not restored:
            tensors, metadata = checkpoint.read_tensors(self.folder.weights_path(stage.start_from))
            checkpoint.load_weights(self.method, tensors, metadata, self.recipe)
        loader = Loader(
            self.train_data,
            stage,
            seed=self.recipe.seed,
            train=stage.optim is not None,
            indices=self._labelled(stage),
            unlabelled_indices=self._unlabelled(stage),
            tiles=self.recipe.tiles,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        if stage.optim is None:
            self._observe(stage, loader)
        else:
            self._optimise(stage, loader, restored)
        self._next_stage()

    def _next_stage(self) -> None:
        """Go on to the stage behind a finished one, or be done."""
        if self.state.stage + 1 == len(self.recipe.stages):
            self.state.done = True
            return
        self.state.stage, self.state.epoch = self.state.stage + 1, 0
        self.state.best, self.state.best_epoch = NO_SCORE, -1

    def _optimise(self, stage: Stage, loader: Loader, restored: Mapping[str, Tensor]) -> None:
        if stage.optim is None:
            raise ConfigError(f"stage {stage.name!r} has no optimiser.")
        optimizer = build_optimizer(stage.optim, parameter_groups(self.method, stage))
        if any(key.startswith("optim/") for key in restored):
            checkpoint.unpack_optimizer(optimizer, restored)
        average = self._average(stage, restored)
        module, optimizer = self.fabric.setup(LossModule(self.method), optimizer)
        while self.state.epoch < stage.epochs and not self._out_of_patience(stage):
            begin = time.perf_counter()
            row = self._train_epoch(stage, loader, module, optimizer, average)
            self._end_epoch(stage, row, begin, optimizer, average)

    def _train_epoch(
        self,
        stage: Stage,
        loader: Loader,
        module: Any,
        optimizer: Any,
        average: AveragedModel | None,
    ) -> dict[str, Any]:
        """One epoch; returns the mean losses and the throughput."""
        if stage.optim is None:
            raise ConfigError(f"stage {stage.name!r} has no optimiser.")
        epoch, per_epoch = self.state.epoch, loader.steps_per_epoch
        total_steps = per_epoch * stage.epochs
        sums: dict[str, float] = {}
        images, begin, lr = 0, time.perf_counter(), stage.optim.lr
        self.method.train()
        with _seeded(self.recipe.seed, self.state.stage, epoch, self.fabric.global_rank):
            task = self.bar.add_task(
                f"{stage.name} {epoch + 1}/{stage.epochs}", total=per_epoch, note=""
            )
            for i, cpu_batch in enumerate(loader.epoch(epoch)):
                step = epoch * per_epoch + i
                lr = learning_rate(stage.schedule, stage.optim.lr, step, total_steps, per_epoch)
                set_learning_rate(optimizer, lr)
                batch = cpu_batch.to(self.fabric.device, torch.channels_last)
                losses = module(stage.name, lambda batch=batch: batch)
                loss = weighted_sum(losses, stage.weights, epoch + i / per_epoch)
                values = {
                    "loss": loss.item(),
                    **{f"loss/{name}": term.item() for name, term in losses.items()},
                }
                values |= {
                    f"monitor/{name}": float(value)
                    for name, value in self.method.monitors().items()
                }
                if not math.isfinite(values["loss"]):
                    raise TextMaskError(
                        f"the loss is not finite at epoch {epoch + 1}, step {i + 1}: {values}. "
                        "Lower the learning rate or set precision=fp32."
                    )
                optimizer.zero_grad(set_to_none=True)
                self.fabric.backward(loss)
                if stage.clip_norm is not None:
                    self.fabric.clip_gradients(
                        module, optimizer, max_norm=stage.clip_norm, error_if_nonfinite=False
                    )
                optimizer.step()
                self.method.after_step(stage.name, step)
                if average is not None:
                    average.update_parameters(self.method)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
                images += len(batch) * self.fabric.world_size
                rate = images / (time.perf_counter() - begin)
                self.bar.update(
                    task, advance=1, note=f"loss {values['loss']:.3f} · {rate:.0f} images/s"
                )
            self.bar.remove_task(task)
        self.state.step += per_epoch
        means = {name: value / per_epoch for name, value in sums.items()}
        if self.fabric.world_size > 1:
            means = {
                name: float(self.fabric.all_reduce(torch.tensor(v), reduce_op="mean"))
                for name, v in means.items()
            }
        return {"lr": lr, **means, "images_per_s": images / (time.perf_counter() - begin)}

    def _observe(self, stage: Stage, loader: Loader) -> None:
        """A stage without gradient: every training batch once."""
        begin = time.perf_counter()
        with torch.no_grad():
            task = self.bar.add_task(stage.name, total=loader.steps_per_epoch, note="")
            for batch in loader.epoch(0):
                self.method.observe(stage.name, batch.to(self.fabric.device))
                self.bar.advance(task)
            self.bar.remove_task(task)
        self._end_epoch(stage, {"lr": 0.0}, begin, None, None)

    def _end_epoch(
        self,
        stage: Stage,
        row: dict[str, Any],
        begin: float,
        optimizer: Any,
        average: AveragedModel | None,
    ) -> None:
        """Validate, choose, save, log; on rank 0 only, the others wait."""
        if self.fabric.is_global_zero:
            chosen: Method = self.method if average is None else average.module  # type: ignore[assignment]
            self.state.epoch += 1
            due = self.state.epoch % stage.validate_every == 0 or self.state.epoch == stage.epochs
            variant, scores = (
                self._validated(chosen) if due and stage.select == "metric" else ("", {})
            )
            self.state.seconds += time.perf_counter() - begin
            score = scores.get(self.recipe.select_on)
            if stage.select == "last" or (score is not None and score > self.state.best):
                self.state.best, self.state.best_epoch = (
                    NO_SCORE if score is None else score,
                    self.state.epoch,
                )
                self.state.best_variant = variant
                self.folder.save_weights(stage.name, chosen, self.state.epoch, score)
            entry = {"stage": stage.name, "epoch": self.state.epoch, "step": self.state.step, **row}
            entry |= {f"valid/{name}": score for name, score in scores.items()} | {
                "seconds": self.state.seconds
            }
            self.log.append(entry)
            self.folder.save_last(self._tensors(optimizer, average), vars(self.state), self.log)
            for tracker in self.trackers:
                tracker.log(entry, self.state.epoch)
            star = " *" if self.state.best_epoch == self.state.epoch else ""
            figures = {
                f"valid {name}": scores[name]
                for name in ("dice_per_image", "dice_pooled")
                if name in scores
            }
            figures |= {
                key.removeprefix("monitor/"): v
                for key, v in row.items()
                if key.startswith("monitor/")
            }
            self.bar.console.print(
                f"{stage.name} {self.state.epoch}/{stage.epochs}: loss {row.get('loss', 0.0):.4f}, "
                + "".join(f"{name} {value:.4f}, " for name, value in figures.items())
                + f"{row.get('images_per_s', 0.0):.1f} images/s{star}",
                highlight=False,
            )
        state: Any = self.fabric.broadcast(vars(self.state))
        self.state = Progressed(**state)

    def _validated(self, chosen: Method) -> tuple[str, dict[str, float]]:
        """Scores of the best of a method's weights, which are used from then on, and those of each by its name."""
        if self.valid_data is None:
            raise DataError("there is no valid split to choose by.")
        if not chosen.weights_to_use:
            return "", validate(chosen, self.valid_data, self.recipe)
        found: dict[str, dict[str, float]] = {}
        for weights in chosen.weights_to_use:
            chosen.use(weights)
            found[weights] = validate(chosen, self.valid_data, self.recipe)
        best = max(found, key=lambda variant: found[variant][self.recipe.select_on])
        chosen.use(best)
        each = {
            f"{variant}/{name}": value
            for variant, scores in found.items()
            for name, value in scores.items()
        }
        return best, found[best] | each

    def _out_of_patience(self, stage: Stage) -> bool:
        return (
            stage.patience is not None
            and self.state.epoch - max(self.state.best_epoch, 0) >= stage.patience
        )

    def _average(self, stage: Stage, restored: Mapping[str, Tensor]) -> AveragedModel | None:
        """Moving average of the parameters; buffers (running statistics) are copied from the model, not averaged."""
        if stage.ema_decay is None:
            return None
        decay = get_ema_multi_avg_fn(stage.ema_decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(self.method, multi_avg_fn=decay)
        state = {
            key.removeprefix("average/"): v
            for key, v in restored.items()
            if key.startswith("average/")
        }
        if state:
            average.load_state_dict(state)
        return average

    def _labelled(self, stage: Stage) -> np.ndarray:
        keys = self.train_data.keys
        if self.labelled_list is not None:
            return indices_from_list(self.labelled_list, keys)
        return labelled_indices(keys, stage.labelled_fraction, self.recipe.seed)

    def _refuse_other_labels(self) -> None:
        keys = self.train_data.keys
        for stage in self.recipe.stages:
            kept, now = labelled_names(self.folder.path, stage.name, keys), self._labelled(stage)
            if set(kept) != {keys[i] for i in now}:
                raise DataError(
                    f"{self.folder.path} was started with other labelled pictures ({len(kept)} in stage "
                    f"{stage.name!r}, now {len(now)}). Resume with the same --labelled-list, or start a new run."
                )

    def _unlabelled(self, stage: Stage) -> np.ndarray | None:
        """Train rows whose masks the stage does not see; None without an unlabelled stream or without such a row."""
        if not stage.unlabelled_batch_size:
            return None
        seen = np.zeros(len(self.train_data), dtype=bool)
        seen[self._labelled(stage)] = True
        seen &= self.train_data.has_mask & np.array(
            [row.labelled for row in self.train_data.rows], dtype=bool
        )
        return None if seen.all() else np.flatnonzero(~seen)

    def _open_valid(self) -> SplitData | None:
        """None where there is no valid split and every stage keeps its last epoch, so that none is needed."""
        needed = any(stage.epochs and stage.select == "metric" for stage in self.recipe.stages)
        return self._open("valid") if needed or "valid" in self.manifest.splits else None

    def _open(self, split: str) -> SplitData:
        if split not in self.manifest.splits:
            held = "hold some of train out with `--hold-out 0.1`, or keep the last epoch with stages.*.select=last"
            hint = held if split == "valid" else "name a split 'train'"
            raise DataError(
                f"the data has no {split!r} split (it has {dict(self.manifest.splits)}). Training needs one: {hint}."
            )
        if self.fabric.is_global_zero:
            open_split(self.manifest, split, self.recipe.image_size, self.cache_dir)
        self.fabric.barrier()
        return open_split(self.manifest, split, self.recipe.image_size, self.cache_dir)

    def _tensors(self, optimizer: Any, average: AveragedModel | None) -> dict[str, Tensor]:
        """All that training changes, as flat tensors."""
        tensors = {f"method/{key}": value for key, value in self.method.state_dict().items()}
        if optimizer is not None:
            tensors |= checkpoint.pack_optimizer(optimizer.optimizer)
        if average is not None:
            tensors |= {f"average/{key}": value for key, value in average.state_dict().items()}
        return tensors

    def _restore(self) -> dict[str, Tensor]:
        """Load `last.safetensors`; returns its tensors for the optimiser when its stage is not finished."""
        tensors, metadata = checkpoint.read_tensors(self.folder.path / layout.LAST)
        self.state = Progressed(**metadata["state"])
        self.log = metadata["log"]
        prefix = "method/"
        self.method.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        stage = self.recipe.stages[self.state.stage]
        if self.state.epoch >= stage.epochs or stage.optim is None:
            self._next_stage()
            return {}
        return tensors

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        return Progress(
            *columns, disable=not (self.show and self.fabric.is_global_zero), transient=True
        )


def validate(method: Method, data: SplitData, recipe: Recipe) -> dict[str, float]:
    """Mean per-image and pooled overlap of a split at the recipe's size and threshold."""
    found = overlap(
        counts(predict_split(method, data, recipe) > recipe.threshold, data.masks),
        recipe.empty_policy,
    )
    return {
        "dice_per_image": found.dice_per_image_mean,
        "dice_pooled": found.dice_pooled,
        "iou_per_image": found.iou_per_image_mean,
        "iou_pooled": found.iou_pooled,
    }


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Give library code that draws from torch's default generator (dropout) a seed of its own; restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        yield
