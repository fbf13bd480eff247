"""The number of steps of a training: small train splits get smaller batches and more epochs, and all is said first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from textmask.config import Ramp, Recipe, Stage
from textmask.data.loaders import one_pass
from textmask.text.edit import mirror
from textmask.training.labels import unlabelled_rows
from textmask.training.sizes import smaller_parts
from textmask.training.splits import TrainSplits

SMALLEST_BATCH = 8
LARGEST_REPEATED = 32  # rows; a batch up to this size may repeat images of a smaller split
BATCHES_PER_PASS = 8  # wanted at least, so that an epoch is more than a few steps
MOST_EPOCHS = 40  # of a stage that is adapted: each epoch writes a checkpoint
TIMED_STEPS = 5
FEW_STEPS = 100  # fewer are rarely enough for a useful model


@dataclass(frozen=True)
class StagePlan:
    """What one stage will do, known before its first step.

    Attributes:
        stage: name.
        images: labelled train rows.
        unlabelled: rows of the unlabelled stream.
        epochs: of the stage.
        batch_size: of the labelled stream.
        steps_per_epoch: optimizer steps; repeated passes over the images if the images are few.
        trains: False for a stage without gradient.
        adapted: what differs from the recipe, and why; "" if nothing does.
        unlabelled_batch_size: of the unlabelled stream, which is left out if `unlabelled` is 0; 0 without one.
        sizes: rows and columns of the smaller images that come first, and their shares of the steps.
        not_flipped: labelled images whose prompt cannot be mirrored, so that they are never flipped; 0 without flips.
    """

    stage: str
    images: int
    unlabelled: int
    epochs: int
    batch_size: int
    steps_per_epoch: int
    trains: bool
    adapted: str = ""
    unlabelled_batch_size: int = 0
    not_flipped: int = 0
    sizes: tuple[tuple[tuple[int, int], float], ...] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.epochs * self.steps_per_epoch

    def lines(self) -> list[str]:
        """The plan in words."""
        shown = f"{self.images} labelled images"
        if self.unlabelled:
            shown += f" and {self.unlabelled} unlabelled ones"
        if not self.trains:
            return [f"plan: {self.stage}: {shown}, seen once"]

        lines = [
            f"plan: {self.stage}: {shown}, batch {self.batch_size}, {self.epochs} epochs of "
            f"{self.steps_per_epoch} steps = {self.steps} steps"
        ]
        if self.adapted:
            lines.append(f"  adapted: {self.adapted}")
        if self.sizes:
            each = [f"{rows} x {columns} for {share:.0%}" for (rows, columns), share in self.sizes]
            lines.append(f"  sizes: {', '.join(each)} of the steps, then full size")
        if self.not_flipped:
            lines.append(
                f"  {self.not_flipped} images are never flipped, because their prompts cannot be mirrored"
            )
        return lines

    def record(self) -> dict[str, object]:
        """The plan as it is stored in the run."""
        return asdict(self)


def plan_training(
    recipe: Recipe, splits: TrainSplits, processes: int = 1
) -> tuple[Recipe, list[StagePlan]]:
    """The recipe with the epochs and batch sizes of its budget, and the plan of each stage that is not skipped."""
    stages, plans = [], []
    for stage in recipe.stages:
        rows = splits.labelled[stage.name]
        # each part of an accumulated batch is shared by all processes
        divisor = processes * stage.accumulate
        usable = [i for i in rows if splits.train.has_mask[i] and splits.train.rows[i].labelled]
        other = unlabelled_rows(splits.train, stage, rows)
        unlabelled = 0 if other is None else len(other)

        stage, capped = cap_batches(stage, len(usable), unlabelled, divisor)
        fitted, adapted = fit_stage(stage, len(usable), unlabelled, divisor)
        adapted = "; ".join(part for part in (capped, adapted) if part)
        stages.append(fitted)
        if fitted.epochs:
            plans.append(
                StagePlan(
                    stage=stage.name,
                    images=len(usable),
                    unlabelled=unlabelled,
                    epochs=fitted.epochs,
                    batch_size=fitted.batch_size,
                    steps_per_epoch=one_pass(fitted, len(usable), unlabelled),
                    trains=stage.optim is not None,
                    adapted=adapted,
                    unlabelled_batch_size=fitted.unlabelled_batch_size,
                    not_flipped=_not_flipped(fitted, [splits.train.prompts[i] for i in usable]),
                    sizes=tuple((part.size, part.share) for part in smaller_parts(recipe, stage)),
                )
            )
    return recipe.model_copy(update={"stages": tuple(stages)}), plans


def cap_batches(
    stage: Stage, labelled: int, unlabelled: int = 0, processes: int = 1
) -> tuple[Stage, str]:
    """Reduce a batch that is larger than the data, because it would only repeat images and fill the memory.

    A batch of up to 32 is kept: published settings repeat a few labelled images within a batch.

    Returns:
        The stage, and what was reduced and why ("" if nothing was).
    """
    update, parts = {}, []
    for name, rows in (("batch_size", labelled), ("unlabelled_batch_size", unlabelled)):
        size = getattr(stage, name)
        most = max(rows, LARGEST_REPEATED)
        most += -most % processes
        if rows and size > most:
            update[name] = most
            parts.append(f"{name} {size} -> {most}, because there are only {rows} images for it")
    return stage.model_copy(update=update), ", ".join(parts)


def fit_stage(
    stage: Stage, labelled: int, unlabelled: int = 0, processes: int = 1
) -> tuple[Stage, str]:
    """Fit a stage to the number of its images.

    If the epochs of the stage make at least `Stage.steps` steps, nothing changes. Otherwise the batch is halved until a
    pass over the images has eight batches (never below a quarter of its size, or 8), and the number of epochs is raised
    until the budget is reached. What counts in epochs is stretched with them: growing weights, patience, validation.

    Args:
        stage: with or without a budget.
        labelled: number of its labelled images.
        unlabelled: number of rows in its unlabelled stream.
        processes: batch sizes stay divisible by it.

    Returns:
        The stage to train, and what was adapted and why ("" if nothing was).
    """
    planned = stage.epochs * one_pass(stage, labelled, unlabelled)
    if not stage.steps or not stage.epochs or stage.optim is None or planned >= stage.steps:
        return stage.model_copy(update={"steps": None}), ""

    # a smaller batch first: more steps for the same computing time
    batch = stage.batch_size
    smallest = min(batch, max(SMALLEST_BATCH, batch // 4))
    while batch // 2 >= smallest and labelled < batch * BATCHES_PER_PASS:
        if (batch // 2) % processes:
            break
        batch //= 2
    fitted = stage.model_copy(update={"batch_size": batch, "steps": None})

    # then more epochs, and longer ones if these would be too many
    per_epoch = one_pass(fitted, labelled, unlabelled)
    longest = math.ceil(stage.steps / max(MOST_EPOCHS, stage.epochs))
    per_epoch = max(per_epoch, longest)
    epochs = max(stage.epochs, math.ceil(stage.steps / per_epoch))
    longer = epochs / stage.epochs
    weights = {name: _stretched(weight, longer) for name, weight in stage.weights.items()}
    fitted = fitted.model_copy(
        update={
            "epochs": epochs,
            "steps_per_epoch": per_epoch,
            "weights": weights,
            "patience": stage.patience and math.ceil(stage.patience * longer),
            "validate_every": max(1, int(stage.validate_every * longer)),
        }
    )

    changes = []
    if batch != stage.batch_size:
        changes.append(f"batch {stage.batch_size} -> {batch}")
    if epochs != stage.epochs:
        changes.append(f"epochs {stage.epochs} -> {epochs}")
    why = f"{labelled} images would give {planned} steps, the budget is {stage.steps}"
    return fitted, f"{', '.join(changes) or 'several passes per epoch'}, because {why}"


def _not_flipped(stage: Stage, prompts: Sequence[str]) -> int:
    if stage.optim is None or stage.augment is None or not stage.augment.flip:
        return 0
    counts = Counter(prompts)
    return sum(count for prompt, count in counts.items() if mirror(prompt) is None)


def _stretched(weight: float | Ramp, longer: float) -> float | Ramp:
    """A growing weight over more epochs."""
    if not isinstance(weight, Ramp):
        return weight
    start, end = round(weight.start_epoch * longer), round(weight.end_epoch * longer)
    return weight.model_copy(update={"start_epoch": start, "end_epoch": end})


def few_steps(plans: Sequence[StagePlan]) -> list[str]:
    """A warning for each trained stage with hardly any steps, or with an unlabelled stream that has no images."""
    found = []
    for plan in plans:
        if plan.trains and plan.unlabelled_batch_size and not plan.unlabelled:
            found.append(
                f"stage {plan.stage!r} learns from unlabelled images too, but all {plan.images} train images are "
                "labelled: what it is made for is switched off. Set --set 'stages.*.labelled_fraction=0.05', give "
                "--labelled-list FILE, or leave the masks of some train rows out"
            )
        if plan.trains and plan.steps < FEW_STEPS:
            found.append(
                f"stage {plan.stage!r} has only {plan.steps} steps, which is rarely enough for a useful model. Set "
                f"more epochs, or a budget: --set stages.{plan.stage}.steps=400"
            )
    return found


class StepTimer:
    """Says after a few steps how long a stage will take.

    Args:
        say: receives the line.
        stage: name.
        steps: steps of the stage that are left.
    """

    def __init__(self, say: Callable[[str], None], stage: str, steps: int) -> None:
        self.say, self.stage, self.steps = say, stage, steps
        self.seen, self.first, self.begin, self.told = 0, 0, 0.0, False

    def tick(self, now: float, steps: int = 1) -> None:
        """Note that some steps have ended at `now`, in seconds; the first ones are not counted, they warm up."""
        if self.told:
            return
        self.seen += steps
        if self.first == 0:
            self.first, self.begin = self.seen, now
        timed = self.seen - self.first
        if timed >= TIMED_STEPS and self.steps > TIMED_STEPS:
            self.told = True
            each = (now - self.begin) / timed
            left = each * max(self.steps - self.seen, 0)
            self.say(
                f"plan: {self.stage}: about {_duration(left)} for {self.steps} steps ({each:.2f} s per step), "
                "plus validation"
            )


def _duration(seconds: float) -> str:
    """Seconds or minutes, rounded."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
