"""Cross-validation by group: one training per fold, every image tested once."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.manifest import Manifest, interval_groups
from textmask.data.splits import fold_manifests
from textmask.io.files import write_whole
from textmask.methods.registry import Arm, preset_recipe
from textmask.metrics.overlap import dice_per_image, iou_per_image
from textmask.metrics.statistics import Interval, bootstrap_ci
from textmask.studies.grid.runner import StudyOptions
from textmask.studies.grid.trials import Trial, TrialSet

SCORES, FOLDS = "scores.csv", "folds.csv"


@dataclass(frozen=True)
class FoldsResult:
    """Scores of a cross-validation.

    Attributes:
        dice_by_fold: mean Dice per image of each fold's test images.
        dice: mean over all images, each tested once, with its interval over groups.
    """

    dice_by_fold: tuple[float, ...]
    dice: Interval

    def lines(self) -> list[str]:
        """The result in words."""
        lines = []
        for number, value in enumerate(self.dice_by_fold):
            lines.append(f"fold {number}: Dice per image {value:.4f}")
        spread = statistics.stdev(self.dice_by_fold)
        lines.append(
            f"all {self.dice.n} images: Dice per image {self.dice.estimate:.4f} "
            f"({self.dice.low:.4f} to {self.dice.high:.4f} over groups); standard deviation over folds {spread:.4f}"
        )
        return lines


def run_folds(
    method: str,
    manifest: Manifest,
    out: Path,
    folds: int,
    options: StudyOptions,
    say: Callable[[str], None] | None = None,
) -> FoldsResult:
    """Train a method once per fold and score each fold's test images; the same call again resumes.

    Leaves in `out`: a run folder per fold, folds.csv (a row per fold) and scores.csv (a row per image). They are
    written when all folds are finished.

    Args:
        method: name.
        manifest: the data; its own splits are not used.
        out: folder of the study.
        folds: number of folds, at least 3.
        options: preset, settings, cache, device and the first seed; the seed also deals out the groups.
        say: receives a line per fold.

    Raises:
        ConfigError: too few groups, or a folder holds another run.
    """
    seed = options.seeds[0]
    settings = (*options.settings, f"seed={seed}")
    recipe = preset_recipe(method, options.preset).override(*settings)
    sets = []
    for number, part in enumerate(fold_manifests(manifest, folds, seed)):
        trial = Trial(
            Arm(f"fold{number}", f"fold {number}"), seed, recipe, settings, out / f"fold{number}"
        )
        sets.append(
            TrialSet(
                (trial,),
                replace(part, root=part.root.absolute()),
                "test",
                recipe,
                options.cache_dir,
                device=options.device,
                data_options=options.data_options,
                accept_changes=options.accept_changes,
            )
        )
    # all folders are compared before the first hour of training
    for one in sets:
        one.check()

    rows: list[list[Any]] = []
    images: list[list[Any]] = []
    means: list[float] = []
    for number, one in enumerate(sets):
        done = one.make(one.trials[0], bar=say is not None)
        tested = one.manifest.rows_of("test")
        dice = dice_per_image(done.counts, recipe.empty_policy)
        iou = iou_per_image(done.counts, recipe.empty_policy)
        kept = ~np.isnan(dice)
        means.append(float(dice[kept].mean()))
        if say is not None:
            say(f"fold {number}: {len(tested)} test images, Dice per image {means[-1]:.4f}")

        counts = one.manifest.splits
        rows.append([number, counts["train"], counts["valid"], counts["test"], means[-1]])
        names = interval_groups(tested)
        for row, group, a, b in zip(tested, names, dice, iou, strict=True):
            images.append([one.manifest.key(row), group, number, float(a), float(b)])

    _write(out / FOLDS, ["fold", "train", "valid", "test", "dice_per_image"], rows)
    _write(out / SCORES, ["key", "group", "fold", "dice", "iou"], images)
    scored = [row for row in images if not np.isnan(row[3])]
    interval = bootstrap_ci(
        [row[3] for row in scored], [str(row[1]) for row in scored], n=options.n_bootstrap
    )
    return FoldsResult(tuple(means), interval)


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *rows])
    write_whole(path, stream.getvalue().encode())
