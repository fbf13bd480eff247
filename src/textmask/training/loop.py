"""`train`: the steps from a recipe and a manifest to a run folder; the loop itself is `trainer.Training`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric

from textmask.config import Recipe
from textmask.data.manifest import Manifest
from textmask.data.mask_scan import decide_rule
from textmask.data.splits import unread_splits
from textmask.io.locks import one_writer
from textmask.methods.base import Method
from textmask.runs.environment import deterministic, prepare_cpu
from textmask.runs.folder import RunFolder
from textmask.training.batch_size import with_largest_batches
from textmask.training.budget import StagePlan, few_steps, plan_training
from textmask.training.console import TrainConsole
from textmask.training.empty_text import refuse_empty_text
from textmask.training.init import InitReport, load_init, stored_init
from textmask.training.labels import refuse_other_labels
from textmask.training.launch import fitted_recipe, launch, new_method
from textmask.training.optim import parameter_groups
from textmask.training.options import TrainOptions, TrainResult
from textmask.training.prompt_losses import refuse_prompts
from textmask.training.resume import data_record, machine_record, note_machine, refuse_changes
from textmask.training.saving import NO_SCORE, SavedRun, restore
from textmask.training.splits import TrainSplits, open_train_splits
from textmask.training.trackers import Tracker, build_trackers
from textmask.training.trainer import Training
from textmask.training.trivial import below_trivial, empty_splits

__all__ = ["TrainOptions", "TrainResult", "train"]


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
    declared = recipe
    recipe, adapted = fitted_recipe(recipe, options.accelerator)
    folder = RunFolder(Path(out), declared, manifest, options.data_options, options.source)
    resumed = folder.open(resume)

    # the data, then the other processes
    splits = open_train_splits(recipe, manifest, cache_dir, labelled_list)
    fabric = launch(recipe, options)
    if options.auto_batch and not resumed:
        fitting, lines = with_largest_batches(recipe, splits, fabric)
        recipe, declared = fitting, declared.model_copy(update={"stages": fitting.stages})
        folder, adapted = replace(folder, recipe=declared), [*adapted, *lines]
    if resumed:
        refuse_changes(folder.path, recipe, splits.by_name(), fabric, accept=options.accept_changes)
        refuse_other_labels(folder.path, splits.train.keys, splits.labelled)

    # the model, new or as the run left it
    recipe, plans = plan_training(recipe, splits, fabric.world_size)
    method = new_method(recipe, splits, fabric)
    for stage in recipe.stages:
        if stage.optim is not None:
            # what does not go together is found before anything is written
            parameter_groups(method, stage)
            refuse_prompts(method, stage)
    init = None
    if not resumed:
        source = options.init or (stored_init(folder.path) if resume else None)
        init = None if source is None else load_init(method, recipe, source, manifest.laterality)
    saved = restore(folder, recipe, method) if resumed else SavedRun()
    trackers: list[Tracker] = []
    if fabric.is_global_zero:
        if resumed:
            folder.write_log(saved.log)  # a kill may have lost its last row
            note_machine(folder.path, machine_record(fabric, recipe), saved.state.step)
        else:
            _describe_run(folder, fabric, recipe, splits, method, plans, init)
        trackers = build_trackers(options.trackers, folder.path, recipe)

    with TrainConsole(progress and fabric.is_global_zero) as console:
        found: list[str] = []
        if fabric.is_global_zero:
            found = _say_plan(console, manifest, plans, splits, init, adapted)
        training = Training(
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


def _describe_run(
    folder: RunFolder,
    fabric: Fabric,
    recipe: Recipe,
    splits: TrainSplits,
    method: Method,
    plans: Sequence[StagePlan],
    init: InitReport | None,
) -> None:
    """Write what a reader and `--resume` must know of a new run."""
    more: dict[str, object] = {"plan": [plan.record() for plan in plans]}
    more["trained_in"] = recipe.precision
    more["identity"] = data_record(splits.by_name())
    more["machine"] = machine_record(fabric, recipe)
    if init is not None:
        more["init"] = init.record()
    folder.describe(splits.by_name(), splits.labelled, method, more)


def _say_plan(
    console: TrainConsole,
    manifest: Manifest,
    plans: Sequence[StagePlan],
    splits: TrainSplits,
    init: InitReport | None,
    adapted: Sequence[str],
) -> list[str]:
    """Print what will be done; returns the warnings that are known before the first step."""
    lines = [] if init is None else init.lines()
    for plan in plans:
        lines += plan.lines()
    lines += [f"  adapted: {line}" for line in adapted]
    if unread := unread_splits(manifest):
        lines.append(f"  {unread}")
    for line in lines:
        console.say(line)
    return [*few_steps(plans), *empty_splits(splits)]
