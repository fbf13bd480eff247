"""Cross-attention of image features to text tokens; padding never changes the output."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.errors import ConfigError
from textmask.types import TextTokens, TokenMask

Feature = Float[Tensor, "b c h w"]


def position_codes(channels: int, rows: int, columns: int, device: torch.device | None = None) -> Float[Tensor, "n c"]:
    """Sinusoidal 2-D codes, rows x columns in reading order: half of the channels tell the row, half the column.

    Positions are relative to the size of the map, so that another picture size gives the same code to the same place.

    Raises:
        ConfigError: `channels` is no multiple of 4.
    """
    if channels % 4:
        raise ConfigError(f"position codes need channels in multiples of 4, got {channels}.")
    quarter = channels // 4
    frequency = 2 * math.pi * 100.0 ** (torch.arange(quarter, device=device) / max(quarter, 1)) / 4

    def code(n: int) -> Tensor:
        angle = ((torch.arange(n, device=device) + 0.5) / n)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    row = code(rows)[:, None].expand(rows, columns, -1)
    column = code(columns)[None].expand(rows, columns, -1)
    return rearrange(torch.cat([row, column], dim=-1), "h w c -> (h w) c")


class CrossAttention(nn.Module):
    """Image tokens ask, text tokens answer: feature + gate * Attention(LN(feature), LN(text)).

    Args:
        channels: C of the feature map.
        text_width: D of the text tokens.
        heads: attention heads; divides `channels`.
        gate: initial value of the learned factor on the answer; 0 starts as the identity.
        positions: add 2-D position codes to the query, so that "lower left" can be looked up by place.

    Raises:
        ConfigError: `heads` does not divide `channels`.
    """

    def __init__(
        self, channels: int, text_width: int, heads: int = 4, gate: float = 1.0, positions: bool = True
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(f"{channels} channels cannot be split over {heads} heads.")
        if positions and channels % 4:
            raise ConfigError(f"position codes need channels in multiples of 4, got {channels}.")
        self.heads, self.positions = heads, positions
        self.norm_image = nn.LayerNorm(channels)
        self.norm_text = nn.LayerNorm(text_width)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(text_width, channels)
        self.value = nn.Linear(text_width, channels)
        self.out = nn.Linear(channels, channels)
        self.gate = nn.Parameter(torch.tensor(float(gate)))

    def forward(self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask) -> Feature:
        """Feature B C H W, text_tokens B L D, token_mask B L (True = real) -> B C H W.

        A sentence without any real token leaves the feature as it is.
        """
        query, key, value = self._projected(feature, text_tokens)
        answer = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=_visible(token_mask)[:, None, None]
        )
        return self._added(feature, answer, token_mask)

    def with_map(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> tuple[Feature, Float[Tensor, "b l h w"]]:
        """As `forward`, and the attention of each place to each token, mean over heads, B L H W (0 on padding)."""
        query, key, value = self._projected(feature, text_tokens)
        scores = (query.float() @ key.float().mT) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~_visible(token_mask)[:, None, None], -torch.inf)
        attention = scores.softmax(dim=-1)
        answer = attention.to(value.dtype) @ value
        maps = attention.mean(dim=1) * token_mask[:, None]
        maps = rearrange(maps, "b (h w) l -> b l h w", h=feature.shape[-2])
        return self._added(feature, answer, token_mask), maps

    def _projected(self, feature: Feature, text_tokens: TextTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Query B heads N C/heads; key and value B heads L C/heads."""
        rows, columns = feature.shape[-2:]
        image_tokens = self.norm_image(rearrange(feature, "b c h w -> b (h w) c"))
        if self.positions:
            codes = position_codes(feature.shape[1], rows, columns, feature.device)
            image_tokens = image_tokens + codes.to(image_tokens.dtype)
        text = self.norm_text(text_tokens)
        parts = (self.query(image_tokens), self.key(text), self.value(text))
        query, key, value = (rearrange(x, "b n (k d) -> b k n d", k=self.heads) for x in parts)
        return query, key, value

    def _added(self, feature: Feature, answer: Tensor, token_mask: TokenMask) -> Feature:
        """Project the answer and add it to the feature, except where the sentence has no token."""
        answer = self.out(rearrange(answer, "b k n d -> b n (k d)")) * self.gate
        answer = answer * token_mask.any(dim=1)[:, None, None]
        h = feature.shape[-2]
        return feature + rearrange(answer, "b (h w) c -> b c h w", h=h).to(feature.dtype)


def _visible(token_mask: TokenMask) -> TokenMask:
    """The mask with the first token of an empty sentence opened: a softmax over nothing is NaN, backwards as well."""
    visible = token_mask.clone()
    visible[:, 0] |= ~token_mask.any(dim=1)
    return visible
