"""Mean training mask per statement: a table of 2^9 zone combinations, filled by counting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textmask.errors import DataError
from textmask.methods.base import Method
from textmask.statement import ZONES
from textmask.types import Batch, Image, Output, Text, ZoneBits


class TextPrior(Method):
    """Predicts the mean training mask of the zones that the prompt names, whatever the image shows."""

    sums: Tensor
    counts: Tensor

    def __init__(self, grid: tuple[int, int], cut: float, min_count: int) -> None:
        super().__init__()
        self.cut, self.min_count = cut, min_count
        self.register_buffer("sums", torch.zeros(2 ** len(ZONES), *grid))
        self.register_buffer("counts", torch.zeros(2 ** len(ZONES)))

    @staticmethod
    def code(zones: ZoneBits) -> Tensor:
        """B 9 zone bits -> B row numbers of the table."""
        powers = 2 ** torch.arange(zones.shape[1], device=zones.device)
        return (zones.round().long() * powers).sum(1)

    def observe(self, stage: str, batch: Batch) -> None:
        """Add a labelled batch to the table."""
        if batch.mask is None:
            raise DataError(
                "text_prior averages masks; this batch has none. Add masks to the manifest."
            )
        small = nn.functional.interpolate(batch.mask.float(), self.sums.shape[-2:], mode="area")[
            :, 0
        ]
        rows = self.code(batch.text.zones)
        self.sums.index_add_(0, rows, small)
        self.counts.index_add_(0, rows, torch.ones(len(rows), device=rows.device))

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Nothing is trained by gradient."""
        return {}

    def forward(self, image: Image, text: Text) -> Output:
        """Only the size of `image` is used. The logit is 0 at places where the mean mask equals `cut`."""
        rows = self.code(text.zones)
        overall = self.sums.sum(0) / self.counts.sum().clamp(min=1)

        # rare statements use the mean of all masks
        known = (self.counts[rows] >= self.min_count)[:, None, None]
        mean = torch.where(
            known, self.sums[rows] / self.counts[rows].clamp(min=1)[:, None, None], overall
        )

        full = nn.functional.interpolate(
            mean[:, None], image.shape[-2:], mode="bilinear", align_corners=False
        )
        offset = torch.logit(torch.tensor(self.cut))
        return Output(torch.logit(full, eps=1e-4) - offset, {"prior": mean})
