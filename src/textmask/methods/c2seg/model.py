"""The fusion of C2Seg: bidirectional complementary attention (Eq. 4-6) and the KAN gate (Eq. 7)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.errors import ConfigError
from textmask.nn.ukan import Map
from textmask.types import TextTokens, TokenMask

Feature = Float[Tensor, "b c h w"]
Places = Float[Tensor, "b p c"]


class Streams(NamedTuple):
    """Result of the attention: F_v and F_l, B P C, and the weight of each place in the language path, B P."""

    vision: Places
    language: Places
    place_weight: Float[Tensor, "b p"]


class ImageHead(nn.Linear):
    """W_v, and the temperature of the contrast if it is learned, as in CLIP: the factor 1 / tau is at most 100.

    Args:
        in_features: channels of V_4.
        out_features: d_t.
        tau: temperature at the start; None is no learned temperature.
    """

    def __init__(self, in_features: int, out_features: int, tau: float | None = None) -> None:
        super().__init__(in_features, out_features)
        self.log_factor = None if tau is None else nn.Parameter(torch.tensor(-math.log(tau)))

    @property
    def tau(self) -> Tensor:
        """The learned temperature.

        Raises:
            ConfigError: there is none.
        """
        if self.log_factor is None:
            raise ConfigError("This image head has no learned temperature. Set contrast=clip.")
        return torch.exp(-self.log_factor.clamp(max=math.log(100)))


class MLP(nn.Sequential):
    """Two linear layers with a ReLU between: what replaces a KAN layer of K-Gate in Table 4(a), "K-Gate (MLP)"."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(
            nn.Linear(in_features, out_features), nn.ReLU(), nn.Linear(out_features, out_features)
        )


class Normed(nn.Sequential):
    """A layer norm and a map: the counterpart of a KAN layer that has a norm in front."""

    def __init__(self, make_map: Map, in_features: int, out_features: int) -> None:
        super().__init__(nn.LayerNorm(in_features), make_map(in_features, out_features))


class BCAM(nn.Module):
    """Bidirectional complementary attention (Eq. 4-6); padding is masked.

    Args:
        channels: C of both modalities at this scale.
        make_map: builds the four maps to keys and values, KAN or linear.
        scale: Eq. 6 spreads a softmax over P places, so its entries are about V_value / P; `P` multiplies by P, and
            uniform attention then returns V_value itself. `none` is the equation as printed.
    """

    def __init__(self, channels: int, make_map: Map, scale: Literal["none", "P"] = "P") -> None:
        super().__init__()
        self.vision_key = make_map(channels, channels)
        self.vision_value = make_map(channels, channels)
        self.language_key = make_map(channels, channels)
        self.language_value = make_map(channels, channels)
        self.scale = scale

    def forward(self, vision: Places, language: TextTokens, token_mask: TokenMask) -> Streams:
        """V B P C, L B N C, token_mask B N (True = real) -> F_v, F_l. Without any real token both are 0."""
        values = self.vision_value(vision)
        weights = attention_weights(
            self.vision_key(vision), self.language_key(language), token_mask
        )
        place_weight = weights.mean_over_tokens
        if self.scale == "P":
            place_weight = place_weight * vision.shape[1]

        f_v = _tokens_read(weights, self.language_value(language), token_mask)  # Eq. 5
        # Eq. 6: V_value does not depend on n, so the mean over n comes before the product
        f_l = place_weight[..., None].to(values.dtype) * values
        return Streams(f_v, f_l, place_weight)


class DualA(nn.Module):
    """Attention in both directions, the paper's baseline of BCAM (Table 3, row b).

    The places read the tokens, and the tokens gather the places with ordinary linear keys and values: the language
    path "updates only the text tokens" (section 3.3), N C. The decoder needs a map, so every place reads the gathered
    tokens back with the weights of the first direction. The paper gives no equation of it.

    Args:
        channels: C of both modalities at this scale.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vision_key, self.vision_value = (nn.Linear(channels, channels) for _ in range(2))
        self.language_key, self.language_value = (nn.Linear(channels, channels) for _ in range(2))

    def forward(self, vision: Places, language: TextTokens, token_mask: TokenMask) -> Streams:
        """V B P C, L B N C, token_mask B N (True = real) -> F_v, F_l. Without any real token both are 0."""
        values = self.vision_value(vision)
        weights = attention_weights(
            self.vision_key(vision), self.language_key(language), token_mask
        )
        f_v = _tokens_read(weights, self.language_value(language), token_mask)

        gathered = weights.over_places.transpose(1, 2).to(values.dtype) @ values  # B N C
        f_l = _tokens_read(weights, gathered, token_mask)
        return Streams(f_v, f_l, weights.mean_over_tokens)


class AttentionWeights(NamedTuple):
    """A of Eq. 4 after both softmaxes, B P N each, and the mean of the second one over real tokens, B P; all fp32."""

    over_tokens: Float[Tensor, "b p n"]
    over_places: Float[Tensor, "b p n"]
    mean_over_tokens: Float[Tensor, "b p"]


def attention_weights(
    vision_key: Places, language_key: TextTokens, token_mask: TokenMask
) -> AttentionWeights:
    """Scaled products of keys, B P C and B N C, (Eq. 4) and their softmaxes over real tokens and over places."""
    # in fp32: over many places bf16 would round most weights away
    with torch.autocast(vision_key.device.type, enabled=False):
        products = vision_key.float() @ language_key.float().transpose(1, 2)
        a = products / math.sqrt(vision_key.shape[2])  # Eq. 4
        # a large negative number, not -inf: a prompt without any token must not give NaN
        over_tokens = a.masked_fill(~token_mask[:, None], -1e9).softmax(dim=2)
        over_places = a.softmax(dim=1)
        real = token_mask.float()[..., None]
        mean = (over_places @ real).squeeze(2) / real.sum(dim=1).clamp(min=1)
    return AttentionWeights(over_tokens, over_places, mean)


def _tokens_read(weights: AttentionWeights, tokens: TextTokens, token_mask: TokenMask) -> Places:
    """What every place reads from the real tokens (Eq. 5), B P C."""
    read: Places = weights.over_tokens.to(tokens.dtype) @ (tokens * token_mask[..., None])
    return read


class KGate(nn.Module):
    """F * tanh(map2(ReLU(map1(F)))) (Eq. 7)."""

    def __init__(self, channels: int, make_map: Map) -> None:
        super().__init__()
        self.map1, self.map2 = make_map(channels, channels), make_map(channels, channels)

    def forward(self, feature: Places) -> Places:
        """B P C -> B P C; |gate| <= 1."""
        gated: Places = feature * torch.tanh(self.map2(torch.relu(self.map1(feature))))
        return gated


class Fusion(nn.Module):
    """One scale: text projection W_l, attention, one gate per stream, 1x1 convolution of both -> F_out.

    Args:
        channels: C_l of the scale.
        text_width: d_t of the frozen tokens.
        attention: of this scale.
        make_gate_map: builds the maps of the gates; None leaves the gates out.
        residual: add the visual feature to F_out (not in the paper).
    """

    def __init__(
        self,
        channels: int,
        text_width: int,
        attention: BCAM | DualA,
        make_gate_map: Map | None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, channels, bias=False)
        self.attention = attention
        gate = make_gate_map
        self.vision_gate = nn.Identity() if gate is None else KGate(channels, gate)
        self.language_gate = nn.Identity() if gate is None else KGate(channels, gate)
        self.mix = nn.Linear(2 * channels, channels)
        self.residual = residual

    def forward(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> tuple[Feature, Float[Tensor, "b 1 h w"]]:
        """V_l B C H W, L B N d_t -> F_out B C H W and the weight of each place in the language path, B 1 H W."""
        rows = feature.shape[2]
        vision = rearrange(feature, "b c h w -> b (h w) c")
        streams = self.attention(vision, self.text(text_tokens), token_mask)
        both = torch.cat(
            [self.vision_gate(streams.vision), self.language_gate(streams.language)], dim=2
        )
        out = rearrange(self.mix(both), "b (h w) c -> b c h w", h=rows)
        weight = rearrange(streams.place_weight, "b (h w) -> b 1 h w", h=rows)
        return (feature + out if self.residual else out), weight
