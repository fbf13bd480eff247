"""LViT: a U-Net and, between its encoder and its skips, a U of transformers that reads the text (Li et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.attention import Attention, position_codes
from textmask.nn.batch_norm import BatchNorm2d
from textmask.nn.decoders import SubPixelHead, UNetDecoder
from textmask.nn.guide_decoder import fixed_length
from textmask.nn.image_encoders import UNetEncoder, convolved, padded_to, standardise
from textmask.nn.referring import Feature
from textmask.types import Image, Logits, TextFeatures


class PLAM(nn.Module):
    """Pixel-level attention: each pixel times a number that a small MLP reads from its channels.

    The MLP reads the mean over the channels of one 1x1 convolution, the maximum over those of another, and their sum.

    Source: LViT, Figure 2 and released code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(channels, channels, 1, bias=False)
        self.largest = nn.Conv2d(channels, channels, 1, bias=False)
        self.mlp = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))

    def forward(self, x: Feature) -> Feature:
        """B C H W -> B C H W."""
        mean = torch.relu(self.mean(x)).mean(dim=1, keepdim=True)
        largest = torch.relu(self.largest(x)).amax(dim=1, keepdim=True)
        out: Tensor = x * self.mlp(torch.cat([mean, largest, mean + largest], dim=1))
        return out


class PlaceTransformer(nn.Module):
    """One transformer block over the places of a map: norm, attention, norm, MLP of four times the width."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = Attention(channels, heads)
        self.mlp = nn.Sequential(
            *(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(4 * channels, channels), nn.GELU(), nn.Dropout(dropout)),
        )

    def forward(self, x: Feature) -> Feature:
        """B C h w -> B C h w."""
        tokens = rearrange(x, "b c h w -> b (h w) c")
        y = self.norms[0](tokens)
        tokens = tokens + self.attention(y, y, y)
        tokens = tokens + self.mlp(self.norms[1](tokens))
        out: Tensor = rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])
        return out


class TextMap(nn.Module):
    """Text tokens -> a map that is added to the first patch embedding (CTBN of the text).

    Args:
        text_width: D of the text tokens.
        widths: channels of the transformers, fine to coarse; the text is narrowed from the last to the first.
        max_tokens: positions that are read; longer prompts are cut with a warning.
        grid: rows and columns of the learned map, which is resized to the grid of patches.
    """

    def __init__(self, text_width: int, widths: Sequence[int], max_tokens: int, grid: int) -> None:
        super().__init__()
        self.max_tokens, self.grid = max_tokens, grid
        narrow = [text_width, *reversed(widths)]
        self.narrow = nn.ModuleList(nn.Conv1d(a, b, 3, padding=1) for a, b in pairwise(narrow))
        self.to_places = nn.Conv1d(max_tokens, grid**2, 3, padding=1)
        self.norm = BatchNorm2d(grid**2)

    def forward(self, text: TextFeatures, rows: int, columns: int) -> Feature:
        """Text -> B C_1 rows columns."""
        real = text.token_mask[:, None]
        x = text.text_tokens.transpose(1, 2)
        for layer in self.narrow:
            x = layer(x * real)

        tokens = fixed_length(x.transpose(1, 2), text.token_mask, self.max_tokens)
        places = torch.relu(self.norm(self.to_places(tokens)[..., None]))
        grid = rearrange(places, "b (h w) c 1 -> b c h w", h=self.grid)
        return nn.functional.interpolate(grid, (rows, columns), mode="bilinear")


class LViTNet(nn.Module):
    """Double U: the maps of a U-Net's encoder pass a U of transformers and come back to its skips.

    Args:
        widths: channels of the U-Net, fine to coarse; all but the last have a transformer on the way down and up.
        stem_stride: stride of the finest map.
        text_width: D of the text tokens.
        heads: of the attention.
        max_tokens, grid: see `TextMap`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        stem_stride: int,
        text_width: int,
        heads: int,
        max_tokens: int,
        grid: int,
    ) -> None:
        super().__init__()
        own = widths[:-1]
        self.encoder = UNetEncoder(widths, stem_stride)
        self.text = TextMap(text_width, own, max_tokens, grid)

        # patches of all maps are as large in the image: one place at the U-Net's deepest scale
        self.patch = nn.ModuleList(
            nn.Conv2d(c, c, 2 ** (len(own) - i), 2 ** (len(own) - i)) for i, c in enumerate(own)
        )
        self.down = nn.ModuleList(PlaceTransformer(c, heads) for c in own)
        self.up = nn.ModuleList(PlaceTransformer(c, heads) for c in own)
        pairs = list(pairwise(own))
        self.join_down = nn.ModuleList(convolved(b, b - a, 3) for a, b in pairs)
        self.join_up = nn.ModuleList(convolved(b, a, 3) for a, b in pairs)
        self.back = nn.ModuleList(convolved(c, c, 1) for c in own)

        self.attention = nn.ModuleList(PLAM(c) for c in own)
        self.decoder = UNetDecoder(widths, narrow=True)
        self.head = SubPixelHead(widths[0], stem_stride)

    def encode(self, image: Image) -> tuple[Tensor, ...]:
        """The maps of the U-Net's encoder: image B 3 H W in [0, 1] -> fine to coarse."""
        whole = padded_to(image, self.encoder.info.strides[-1])
        return tuple(self.encoder(standardise(whole)))

    def forward(
        self, image: Image, text: TextFeatures, maps: tuple[Tensor, ...] | None = None
    ) -> tuple[Logits, Float[Tensor, "b _c _h _w"]]:
        """Image and text (and the maps of `encode`) -> logits B 1 H W and the last decoded feature."""
        *skips, deepest = self.encode(image) if maps is None else maps
        rows, columns = deepest.shape[2:]

        # down: the first transformer reads the text, each next one also what the one before it found
        found: list[Tensor] = []
        for i, (skip, patch, block) in enumerate(zip(skips, self.patch, self.down, strict=True)):
            x = patch(skip)
            codes = position_codes(x.shape[1], rows, columns, x.device).to(x.dtype)
            x = x + rearrange(codes, "(h w) c -> c h w", h=rows)
            if i == 0:
                found.append(block(x + self.text(text, rows, columns)))
            else:
                found.append(torch.cat([self.join_down[i - 1](block(x)), found[-1]], dim=1))

        # up: from the coarsest to the finest, and back into the skips of the U-Net
        above: Tensor | None = None
        for i in reversed(range(len(skips))):
            x = self.up[i](found[i])
            above = x if above is None else x + self.join_up[i](above)
            grown = nn.functional.interpolate(self.back[i](above), skips[i].shape[2:])
            skips[i] = self.attention[i](skips[i] + grown)

        feature = self.decoder([*skips, deepest])
        whole = standardise(padded_to(image, self.encoder.info.strides[-1]))
        logits = self.head(feature, whole)[..., : image.shape[2], : image.shape[3]]
        return logits, feature
