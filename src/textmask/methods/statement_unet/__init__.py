"""`statement_unet`: reads only the parsed statement of the prompt; the baseline that a language model must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from textmask.config import Recipe, Stage
from textmask.methods.presets import BASELINE_STAGE
from textmask.methods.registry import Card, MethodSpec
from textmask.nn.fields import LITE_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="U-Net with the parsed zones as input, no language model",
    limits="Uses only those zones of a prompt that the grammar finds.",
)


class StatementUNetRecipe(Recipe):
    """Fields of `statement_unet`.

    Attributes:
        widths, stem_stride, norm: as in `unet`.
        statement_width: hidden width of the small MLP over the nine zone bits.
        map_channels, map_size: learned low-resolution map concatenated to the stem's features; 0 channels: no map.
        film: whether the statement also scales and shifts every block.
    """

    method: str = "statement_unet"
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    stem_stride: int = 1
    norm: NormName = "batch"
    statement_width: int = 64
    map_channels: int = 8
    map_size: int = 7
    film: bool = True
    stages: tuple[Stage, ...] = (BASELINE_STAGE,)

    def lite(self) -> Self:
        """2.1 M parameters at stride 4: QaTa in under half an hour on two cores."""
        stages = (self.stages[0].lite(epochs=14),)
        return self.model_copy(update={"widths": LITE_WIDTHS, "stem_stride": 4, "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return (
            super()
            .smoke()
            .model_copy(update={"widths": (8, 12), "stem_stride": 2, "statement_width": 8})
        )


def build_statement_unet(recipe: StatementUNetRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.statement_unet.method import StatementUNet

    return StatementUNet(recipe)


SPEC = MethodSpec("statement_unet", CARD, StatementUNetRecipe, build_statement_unet)
