"""Does a data set need its prompts? What a model reaches that never reads, and one that never looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textmask.data.cache import open_split
from textmask.data.manifest import Manifest
from textmask.errors import DataError
from textmask.progress import Progress

# of more targets than this, unions of all subsets would take too long
MOST_TARGETS = 10


@dataclass(frozen=True)
class LanguageGap:
    """How far a data set can be segmented without reading, and without looking.

    Attributes:
        images: number of images with a target.
        targets: number of pairs of an image and a prompt with a mask that is not empty.
        ceiling: mean Dice of the best single mask per image, scored against each of its targets.
        prior: mean Dice of the mean mask of each prompt in the images of other groups.
    """

    images: int
    targets: int
    ceiling: float
    prior: float

    @property
    def targets_per_image(self) -> float:
        """Targets per image that has one."""
        return self.targets / self.images


def language_gap(
    manifest: Manifest,
    image_size: tuple[int, int],
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> LanguageGap:
    """Measure what a data set allows without its prompts, and without its images; masks are perfect.

    Args:
        manifest: rows with masks; of label maps, one row per structure (`with_classes`).
        image_size: rows and columns at which masks are compared.
        cache_dir: folder of the cache; None means the user's.
        progress: called with (task, done, total) while files are read.

    Raises:
        DataError: no row has a mask that is not empty.
    """
    targets: dict[str, list[np.ndarray]] = defaultdict(list)
    prompts: list[tuple[str, str]] = []
    masks: list[np.ndarray] = []
    for split in manifest.splits:
        data = open_split(manifest, split, image_size, cache_dir, progress)
        for number, row in enumerate(data.rows):
            mask = np.asarray(data.masks[number]) > 0
            if mask.any():
                targets[row.image].append(mask)
                prompts.append((row.text, row.group or row.image))
                masks.append(mask)
    if not masks:
        raise DataError(
            f"{manifest.name or manifest.root}: no row has a mask that is not empty, so that nothing can be measured. "
            "For label maps, give --classes classes.csv."
        )

    # several rows of an image may have one mask: paraphrases
    ceilings: list[float] = []
    for found in targets.values():
        scores = best_single_mask(found)
        ceilings += scores
    prior = _prior_dice(masks, prompts)
    return LanguageGap(len(targets), len(masks), float(np.mean(ceilings)), prior)


def best_single_mask(targets: Sequence[npt.NDArray[np.bool_]]) -> list[float]:
    """Dice against each target of the union of targets with the best mean: what one mask for all prompts can reach.

    Args:
        targets: bool H W of one image, none empty.
    """
    chosen = list(targets[:MOST_TARGETS])
    # pixels with the same targets are counted together, so that a union is a sum
    codes = np.zeros(targets[0].shape, np.int64)
    for bit, mask in enumerate(chosen):
        codes |= mask.astype(np.int64) << bit
    counts = np.bincount(codes.ravel(), minlength=1 << len(chosen))
    members = np.arange(1 << len(chosen))
    inside = (members[:, None] & members[None, :]) != 0  # union x code

    areas = inside @ counts
    dices = []
    for bit in range(len(chosen)):
        own = np.where(members >> bit & 1, counts, 0)
        dices.append(2 * (inside @ own) / np.maximum(areas + own.sum(), 1))
    table = np.stack(dices)
    best = int(table.mean(axis=0).argmax())
    return [float(dice) for dice in table[:, best]]


def _prior_dice(masks: Sequence[np.ndarray], prompts: Sequence[tuple[str, str]]) -> float:
    """Mean Dice of the mean mask of a prompt, which never saw the group of the image that it is scored on."""
    shape = masks[0].shape
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(shape))
    own: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(shape))
    counts: dict[object, int] = defaultdict(int)
    for mask, (text, group) in zip(masks, prompts, strict=True):
        sums[text] += mask
        own[text, group] += mask
        counts[text] += 1
        counts[text, group] += 1
    whole = np.sum(list(sums.values()), axis=0)

    scores = []
    priors: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
    for mask, key in zip(masks, prompts, strict=True):
        if key not in priors:
            others = counts[key[0]] - counts[key]
            mean = (sums[key[0]] - own[key]) / others if others else whole / len(masks)
            priors[key] = most_expected_dice(mean)
        prior = priors[key]
        scores.append(2 * (prior & mask).sum() / (prior.sum() + mask.sum()))
    return float(np.mean(scores))


def most_expected_dice(mean: np.ndarray) -> npt.NDArray[np.bool_]:
    """The mean mask H W, cut where 2 E|A and B| / (|A| + E|B|) is largest."""
    order = np.sort(mean.ravel())[::-1]
    dice = 2 * np.cumsum(order) / (np.arange(1, order.size + 1) + mean.sum())
    return np.asarray(mean >= max(order[int(dice.argmax())], np.finfo(float).tiny))
