"""`text_prior`: the text-only baseline; what the prompt alone predicts without the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import Recipe, Stage
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="mean training mask of the same statement, no image",
    uses_image=False,
    limits="Does not read the image. Statements that are not in the training data get the mean of all masks.",
)


class TextPriorRecipe(Recipe):
    """Fields of `text_prior`.

    Attributes:
        grid: rows and columns at which masks are averaged.
        cut: mean-mask value at the outline; 0.30 gives the best pooled Dice on QaTa's training captions.
        min_count: statements that are rarer than this in the training data use the mean of all masks.
    """

    method: str = "text_prior"
    grid: tuple[int, int] = (56, 56)
    cut: float = 0.30
    min_count: int = 3
    stages: tuple[Stage, ...] = (Stage(name="average", optim=None, augment=None),)

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"grid": (8, 8), "min_count": 1})


def build_text_prior(recipe: TextPriorRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.text_prior.method import TextPrior

    return TextPrior(recipe.grid, recipe.cut, recipe.min_count)


SPEC = MethodSpec("text_prior", CARD, TextPriorRecipe, build_text_prior)
