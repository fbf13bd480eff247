"""Warnings about a training whose score means little: below what needs no training, or on empty masks only."""

from __future__ import annotations

import numpy as np

from textmask.config import Recipe
from textmask.data.cache import SplitData
from textmask.data.loaders import Loader
from textmask.inference.predict_split import in_batches
from textmask.methods.registry import get_method
from textmask.training.splits import TrainSplits
from textmask.training.validation import scores_of, validate

MOST_IMAGES = 1000  # labelled images of which the text prior takes its mean masks


def empty_splits(splits: TrainSplits) -> list[str]:
    """A warning for each split in which no mask has any foreground."""
    found = []
    for name, data in splits.by_name().items():
        rows = np.flatnonzero(data.has_mask)
        if len(rows) and not any(data.masks[row].any() for row in rows):
            means = "a model that predicts nothing has a perfect score"
            if name == "train":
                means = "a model can only learn to predict nothing"
            found.append(
                f"all {len(rows)} masks of the {name} split are empty: {means}. Check the masks with "
                "`textmask data inspect`."
            )
    return found


def below_trivial(recipe: Recipe, splits: TrainSplits, score: float) -> list[str]:
    """A warning for each prediction without training that has a better validation score than the run.

    Args:
        recipe: of the run; its `select_on` is the score that is compared.
        splits: the valid split must exist.
        score: the validation score of the run.
    """
    valid = splits.valid
    if valid is None or recipe.stages[-1].optim is None:
        return []
    scores = {
        "predicting foreground everywhere": _all_foreground(recipe, valid),
        "the mean mask of the same statement (text_prior)": _text_prior(recipe, splits, valid),
    }

    found = []
    for name, trivial in scores.items():
        if score < trivial:
            found.append(
                f"the validation score {score:.4f} ({recipe.select_on}) is below {trivial:.4f}, the score of {name}: "
                "the model has not learned to use the images. Train for more steps, check masks and prompts with "
                "`textmask data inspect`, or start from trained weights with --init."
            )
    return found


def _all_foreground(recipe: Recipe, valid: SplitData) -> float:
    """Score of a mask that covers the image."""
    masks = np.broadcast_to(np.True_, valid.masks.shape)  # one value in memory
    return scores_of(in_batches(masks), valid, recipe)[recipe.select_on]


def _text_prior(recipe: Recipe, splits: TrainSplits, valid: SplitData) -> float:
    """Score of the mean masks of the labelled train images of the run."""
    spec = get_method("text_prior")
    prior = spec.recipe().model_copy(
        update={"image_size": recipe.image_size, "empty_policy": recipe.empty_policy}
    )
    method = spec.build(prior)
    rows = splits.labelled[recipe.stages[-1].name][:MOST_IMAGES]
    loader = Loader(splits.train, prior.stages[0], seed=recipe.seed, train=False, indices=rows)
    for batch in loader.epoch(0):
        method.observe("average", batch)
    return validate(method.eval(), valid, prior)[recipe.select_on]
