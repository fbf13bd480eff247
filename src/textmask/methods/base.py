"""The base class of all methods, and that of the networks that read the image alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from textmask.errors import ConfigError, DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.types import Output

if TYPE_CHECKING:
    from textmask.nn.teacher import Teacher
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder
    from textmask.types import Batch, Embedding, Image, Logits, Mask, PromptReading, Text

Net = TypeVar("Net", bound=nn.Module)


class Method(nn.Module):
    """A model, its losses, and what it does after a step. The training loop knows nothing else about it.

    Subclasses implement `forward` and `losses`. The mask is never an input of `forward`.

    Attributes:
        text_encoder: encodes the prompts; None if the method reads no text, or only the parsed statement.
        teacher: moving average of the student's weights; None if the method has no teacher.
        reads_words: the prompts themselves decide what is computed, and not only their features and zones. Such a
            method is not a fixed graph and cannot be exported.
    """

    text_encoder: TextEncoder | TextCache | None
    teacher: Teacher | None
    reads_words: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = None
        self.teacher = None

    def forward(self, image: Image, text: Text) -> Output:
        """Predict: image B 3 H W in [0, 1] and its prompts -> logits B 1 H W."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def image_features(self, image: Image) -> tuple[Tensor, ...] | None:
        """Compute everything that depends on the image alone: image B 3 H W in [0, 1] -> maps for `decode`.

        Returns None if the text takes part from the start; then each prompt costs a whole `forward`.
        """
        return None

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """Compute the rest of `forward`: `decode(image_features(x), x, text)` equals `self(x, text)`."""
        out: Output = self(image, text)
        return out

    def reading(self, text: Text) -> list[PromptReading] | None:
        """What was understood of each of the B prompts; None if the method does not parse them itself."""
        return None

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Unweighted loss terms (scalars), named as in the paper; the recipe's `weights` must name the same terms."""
        raise NotImplementedError(f"{type(self).__name__}.losses")

    def embed_image(self, image: Image) -> Embedding:
        """One vector per image, if the method has one: image B 3 H W in [0, 1] -> B D.

        Raises:
            ConfigError: this method has no image embedding.
        """
        raise ConfigError(
            f"{type(self).__name__} has no image embedding. Use a run of a method that implements "
            "`Method.embed_image`, for example one that aligns images with text."
        )

    def prepare(self, prompts: Sequence[str]) -> None:
        """See every distinct training prompt once, before the first stage; encodes them if there is a text encoder."""
        if self.text_encoder is not None:
            self.text_encoder.prepare(prompts)

    def too_long(self, prompts: Sequence[str]) -> int:
        """How many prompts are longer than the text encoder reads; 0 without a text encoder."""
        return 0 if self.text_encoder is None else self.text_encoder.too_long(prompts)

    def observe(self, stage: str, batch: Batch) -> None:
        """See one batch of a stage without gradient training (`Stage.optim is None`)."""
        raise NotImplementedError(f"{type(self).__name__}.observe")

    def monitors(self) -> dict[str, Tensor]:
        """Scalars of the last step that are logged next to the losses (mean over the epoch) but not trained on."""
        return {}

    def after_step(self, stage: str, step: int) -> None:
        """Run after each optimizer step, for example to update a teacher."""

    @property
    def weights_to_use(self) -> tuple[str, ...]:
        """Names of the weights that can predict in eval mode. Training validates each and keeps the best."""
        return () if self.teacher is None else ("student", "teacher")

    def use(self, weights: str) -> None:
        """Predict with these weights from now on. The choice is part of the state dict.

        Args:
            weights: one of `weights_to_use`.

        Raises:
            ConfigError: the method does not have these weights.
        """
        if self.teacher is None or weights not in self.weights_to_use:
            known = ", ".join(self.weights_to_use) or "only one set"
            raise ConfigError(f"{type(self).__name__} has no weights {weights!r}; it has: {known}.")
        self.teacher.choose(weights == "teacher")

    def answering(self, student: Net) -> Net:
        """The network that predicts: the teacher's in eval mode if it was chosen with `use`, otherwise the student."""
        if self.teacher is None or self.training or not self.teacher.is_chosen:
            return student
        return cast(Net, self.teacher.net)


class ImageOnlyMethod(Method):
    """A network that does not read the prompt; it is trained with Dice and cross-entropy.

    Subclasses implement `image_features`, `logits` and, with deep supervision, `supervised`.
    """

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] -> logits B 1 H W; `text` is ignored."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The maps that the heads read, the finest decoded one last: the prompt is not read."""
        raise NotImplementedError(f"{type(self).__name__}.image_features")

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """Run the head; None computes the features first."""
        features = self.image_features(image) if features is None else features
        return Output(self.logits(features, image), {"feature": features[-1]})

    def logits(self, features: tuple[Tensor, ...], image: Image) -> Logits:
        """The head: features and image B 3 H W -> B 1 H W."""
        raise NotImplementedError(f"{type(self).__name__}.logits")

    def supervised(
        self, features: tuple[Tensor, ...], image: Image, mask: Mask
    ) -> list[tuple[float, Logits, Mask]]:
        """What is compared in training: a weight, logits, and the mask of their size, for each head."""
        return [(1.0, self.logits(features, image), mask)]

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch, summed over the heads by their weights.

        Raises:
            DataError: the batch has no masks.
        """
        if batch.mask is None:
            raise DataError(
                "This method trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        features = self.image_features(batch.image)
        heads = self.supervised(features, batch.image, batch.mask)
        return {
            "dice": torch.stack([w * soft_dice(logits, mask) for w, logits, mask in heads]).sum(),
            "bce": torch.stack([w * bce(logits, mask) for w, logits, mask in heads]).sum(),
        }
