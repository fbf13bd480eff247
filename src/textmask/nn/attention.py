"""Attention between image tokens and text tokens; padding never changes the output."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.errors import ConfigError
from textmask.types import TokenMask

Tokens = Float[Tensor, "b n c"]
Heads = Float[Tensor, "b heads _n d"]
# scores per head and image up to which CPUs attend without the fused kernel
SMALL = 256**2


def position_codes(
    channels: int, rows: int, columns: int, device: torch.device | None = None
) -> Float[Tensor, "n c"]:
    """Sinusoidal 2-D codes, rows x columns in reading order: half of the channels encode the row, half the column.

    Positions are relative to the size of the map, so that the same place has the same code at every image size.

    Raises:
        ConfigError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ConfigError(f"Position codes need channels in multiples of 4, got {channels}.")
    row = _axis_codes(rows, channels // 4, device)[:, None].expand(rows, columns, -1)
    column = _axis_codes(columns, channels // 4, device)[None].expand(rows, columns, -1)
    return rearrange(torch.cat([row, column], dim=-1), "h w c -> (h w) c")


def _axis_codes(n: int, frequencies: int, device: torch.device | None) -> Float[Tensor, "n _c"]:
    """Sines, then cosines, of `n` places along one axis."""
    exponent = torch.arange(frequencies, device=device) / max(frequencies, 1)
    frequency = 2 * math.pi * 100.0**exponent / 4
    angle = ((torch.arange(n, device=device) + 0.5) / n)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head attention from some tokens to the same or to other tokens.

    Args:
        channels: C of all tokens.
        heads: divides `channels`.

    Raises:
        ConfigError: `heads` does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(
                f"{channels} channels cannot be split over {heads} heads. Choose a divisor."
            )
        self.heads = heads
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.value, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(
        self,
        query: Tokens,
        key: Float[Tensor, "b m c"],
        value: Tensor,
        mask: TokenMask | None = None,
    ) -> Tokens:
        """Query B N C, key and value B M C, mask B M (True = real) -> B N C; 0 if no key is real."""
        parts = (self.query(query), self.key(key), self.value(value))
        q, k, v = (rearrange(x, "b n (k d) -> b k n d", k=self.heads) for x in parts)
        visible = None if mask is None else _visible(mask)[:, None, None]
        found = _attend(q, k, v, visible)

        # rows that have no real key saw a padding token, which must not count
        out: Tensor = self.out(rearrange(found, "b k n d -> b n (k d)"))
        return out if mask is None else out * mask.any(dim=1)[:, None, None]

    def mean_score(
        self, query: Tokens, key: Float[Tensor, "b m c"], mask: TokenMask | None = None
    ) -> Float[Tensor, "b n"]:
        """How much each query agrees with the real keys: scaled products before the softmax, mean over heads and keys.

        After the softmax the weights of a place add up to 1 over the words, so that they are not a map of places.
        """
        keys = self.key(key)
        real = keys.new_ones(keys.shape[:2]) if mask is None else mask.to(keys.dtype)
        mean = (keys * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        width = keys.shape[2] // self.heads
        out: Tensor = (self.query(query) @ mean[..., None])[..., 0] / (self.heads * width**0.5)
        return out


class Interactor(nn.Module):
    """Tokens attend to each other, then to the other modality, then pass an MLP; each with residual and layer norm.

    Source: MMI-UNet (Bui et al., 2024): eight heads, 128 hidden units, no positional code. Differs in that padding is
    masked in both attentions.
    """

    def __init__(
        self, channels: int, heads: int = 8, hidden: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.self_attention = Attention(channels, heads)
        self.cross_attention = Attention(channels, heads)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Tokens,
        others: Float[Tensor, "b m c"],
        mask: TokenMask | None = None,
        others_mask: TokenMask | None = None,
    ) -> Tokens:
        """Tokens B N C attend to `others` B M C; masks B N and B M (True = real, None = all) -> B N C."""
        x = self.norms[0](tokens + self.dropout(self.self_attention(tokens, tokens, tokens, mask)))
        x = self.norms[1](x + self.dropout(self.cross_attention(x, others, others, others_mask)))
        out: Tensor = self.norms[2](x + self.dropout(self.mlp(x)))
        return out

    def mean_score(
        self,
        tokens: Tokens,
        others: Float[Tensor, "b m c"],
        others_mask: TokenMask | None = None,
    ) -> Float[Tensor, "b n"]:
        """The score of each token for the others, as the cross-attention sees them; see `Attention.mean_score`."""
        x = self.norms[0](tokens + self.self_attention(tokens, tokens, tokens, None))
        return self.cross_attention.mean_score(x, others, others_mask)


def _attend(q: Heads, k: Heads, v: Heads, seen: Tensor | None) -> Heads:
    """Softmax of scaled products; written out if the table of scores is small.

    For a small table torch's fused CPU kernel takes 3 to 10 times as long, forward and backward. For large maps it is
    faster and needs less memory.
    """
    if q.device.type != "cpu" or q.shape[2] * k.shape[2] > SMALL:
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    out: Tensor = scores.softmax(dim=3) @ v
    return out


def stretched(scores: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Each map stretched to [0, 1] in fp32; 1 everywhere if all places are equal."""
    scores = scores.float()
    low, high = scores.amin(dim=(1, 2, 3), keepdim=True), scores.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(
        high - low > 1e-6 * high.abs().clamp(min=1e-12),
        (scores - low) / (high - low).clamp(min=1e-12),
        1.0,
    )


def _visible(mask: TokenMask) -> TokenMask:
    """The mask with the first token of an empty row visible: a softmax over nothing is NaN, also backwards."""
    return torch.cat([mask[:, :1] | ~mask.any(dim=1, keepdim=True), mask[:, 1:]], dim=1)
