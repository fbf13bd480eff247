"""LAVT: words enter the image encoder after every stage, by pixel-word attention behind a language gate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.nn.decoders import UNetDecoder
from textmask.nn.image_encoders import padded_to
from textmask.nn.pretrained_image import build_image_encoder
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.referring import Feature, fused_scales
from textmask.types import Batch, Image, Output, Text, TextTokens, TokenMask

if TYPE_CHECKING:
    from textmask.methods.lavt import LAVTRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


def instance_normed(x: Feature, eps: float = 1e-5) -> Feature:
    """Each channel of each image to zero mean and unit variance over its places; a map of one place becomes 0."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = x.var(dim=(2, 3), keepdim=True, correction=0)
    return (x - mean) * torch.rsqrt(variance + eps)


class PWAM(nn.Module):
    """Pixel-word attention module: what every place finds in the words, times the place itself.

    Args:
        channels: C_i of the map.
        text_width: C_t of the text tokens.

    Source: LAVT, section 3.2, Eq. 1-4: projections w_iq and w_iw are followed by instance norm, w_im and w_io by ReLU.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Linear(text_width, channels)
        self.value = nn.Linear(text_width, channels)
        self.found = nn.Conv2d(channels, channels, 1)
        self.image = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, feature: Feature, tokens: TextTokens, token_mask: TokenMask) -> Feature:
        """V_i B C H W, L B T C_t, token_mask B T (True = real) -> F_i B C H W."""
        query = rearrange(instance_normed(self.query(feature)), "b c h w -> b (h w) c")
        scores = query @ self.key(tokens).transpose(1, 2) / math.sqrt(query.shape[2])

        # a large negative number, not -inf: a prompt without any token must not give NaN
        weights = scores.float().masked_fill(~token_mask[:, None], -1e9).softmax(dim=2)
        values = self.value(tokens) * token_mask[..., None]
        found = rearrange(
            weights.to(values.dtype) @ values, "b (h w) c -> b c h w", h=feature.shape[2]
        )
        language = instance_normed(self.found(found))
        out: Tensor = torch.relu(self.out(torch.relu(self.image(feature)) * language))
        return out


class LanguageGate(nn.Sequential):
    """S_i: how much of each number of F_i enters the next stage, in [-1, 1] (LAVT, Eq. 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.Tanh()),
        )


class LAVT(Method):
    """Image encoder with a PWAM after each of its coarsest stages, and a light decoder over their outputs."""

    text_encoder: TextEncoder | TextCache

    def __init__(self, recipe: LAVTRecipe) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(recipe.text_encoder)
        self.encoder = build_image_encoder(recipe.image_encoder)
        channels, _, self.first = fused_scales(self.encoder.info, recipe.scales)
        width = self.text_encoder.width
        self.attention = nn.ModuleList(PWAM(c, width) for c in channels)
        self.gates = nn.ModuleList(LanguageGate(c) for c in channels[:-1])
        self.decoder = UNetDecoder(channels)
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """The map that meets the words first: everything before it needs no text."""
        x = self.encoder.begin(padded_to(image, self.encoder.info.strides[-1]))
        for i in range(self.first + 1):
            x = self.encoder.scale(i, x)
        return (x,)

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The map of `image_features` and the text -> logits; None computes the map."""
        (x,) = self.image_features(image) if features is None else features
        words = self.text_encoder(text)
        fused: list[Tensor] = []
        for i, attention in enumerate(self.attention):
            x = x if i == 0 else self.encoder.scale(self.first + i, x)
            fused.append(attention(x, words.text_tokens, words.token_mask))
            if i < len(self.gates):
                x = x + self.gates[i](fused[-1]) * fused[-1]  # E_i

        # the decoder's map is enlarged to the padded image, of which the image is the upper left part
        feature = self.decoder(fused)
        rows, columns = image.shape[2:]
        stride = self.encoder.info.strides[-1]
        size = (-(-rows // stride) * stride, -(-columns // stride) * stride)
        whole = nn.functional.interpolate(
            self.head(feature), size, mode="bilinear", align_corners=False
        )
        return Output(whole[..., :rows, :columns], {"feature": feature})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce` on the labelled batch."""
        if batch.mask is None:
            raise DataError(
                "lavt trains on labelled rows only; this batch has no masks. Add masks to the manifest."
            )
        logits = self(batch.image, batch.text).logits
        return {"dice": soft_dice(logits, batch.mask), "bce": bce(logits, batch.mask)}
