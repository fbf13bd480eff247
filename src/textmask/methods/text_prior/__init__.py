"""`text_prior`: the text-only baseline; how far the sentence alone goes without looking at the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import Recipe, Stage
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="mean training mask of the same statement, no image",
    uses_image=False,
    limits="Sees no picture. Statements never met in training get the mean mask of all.",
)


class TextPriorRecipe(Recipe):
    """Fields of `text_prior`.

    Attributes:
        grid: rows and columns at which masks are averaged.
        cut: mean-mask value that is drawn as the outline; 0.30 is the best pooled cut on QaTa's training captions.
        min_count: a statement met less often than this uses the mean of all masks.
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
