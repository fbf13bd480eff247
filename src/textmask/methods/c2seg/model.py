"""The fusion of C2Seg: bidirectional complementary attention (Eq. 4-6) and the KAN gate (Eq. 7)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.ukan import Map
from textmask.types import TextTokens, TokenMask

Feature = Float[Tensor, "b c h w"]
Places = Float[Tensor, "b p c"]
LanguagePath = Literal["complementary", "dual"]


class Streams(NamedTuple):
    """Result of the attention: F_v and F_l, B P C, and the weight of each place in the language path, B P."""

    vision: Places
    language: Places
    place_weight: Float[Tensor, "b p"]


class BCAM(nn.Module):
    """Bidirectional complementary attention (Eq. 4-6); padding is masked.

    Args:
        channels: C of both modalities at this scale.
        make_map: builds the four maps to keys and values, KAN or linear.
        language_path: `complementary` is Eq. 6. `dual` is the paper's baseline (DualA): the tokens gather visual
            values as in ordinary attention, and every place reads them back with the weights of Eq. 5.
        scale: Eq. 6 spreads a softmax over P places, so its entries are about V_value / P; `P` multiplies by P, and
            uniform attention then returns V_value itself.
    """

    def __init__(
        self,
        channels: int,
        make_map: Map,
        language_path: LanguagePath = "complementary",
        scale: Literal["none", "P"] = "none",
    ) -> None:
        super().__init__()
        self.vision_key = make_map(channels, channels)
        self.vision_value = make_map(channels, channels)
        self.language_key = make_map(channels, channels)
        self.language_value = make_map(channels, channels)
        self.language_path, self.scale = language_path, scale

    def forward(self, vision: Places, language: TextTokens, token_mask: TokenMask) -> Streams:
        """V B P C, L B N C, token_mask B N (True = real) -> F_v, F_l. Without any real token both are 0."""
        places = vision.shape[1]
        vision_key, vision_value = self.vision_key(vision), self.vision_value(vision)
        language_key, language_value = self.language_key(language), self.language_value(language)
        real = token_mask[..., None]  # B N 1

        # the softmaxes in fp32: over many places bf16 would round most weights away
        with torch.autocast(vision.device.type, enabled=False):
            products = vision_key.float() @ language_key.float().transpose(1, 2)
            a = products / math.sqrt(vision.shape[2])  # Eq. 4
            # a large negative number, not -inf: a prompt without any token must not give NaN
            over_tokens = a.masked_fill(~token_mask[:, None], -1e9).softmax(dim=2)
            over_places = a.softmax(dim=1)
            # the mean over n before the product with the values
            tokens = real.sum(dim=1).clamp(min=1)
            place_weight = (over_places @ real.float()).squeeze(2) / tokens
        if self.scale == "P":
            place_weight = place_weight * places

        dtype = vision_value.dtype
        f_v = over_tokens.to(dtype) @ (language_value * real.to(dtype))  # Eq. 5
        if self.language_path == "complementary":  # Eq. 6: V_value does not depend on n
            f_l = place_weight[..., None].to(dtype) * vision_value
        else:
            seen = over_places.transpose(1, 2).to(dtype) @ vision_value
            f_l = over_tokens.to(dtype) @ (seen * real.to(dtype))
        return Streams(f_v, f_l, place_weight)


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
        attention: BCAM,
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
