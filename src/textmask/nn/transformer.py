"""The pre-norm transformer block that the transformer networks share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.attention import Attention

Places = Float[Tensor, "b *places c"]


class SelfAttention(Attention):
    """Attention of tokens to each other."""

    def forward(self, tokens: Places) -> Places:  # type: ignore[override]
        """B N C -> B N C."""
        return super().forward(tokens, tokens, tokens)


class PreNormBlock(nn.Module):
    """x' = attention(norm(x)) + x, then mlp(norm(x')) + x'.

    Args:
        channels: C.
        attention: from B ... C to the same shape.
        hidden: units of the MLP, which has one hidden layer with GELU.
        dropout: after the attention and after both layers of the MLP.

    Source: TransUNet, Eq. 2 and 3 (that is, ViT); Swin-Unet, Eq. 1 to 4, with windows for attention.
    """

    def __init__(
        self, channels: int, attention: nn.Module, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )

    def forward(self, x: Places) -> Places:
        """B ... C -> B ... C."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
