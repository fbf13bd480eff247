"""Cross-attention from a decoder feature to the words of a prompt, as residual logits at full size."""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.attention import Attention, position_codes
from textmask.types import TextFeatures


class SentenceHead(nn.Module):
    """Cross-attention from the decoder feature to the tokens of the whole prompt -> residual logits, first 0.

    Args:
        channels: C of the feature.
        stride: of the feature.
        text_width: of the tokens.
        width: of the attention, divisible by `heads` and by 4.
        heads: of the attention.
    """

    def __init__(self, channels: int, stride: int, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.stride = stride
        self.pixels = nn.Conv2d(channels, width, 1)
        self.tokens = nn.Linear(text_width, width)
        self.attention = Attention(width, heads)
        self.mix = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.ReLU())
        self.out = nn.Conv2d(width, stride**2, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(
        self, feature: Float[Tensor, "b _c _h _w"], text: TextFeatures, size: tuple[int, int]
    ) -> Float[Tensor, "b 1 rows columns"]:
        """Feature B C h w and the tokens of the prompts -> B 1 H W, H and W being `size`."""
        rows, columns = feature.shape[-2:]
        x = self.pixels(feature)
        places = position_codes(x.shape[1], rows, columns, x.device).to(x.dtype)
        query = rearrange(x, "b c h w -> b (h w) c") + places
        tokens = self.tokens(text.text_tokens)
        found = self.attention(query, tokens, tokens, text.token_mask)
        found = rearrange(found, "b (h w) c -> b c h w", h=rows, w=columns)
        residual = self.out(self.mix(torch.cat([x, found], 1)))
        shuffled = nn.functional.pixel_shuffle(residual, self.stride)
        return shuffled[..., : size[0], : size[1]].float()
