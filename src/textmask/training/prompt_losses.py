"""Losses of several prompts per image: the image features are computed once, whatever the method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from textmask.config import Stage
from textmask.errors import ConfigError
from textmask.methods.base import Method
from textmask.types import Batch, Image


@dataclass
class SharedFeatures:
    """The features of one batch of images.

    Attributes:
        features: what `Method.image_features` returned; None before its first call.
        uses: how often they were asked for.
    """

    features: tuple[Tensor, ...] | None = None
    uses: int = 0


@contextmanager
def shared_features(method: Method, image: Image) -> Iterator[SharedFeatures]:
    """While open, `method.image_features(image)` computes the features of this tensor once and returns them again."""
    compute, shared = method.image_features, SharedFeatures()

    def image_features(asked: Image) -> tuple[Tensor, ...] | None:
        if asked is not image:
            return compute(asked)
        if shared.features is None:
            shared.features = compute(image)
        shared.uses += 1
        return shared.features

    # an attribute of this instance hides the function of its class
    vars(method)["image_features"] = image_features
    try:
        yield shared
    finally:
        del vars(method)["image_features"]


def prompt_losses(method: Method, stage: str, batch: Batch) -> dict[str, Tensor]:
    """Loss terms of a batch; with further prompts, the mean of each term over the prompts.

    Args:
        method: in training mode.
        stage: name of the stage.
        batch: with or without `Batch.further`.

    Raises:
        ConfigError: the losses of the method compute the features of the image again for each prompt.
    """
    if not batch.further:
        return method.losses(stage, batch)

    with shared_features(method, batch.image) as shared:
        found = [method.losses(stage, each) for each in batch.by_prompt()]
    if shared.features is None or shared.uses < len(found):
        raise ConfigError(_not_shared(method, stage, len(found)))

    means = {}
    for name in found[0]:
        means[name] = torch.stack([losses[name] for losses in found]).mean()
    return means


def refuse_prompts(method: Method, stage: Stage) -> None:
    """Refuse several prompts per image before a training if the method has no image features at all.

    Raises:
        ConfigError: its text takes part from the first layer on.
    """
    has_features = type(method).image_features is not Method.image_features
    if stage.prompts > 1 and stage.optim is not None and not has_features:
        raise ConfigError(_not_shared(method, stage.name, stage.prompts))


def _not_shared(method: Method, stage: str, prompts: int) -> str:
    return (
        f"stage {stage!r} draws {prompts} prompts per image, but the losses of {type(method).__name__} do not use "
        "`image_features`, so that every prompt would cost a whole forward pass. Set stages.*.prompts=1, or use a "
        "method that reads the text after the image, such as compose, guide_decoder, mmi_unet, c2seg or ssa."
    )
