"""Mean Teacher: the student agrees with the average of its past weights under other views of unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.backbones import build_backbone
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.teacher import Teacher
from textmask.types import Batch, Image, Output, Text

if TYPE_CHECKING:
    from textmask.methods.mean_teacher import MeanTeacherRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class MeanTeacher(Method):
    """Teacher and student over GuideDecoder or MMI-UNet; `net` is the student."""

    text_encoder: TextEncoder | TextCache
    teacher: Teacher

    def __init__(self, recipe: MeanTeacherRecipe) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(recipe.text_encoder)
        self.net = build_backbone(recipe.backbone, self.text_encoder.width)
        self.teacher = Teacher(self.net, recipe.ema)

    def after_step(self, stage: str, step: int) -> None:
        """Update the teacher, from the first step of the burn-in."""
        self.teacher.follow(self.net)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W, of the student or of the teacher, as chosen."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that the backbone computes from the image alone."""
        return self.answering(self.net).encode(image)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> logits; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        found = self.answering(self.net).decode(maps, image, self.text_encoder(text))
        return Output(found.logits, {"feature": found.feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on labelled images; stage `semi` also `cons`, the squared distance of probabilities."""
        if batch.mask is None:
            raise DataError(
                "mean_teacher needs labelled images next to the unlabelled ones; this batch has no masks. "
                "Add masks to the manifest."
            )

        # one pass over both streams
        image, text, unlabelled = batch.image, batch.text, batch.unlabelled
        if unlabelled is not None:
            image = torch.cat(
                [image, unlabelled.views.get("strong_blur", unlabelled.image).to(image.dtype)]
            )
            text = Text.joined(text, unlabelled.text)

        logits = self.net(image, self.text_encoder(text)).logits
        own, other = logits[: len(batch)], logits[len(batch) :]
        losses = {"dice": soft_dice(own, batch.mask), "bce": bce(own, batch.mask)}
        if stage == "burn_in":
            return losses
        if unlabelled is None:  # every image is labelled
            losses["cons"] = losses["bce"] * 0
            return losses

        # squared distance of probabilities under two views of the same image
        with torch.no_grad():
            found = self.teacher(unlabelled.image, self.text_encoder(unlabelled.text))
            target = torch.sigmoid(found.logits.float())
        losses["cons"] = (torch.sigmoid(other.float()) - target).square().mean()
        return losses
