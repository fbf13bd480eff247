"""Zone bits -> small MLP -> FiLM at every block, and a learned low-resolution map next to the stem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor, nn

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.decoders import UNet
from textmask.nn.image_encoders import standardise
from textmask.statement import ZONES
from textmask.types import Batch, Image, Output, Text

if TYPE_CHECKING:
    from textmask.methods.statement_unet import StatementUNetRecipe


class StatementUNet(Method):
    """A U-Net conditioned on the nine zone bits of the parsed prompt."""

    def __init__(self, recipe: StatementUNetRecipe) -> None:
        super().__init__()
        self.unet = UNet(
            recipe.widths, recipe.stem_stride, stem_extra=recipe.map_channels, norm=recipe.norm
        )

        width = recipe.statement_width
        self.statement = nn.Sequential(
            nn.Linear(len(ZONES), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.map_size = recipe.map_size
        self.map: nn.Linear | None = None
        if recipe.map_channels:
            self.map = nn.Linear(width, recipe.map_channels * recipe.map_size**2)

        # zero weights: training starts from the unconditioned network
        widths = self.unet.film_widths if recipe.film else ()
        self.films = nn.ModuleList(nn.Linear(width, 2 * channels) for channels in widths)
        for parameter in self.films.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W and the zones of its prompt -> logits B 1 H W."""
        hidden = self.statement(text.zones * 2 - 1)
        films = [film(hidden) for film in self.films] or None
        grid, aux = None, {}
        if self.map is not None:
            n = self.map_size
            aux["map"] = grid = rearrange(self.map(hidden), "b (c h w) -> b c h w", h=n, w=n)

        logits, aux["feature"] = self.unet(standardise(image), films, grid)
        return Output(logits, aux)

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch."""
        if batch.mask is None:
            raise DataError(
                "statement_unet trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        logits = self(batch.image, batch.text).logits
        return {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}
