"""Validation scores, by which a training chooses its epoch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

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
    parts: list[Counts] = []
    begin = 0
    for batch in batches:
        end = begin + len(batch)
        parts.append(counts(batch > recipe.threshold, data.masks[begin:end]))
        begin = end
    found = overlap(Counts.concatenate(parts), recipe.empty_policy)
    return {
        "dice_per_image": found.dice_per_image_mean,
        "dice_pooled": found.dice_pooled,
        "iou_per_image": found.iou_per_image_mean,
        "iou_pooled": found.iou_pooled,
    }


def validate_variants(
    method: Method, data: SplitData, recipe: Recipe
) -> tuple[str, dict[str, float]]:
    """Validate each of a method's weights (student, teacher) and make it use the best one from then on.

    Args:
        method: may have only one kind of weights.
        data: the validation split.
        recipe: names the score to choose by.

    Returns:
        The best weights ("" if the method has only one kind) and their scores, then those of each as `weights/score`.
    """
    if not method.weights_to_use:
        return "", validate(method, data, recipe)

    found: dict[str, dict[str, float]] = {}
    for variant in method.weights_to_use:
        method.use(variant)
        found[variant] = validate(method, data, recipe)

    # the choice is part of the weights that are saved
    best = max(found, key=lambda variant: found[variant][recipe.select_on])
    method.use(best)
    scores = dict(found[best])
    for variant, values in found.items():
        scores.update({f"{variant}/{name}": value for name, value in values.items()})
    return best, scores
