"""Validation scores, by which a training chooses its epoch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from lightning_fabric import Fabric

from textmask.config import Recipe
from textmask.data.cache import SplitData
from textmask.inference.predict_split import predict_batches
from textmask.methods.base import Method
from textmask.metrics.overlap import Counts, counts, overlap


def validate(method: Method, data: SplitData, recipe: Recipe) -> dict[str, float]:
    """Mean per-image and pooled overlap of a split at the recipe's size and threshold."""
    return scores_of(predict_batches(method, data, recipe), data, recipe)


def scores_of(batches: Iterable[np.ndarray], data: SplitData, recipe: Recipe) -> dict[str, float]:
    """Mean per-image and pooled overlap with the masks of a split.

    Args:
        batches: probabilities or masks B H W of all images in their order; each batch is counted and let go.
        data: the split.
        recipe: gives the threshold and the policy of empty masks.
    """
    return _named_scores(_counts_of(batches, data, recipe), recipe)


def _counts_of(batches: Iterable[np.ndarray], data: SplitData, recipe: Recipe) -> Counts:
    parts: list[Counts] = []
    begin = 0
    for batch in batches:
        end = begin + len(batch)
        parts.append(counts(batch > recipe.threshold, data.masks[begin:end]))
        begin = end
    return Counts.concatenate(parts)


def _named_scores(counted: Counts, recipe: Recipe) -> dict[str, float]:
    found = overlap(counted, recipe.empty_policy)
    return {
        "dice_per_image": found.dice_per_image_mean,
        "dice_pooled": found.dice_pooled,
        "iou_per_image": found.iou_per_image_mean,
        "iou_pooled": found.iou_pooled,
    }


def validate_shared(
    method: Method, data: SplitData, recipe: Recipe, fabric: Fabric
) -> dict[str, float]:
    """`validate` with each process predicting a part of the images; all return the same scores."""
    if fabric.world_size == 1:
        return validate(method, data, recipe)

    # consecutive rows, which are read from the memory map without a copy
    share = -(-len(data) // fabric.world_size)
    part = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    mine = data.part(part)
    found = torch.zeros(3, len(data), dtype=torch.long)
    if len(mine):
        here = _counts_of(predict_batches(method, mine, recipe), mine, recipe)
        each = np.stack([here.intersection, here.predicted, here.true])
        found[:, part] = torch.from_numpy(each)

    # every process has zeros where the others have counts
    summed = fabric.all_reduce(found, reduce_op="sum")
    intersection, predicted, true = torch.as_tensor(summed).cpu().numpy()
    return _named_scores(Counts(intersection, predicted, true), recipe)


def share_buffers(method: Method, fabric: Fabric) -> None:
    """Give all processes the running statistics of the first one, which saw other images than they did."""
    if fabric.world_size == 1:
        return
    for buffer in method.buffers():
        torch.distributed.broadcast(buffer, 0)


def validate_variants(
    method: Method, data: SplitData, recipe: Recipe, fabric: Fabric
) -> tuple[str, dict[str, float]]:
    """Validate each of a method's weights (student, teacher) and make it use the best one from then on.

    Args:
        method: may have only one kind of weights.
        data: the validation split.
        recipe: names the score to choose by.
        fabric: its processes share the images.

    Returns:
        The best weights ("" if the method has only one kind) and their scores, then those of each as `weights/score`.
    """
    if not method.weights_to_use:
        return "", validate_shared(method, data, recipe, fabric)

    found: dict[str, dict[str, float]] = {}
    for variant in method.weights_to_use:
        method.use(variant)
        found[variant] = validate_shared(method, data, recipe, fabric)

    # the choice is part of the weights that are saved
    best = max(found, key=lambda variant: found[variant][recipe.select_on])
    method.use(best)
    scores = dict(found[best])
    for variant, values in found.items():
        scores.update({f"{variant}/{name}": value for name, value in values.items()})
    return best, scores
