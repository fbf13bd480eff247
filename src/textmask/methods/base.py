"""The one base class of all methods, and how methods are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from torch import Tensor, nn

from textmask.errors import ConfigError
from textmask.nn.teacher import Teacher

if TYPE_CHECKING:
    from textmask.types import Batch, Embedding, Image, Output, Text

Net = TypeVar("Net", bound=nn.Module)


class Method(nn.Module):
    """A model, its losses, and what it does after a step. The training loop knows nothing else of it.

    Subclasses implement `forward` and `losses`. The mask is never an input of `forward`.
    """

    def forward(self, image: Image, text: Text) -> Output:
        """Predict: image B 3 H W in [0, 1] and its sentences -> logits B 1 H W."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def image_features(self, image: Image) -> tuple[Tensor, ...] | None:
        """What of a picture can be computed before its sentence is known: image B 3 H W in [0, 1] -> maps for `decode`.

        None: the sentence is mixed in from the start, and every sentence costs a whole `forward`.
        """
        return None

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The rest of `forward`: `decode(image_features(x), x, text)` equals `self(x, text)`."""
        out: Output = self(image, text)
        return out

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Unweighted loss terms (scalars), named as in the paper; the recipe's `weights` must name the same terms."""
        raise NotImplementedError(f"{type(self).__name__}.losses")

    def embed_image(self, image: Image) -> Embedding:
        """One vector a picture, where a method has one: image B 3 H W in [0, 1] -> B D.

        Raises:
            ConfigError: this method publishes none.
        """
        raise ConfigError(
            f"{type(self).__name__} publishes no image vector. Take a run of a method that implements "
            "`Method.embed_image`, such as one that aligns pictures with sentences."
        )

    def prepare(self, prompts: Sequence[str]) -> None:
        """See every distinct training sentence once before the first stage (statistics, cached text features)."""

    def too_long(self, prompts: Sequence[str]) -> int:
        """How many sentences have an end that the method's `text_encoder` does not read; 0 where it has none."""
        count = getattr(getattr(self, "text_encoder", None), "too_long", None)
        return 0 if count is None else int(count(prompts))

    def observe(self, stage: str, batch: Batch) -> None:
        """See one batch of a stage without gradient training (`Stage.optim is None`)."""
        raise NotImplementedError(f"{type(self).__name__}.observe")

    def monitors(self) -> dict[str, Tensor]:
        """Scalars of the last step that are logged beside the losses (mean over the epoch) but not trained on."""
        return {}

    def after_step(self, stage: str, step: int) -> None:
        """Run after each optimiser step; a teacher's moving average lives here."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Weights that can answer in eval mode; training validates each and keeps the better one."""
        return ("student", "teacher") if isinstance(getattr(self, "teacher", None), Teacher) else ()

    def use(self, variant: str) -> None:
        """Let one of `variants` answer from now on; the choice is part of the state dict.

        Raises:
            ConfigError: there is no such variant.
        """
        if variant not in self.variants:
            raise ConfigError(
                f"{type(self).__name__} has no weights {variant!r}; it has: {', '.join(self.variants)}."
            )
        self.get_submodule("teacher").get_buffer("answers").fill_(variant == "teacher")

    def answering(self, student: Net) -> Net:
        """The student; or the network of its teacher where that one was chosen and this is no training."""
        teacher = getattr(self, "teacher", None)
        chosen = isinstance(teacher, Teacher) and not self.training and bool(teacher.answers)
        return cast(Net, teacher.net) if chosen and teacher is not None else student
