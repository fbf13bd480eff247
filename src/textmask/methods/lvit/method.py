"""LViT: the double U, and with few labels pseudo-labels of an average model and the language-vision loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from textmask.errors import DataError
from textmask.losses.contrastive import cosine_similarity_matrix
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.lvit import LViTNet
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.teacher import Teacher
from textmask.processes import gathered
from textmask.types import Batch, Image, Mask, Output, Text, TextFeatures

if TYPE_CHECKING:
    from textmask.methods.lvit import LViTRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


def pseudo_label(before: Mask, now: Mask, beta: float) -> Mask:
    """P_t = beta P_{t-1} + (1 - beta) P_t, both probabilities (LViT, exponential pseudo-label iteration)."""
    return beta * before + (1 - beta) * now


def language_vision(
    probability: Float[Tensor, "n 1 h w"],
    own_text: Float[Tensor, "n d"],
    masks: Float[Tensor, "m 1 h w"],
    their_text: Float[Tensor, "m d"],
) -> Float[Tensor, ""]:
    """1 - cos(prediction, mask of the labelled image whose prompt is most similar); LViT's L_LV.

    Args:
        probability: N 1 H W of unlabelled images.
        own_text: N D of their prompts.
        masks: M 1 H W of labelled images.
        their_text: M D of theirs.
    """
    nearest = cosine_similarity_matrix(own_text, their_text).argmax(dim=1)
    a, b = probability.float().flatten(1), masks[nearest].float().flatten(1)
    return (1 - torch.nn.functional.cosine_similarity(a, b, dim=1)).mean()


class LViT(Method):
    """U-Net and transformers; the teacher exists if a stage has unlabelled images, and `net` is its student."""

    text_encoder: TextEncoder | TextCache

    def __init__(self, recipe: LViTRecipe) -> None:
        super().__init__()
        self.beta = recipe.ema.end
        self.text_encoder = build_text_encoder(recipe.text_encoder)
        self.net = LViTNet(
            recipe.widths,
            recipe.stem_stride,
            self.text_encoder.width,
            recipe.heads,
            recipe.max_tokens,
            recipe.text_grid,
        )
        if any(stage.unlabelled_batch_size for stage in recipe.stages):
            self.teacher = Teacher(self.net, recipe.ema)

    def after_step(self, stage: str, step: int) -> None:
        """Update the average."""
        if self.teacher is not None:
            self.teacher.follow(self.net)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W, of the weights that were chosen."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The maps of the U-Net's encoder."""
        return self.answering(self.net).encode(image)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the text -> logits; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        logits, feature = self.answering(self.net)(image, self.text_encoder(text), maps)
        return Output(logits, {"feature": feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on labelled images; `pseudo` and `lv` on unlabelled ones, 0 without any."""
        if batch.mask is None:
            raise DataError(
                "lvit needs labelled images; this batch has no masks. Add masks to the manifest."
            )
        unlabelled, teacher = batch.unlabelled, self.teacher
        if unlabelled is None or teacher is None:
            logits, _ = self.net(batch.image, self.text_encoder(batch.text))
            none = logits.sum() * 0
            losses = {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}
            return {**losses, "pseudo": none, "lv": none}

        # one pass over both streams
        n = len(batch)
        text = self.text_encoder(Text.joined(batch.text, unlabelled.text))
        image = torch.cat([batch.image, unlabelled.image.to(batch.image.dtype)])
        logits, _ = self.net(image, text)
        own, other = logits[:n], logits[n:]
        probability = torch.sigmoid(other.float())

        with torch.no_grad():
            theirs = TextFeatures(
                text.text_tokens[n:], text.text_embedding[n:], text.token_mask[n:]
            )
            before, _ = teacher(unlabelled.image, theirs)
            target = pseudo_label(torch.sigmoid(before.float()), probability, self.beta)

        # compared with the labelled images of all processes
        masks, texts = gathered(batch.mask), gathered(text.text_embedding[:n])
        return {
            "dice": soft_dice(own, batch.mask),
            "bce": bce(own, batch.mask),
            "pseudo": 0.5 * soft_dice(other, target) + 0.5 * bce(other, target),
            "lv": language_vision(probability, theirs.text_embedding, masks, texts),
        }
