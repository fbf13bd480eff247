"""Swin-Unet: attention in shifted windows (Eq. 1-5), patch merging and patch expanding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.transformer import PreNormBlock
from textmask.types import Image

Grid = Float[Tensor, "b h w c"]


class WindowAttention(nn.Module):
    """Attention within windows of `window` x `window` places: softmax(Q K^T / sqrt(d) + B) V  (Eq. 5).

    B is a learned number per head and offset between two places. With `shift` the windows are moved by so many places;
    those that then join opposite borders of the map do not attend across. A map of one window is not shifted.

    Args:
        channels: C.
        heads: divides `channels`.
        window: rows and columns of a window; smaller maps are padded, and padding is not attended to.
        shift: 0, or half a window in every second block.
    """

    places: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)

        # the row of `bias` for each pair of places, in reading order
        at = torch.arange(window)
        rows, columns = at.repeat_interleave(window), at.repeat(window)
        down = rows[:, None] - rows[None] + window - 1
        right = columns[:, None] - columns[None] + window - 1
        self.register_buffer("places", down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Grid) -> Grid:
        """B H W C -> B H W C."""
        rows, columns, window = int(x.shape[1]), int(x.shape[2]), self.window
        shift = self.shift if max(rows, columns) > window else 0
        padded = nn.functional.pad(x, (0, 0, 0, -columns % window, 0, -rows % window))
        size = (int(padded.shape[1]), int(padded.shape[2]))
        moved = torch.roll(padded, (-shift, -shift), (1, 2))

        parts = rearrange(
            self.qkv(moved),
            "b (r i) (s j) (three k d) -> three b (r s) k (i j) d",
            three=3,
            k=self.heads,
            i=window,
            j=window,
        )
        q, k, v = parts.unbind(0)
        bias = rearrange(self.bias[self.places], "n m k -> k n m")
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias
        if shift or size != (rows, columns):
            scores = scores.masked_fill(~self._joined(rows, columns, size, shift, x), -torch.inf)

        found = rearrange(
            scores.softmax(dim=-1).to(v.dtype) @ v,
            "b (r s) k (i j) d -> b (r i) (s j) (k d)",
            r=size[0] // window,
            i=window,
        )
        out: Tensor = self.out(torch.roll(found, (shift, shift), (1, 2))[:, :rows, :columns])
        return out

    def _joined(
        self, rows: int, columns: int, size: tuple[int, int], shift: int, x: Tensor
    ) -> Tensor:
        """Which places of a window may attend to each other: windows 1 n n, True if no border is between the two."""
        row = torch.arange(size[0], device=x.device)[:, None]
        column = torch.arange(size[1], device=x.device)[None]
        # places that the shift carries to the opposite border are of another region, and so is the padding
        region = 2 * (row < shift).long() + (column < shift).long()
        region = torch.where((row < rows) & (column < columns), region, -1)
        region = torch.roll(region, (-shift, -shift), (0, 1))
        region = rearrange(region, "(r i) (s j) -> (r s) 1 (i j)", i=self.window, j=self.window)
        return region[..., :, None] == region[..., None, :]


class PatchMerging(nn.Module):
    """Four neighboring places become one, with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Grid) -> Float[Tensor, "b _h _w _c"]:
        """B H W C, H and W even -> B H/2 W/2 2C."""
        out: Tensor = self.reduce(
            self.norm(rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=2, q=2))
        )
        return out


class PatchExpanding(nn.Module):
    """One place becomes `factor` x `factor` places; twice as many with half the channels, or four with the same."""

    def __init__(self, channels: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.out_channels = channels // 2 if factor == 2 else channels
        self.expand = nn.Linear(channels, factor**2 * self.out_channels, bias=False)
        self.norm = nn.LayerNorm(self.out_channels)

    def forward(self, x: Grid) -> Float[Tensor, "b _h _w _c"]:
        """B H W C -> B fH fW C'."""
        x = rearrange(
            self.expand(x), "b h w (p q c) -> b (h p) (w q) c", p=self.factor, q=self.factor
        )
        out: Tensor = self.norm(x)
        return out


def swin_blocks(channels: int, heads: int, window: int, depth: int) -> nn.Sequential:
    """Blocks whose windows are shifted in every second one (Eq. 1-4)."""
    shifts = [window // 2 if i % 2 else 0 for i in range(depth)]
    return nn.Sequential(
        *(
            PreNormBlock(channels, WindowAttention(channels, heads, window, shift), 4 * channels)
            for shift in shifts
        )
    )


class SwinUNetBody(nn.Module):
    """Patches of 4 x 4 pixels, an encoder of window attention with merging, a mirrored decoder with expanding.

    Args:
        width: channels of the finest map, doubled per scale.
        depths: blocks per scale, fine to coarse; of the encoder and, but for the coarsest, of the decoder.
        heads: per scale, fine to coarse.
        window: rows and columns of a window.
    """

    def __init__(
        self, width: int, depths: Sequence[int], heads: Sequence[int], window: int
    ) -> None:
        super().__init__()
        self.multiple = 4 * 2 ** (len(depths) - 1)
        widths = [width * 2**level for level in range(len(depths))]
        self.embed, self.embed_norm = nn.Conv2d(3, width, 4, stride=4), nn.LayerNorm(width)
        self.encoder = nn.ModuleList(
            swin_blocks(c, k, window, depth)
            for c, k, depth in zip(widths, heads, depths, strict=True)
        )
        self.merge = nn.ModuleList(PatchMerging(c) for c in widths[:-1])
        self.encoder_norm = nn.LayerNorm(widths[-1])

        # from the coarsest scale to the finest
        self.expand = nn.ModuleList(PatchExpanding(c) for c in widths[:0:-1])
        self.join = nn.ModuleList(nn.Linear(2 * c, c) for c in widths[-2::-1])
        self.decoder = nn.ModuleList(
            swin_blocks(c, k, window, depth)
            for c, k, depth in zip(widths[-2::-1], heads[-2::-1], depths[-2::-1], strict=True)
        )
        self.decoder_norm = nn.LayerNorm(width)

    def forward(self, image: Image) -> Float[Tensor, "b _c _h _w"]:
        """Image B 3 H W, sides in multiples of `multiple` -> B C H/4 W/4."""
        x = self.embed_norm(rearrange(self.embed(image), "b c h w -> b h w c"))
        skips = []
        for level, blocks in enumerate(self.encoder):
            x = blocks(x)
            if level < len(self.merge):
                skips.append(x)
                x = self.merge[level](x)

        x = self.encoder_norm(x)
        steps = zip(self.expand, self.join, self.decoder, skips[::-1], strict=True)
        for expand, join, blocks, skip in steps:
            x = blocks(join(torch.cat([expand(x), skip], dim=-1)))
        out: Tensor = rearrange(self.decoder_norm(x), "b h w c -> b c h w")
        return out
