"""The decoded train and valid splits of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from textmask.config import Recipe
from textmask.data.cache import SplitData, open_split
from textmask.data.manifest import Manifest
from textmask.errors import DataError
from textmask.training.labels import labelled_by_stage

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
    """

    train: SplitData
    valid: SplitData | None
    labelled: Mapping[str, np.ndarray]

    def by_name(self) -> dict[str, SplitData]:
        """The splits that exist, by name."""
        splits = {"train": self.train}
        if self.valid is not None:
            splits["valid"] = self.valid
        return splits


def open_train_splits(
    fabric: Fabric,
    recipe: Recipe,
    manifest: Manifest,
    cache_dir: Path | None,
    labelled_list: Path | None,
) -> TrainSplits:
    """Open the splits that a recipe needs and choose the labelled rows.

    Raises:
        DataError: there is no train split, no valid split to choose an epoch by, or a listed name matches no row.
    """
    train = _open(fabric, recipe, manifest, "train", cache_dir)

    # without a validated stage a run can do without a valid split
    needed = any(stage.epochs and stage.select == "metric" for stage in recipe.stages)
    valid = None
    if needed or "valid" in manifest.splits:
        valid = _open(fabric, recipe, manifest, "valid", cache_dir)

    labelled = labelled_by_stage(train.keys, recipe.stages, recipe.seed, labelled_list)
    return TrainSplits(train, valid, labelled)


def _open(
    fabric: Fabric, recipe: Recipe, manifest: Manifest, split: str, cache_dir: Path | None
) -> SplitData:
    """Decode a split on one process, then open it on all."""
    if split not in manifest.splits:
        raise DataError(
            f"the data has no {split!r} split (it has {dict(manifest.splits)}). Training needs one: {HINTS[split]}."
        )
    if fabric.is_global_zero:
        open_split(manifest, split, recipe.image_size, cache_dir)
    fabric.barrier()
    return open_split(manifest, split, recipe.image_size, cache_dir)
