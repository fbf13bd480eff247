"""The decoded train and valid splits of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock

from textmask.config import Recipe
from textmask.data.cache import SplitData, open_split
from textmask.data.cache_folder import cache_folder
from textmask.data.manifest import Manifest
from textmask.errors import DataError
from textmask.io.files import this_host
from textmask.training.labels import labelled_by_stage
from textmask.training.sizes import smaller_parts

HINTS = {
    "train": "name a split 'train'",
    "valid": "hold some of train out with `--hold-out 0.1`, or keep the last epoch with stages.*.select=last",
}


@dataclass(frozen=True)
class TrainSplits:
    """What a run trains on and is validated on.

    Attributes:
        train: the train split.
        valid: the validation split; None if no stage needs one and the data has none.
        labelled: stage name -> train rows whose masks the stage may see.
        smaller: the train split at the smaller sizes of `Stage.sizes`: rows and columns -> decoded split.
    """

    train: SplitData
    valid: SplitData | None
    labelled: Mapping[str, np.ndarray]
    smaller: Mapping[tuple[int, int], SplitData] = field(default_factory=dict)

    def by_name(self) -> dict[str, SplitData]:
        """The splits that exist, by name."""
        splits = {"train": self.train}
        if self.valid is not None:
            splits["valid"] = self.valid
        return splits


def open_train_splits(
    recipe: Recipe, manifest: Manifest, cache_dir: Path | None, labelled_list: Path | None
) -> TrainSplits:
    """Decode and open the splits that a recipe needs and choose the labelled rows.

    Of several processes of a host one decodes and the others wait at a file lock. Call it before the processes join:
    decoding may take longer than they wait for each other.

    Raises:
        DataError: there is no train split, no valid split to choose an epoch by, or a listed name matches no row.
    """
    needed, opened = _needed(recipe, manifest), {}
    with _one_of_this_host(cache_folder(cache_dir)):
        for split, size in needed:
            opened[split, size] = open_split(manifest, split, size, cache_dir)

    train = opened.pop(("train", recipe.image_size))
    valid = opened.pop(("valid", recipe.image_size), None)
    smaller = {size: data for (_, size), data in opened.items()}
    labelled = labelled_by_stage(train.keys, recipe.stages, recipe.seed, labelled_list)
    return TrainSplits(train, valid, labelled, smaller)


@contextmanager
def _one_of_this_host(folder: Path) -> Iterator[None]:
    """Wait until no other process of this host is in the block; in a folder that cannot be written all go on."""
    lock = FileLock(folder / f".decoding-{this_host()}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield
        return

    try:
        yield
    finally:
        lock.release()


def _needed(recipe: Recipe, manifest: Manifest) -> list[tuple[str, tuple[int, int]]]:
    """The splits that a recipe needs, and at which sizes: the full one first."""
    needed = [("train", recipe.image_size)]
    # without a validated stage a run can do without a valid split
    validated = any(stage.epochs and stage.select == "metric" for stage in recipe.stages)
    if validated or "valid" in manifest.splits:
        needed.append(("valid", recipe.image_size))
    for split, _ in needed:
        if split not in manifest.splits:
            raise DataError(
                f"the data has no {split!r} split (it has {dict(manifest.splits)}). Training needs one: {HINTS[split]}."
            )

    for stage in recipe.stages:
        for part in smaller_parts(recipe, stage):
            if ("train", part.size) not in needed:
                needed.append(("train", part.size))
    return needed
