"""GuideDecoder: every scale of the decoder attends to the text before it is enlarged (Zhong et al., 2023)."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.errors import warn_prompt
from textmask.nn.attention import Attention, position_codes
from textmask.nn.decoders import UpBlock
from textmask.nn.fields import GuideDecoderFields
from textmask.nn.image_encoders import ImageEncoder, padded_to, standardise, zscored
from textmask.nn.referring import (
    Feature,
    Referred,
    attention_at,
    backbone_head,
    fused_scales,
)
from textmask.types import Image, TextFeatures, TextTokens, TokenMask


def fixed_length(text_tokens: TextTokens, token_mask: TokenMask, length: int) -> Tensor:
    """Text tokens for layers that have a weight per position: B L D -> B length D, zeros in the place of padding.

    Warns:
        PromptWarning: prompts with more than `length` tokens, which are cut.
    """
    if token_mask.shape[1] > length and token_mask[:, length:].any():
        cut = int(token_mask[:, length:].any(dim=1).sum())
        warn_prompt(
            f"{cut} of {len(token_mask)} prompts are longer than the {length} tokens that the network reads and "
            "were cut. Raise max_tokens and train again.",
            stacklevel=3,
        )
    real = (text_tokens * token_mask[..., None])[:, :length]
    return nn.functional.pad(real, (0, 0, 0, length - real.shape[1]))


class TokenMixer(nn.Module):
    """L text tokens of width D -> n of width C: a map over positions, GELU, a map over channels, LeakyReLU.

    Padding enters as zeros and so adds nothing, however long it is.
    """

    def __init__(self, max_tokens: int, count: int, text_width: int, channels: int) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        # a convolution over the token axis with kernel 1
        self.positions = nn.Linear(max_tokens, count)
        self.channels = nn.Linear(text_width, channels)

    def forward(self, text_tokens: TextTokens, token_mask: TokenMask) -> Tensor:
        """B L D -> B n C. Warns as `fixed_length`."""
        real = fixed_length(text_tokens, token_mask, self.max_tokens)
        mixed = nn.functional.gelu(self.positions(real.transpose(1, 2))).transpose(1, 2)
        return nn.functional.leaky_relu(self.channels(mixed))


class GuideBlock(nn.Module):
    """Fuse one map with the text: self-attention of its places, then cross-attention to the mixed text tokens.

    Source: Zhong et al., Ariadne's Thread (2023), and its code. Position codes are two-dimensional and relative to the
    map's size, so that any size works; the released ones count tokens in one dimension.
    """

    def __init__(
        self, channels: int, text_width: int, count: int, fields: GuideDecoderFields
    ) -> None:
        super().__init__()
        self.mixer = TokenMixer(fields.max_tokens, count, text_width, channels)
        self.self_attention = Attention(channels)
        self.cross_attention = Attention(channels, fields.heads)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))
        self.gate = nn.Parameter(torch.tensor(float(fields.gate)))

    def forward(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> tuple[Feature, Tensor]:
        """Feature B C H W and the text -> guided feature B C H W, mixed text tokens B n C."""
        return self.ask(self.look(feature), text_tokens, token_mask)

    def look(self, feature: Feature) -> Feature:
        """The places attend to each other; no text is needed."""
        rows, columns = feature.shape[2:]
        x = rearrange(feature, "b c h w -> b (h w) c")
        places = position_codes(x.shape[2], rows, columns, x.device).to(x.dtype)

        # positions enter queries and keys, not the values
        y = self.norms[0](x)
        x = x + self.norms[1](self.self_attention(y + places, y + places, y))
        out: Tensor = rearrange(x, "b (h w) c -> b c h w", h=rows)
        return out

    def ask(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> tuple[Feature, Tensor]:
        """The places attend to the text; a prompt without a real token adds nothing."""
        rows, columns = feature.shape[2:]
        x = rearrange(feature, "b c h w -> b (h w) c")
        text = self.mixer(text_tokens, token_mask)
        places = position_codes(x.shape[2], rows, columns, x.device).to(x.dtype)
        words = position_codes(x.shape[2], 1, text.shape[1], x.device).to(text.dtype)

        y = self.norms[2](x)
        found = self.norms[3](self.cross_attention(y + places, text + words, text))
        x = x + self.gate * found * token_mask.any(dim=1)[:, None, None]
        return rearrange(x, "b (h w) c -> b c h w", h=rows), text

    def mean_score(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> Float[Tensor, "b n"]:
        """The score of each place for the mixed tokens, as `ask` sees them; see `Attention.mean_score`."""
        rows, columns = feature.shape[2:]
        x = rearrange(feature, "b c h w -> b (h w) c")
        text = self.mixer(text_tokens, token_mask)
        places = position_codes(x.shape[2], rows, columns, x.device).to(x.dtype)
        words = position_codes(x.shape[2], 1, text.shape[1], x.device).to(text.dtype)
        return self.cross_attention.mean_score(self.norms[2](x) + places, text + words)


class GuideDecoder(nn.Module):
    """Image encoder, one guide block and one up-sampling block per scale, sub-pixel head.

    Args:
        encoder: any; its coarsest scales are used, one more than there are token counts.
        text_width: D of the text tokens.
        fields: see `GuideDecoderFields`.

    Raises:
        ConfigError: the encoder has fewer scales than there are token counts and a skip.
    """

    bidirectional = False  # the text tokens do not attend to the image

    def __init__(self, encoder: ImageEncoder, text_width: int, fields: GuideDecoderFields) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.scaled_outside = fields.intensity == "released"
        channels, stride, self.first = fused_scales(encoder.info, len(fields.token_counts) + 1)

        # the finest scale is a plain skip without a guide block
        coarse_to_fine = channels[::-1]
        self.guides = nn.ModuleList(
            GuideBlock(c, text_width, n, fields)
            for c, n in zip(coarse_to_fine, fields.token_counts, strict=False)
        )
        leaky = fields.blocks == "released"
        self.ups = nn.ModuleList(
            UpBlock(a, b, convolutions=2, leaky=leaky) for a, b in pairwise(coarse_to_fine)
        )
        self.head = backbone_head(fields.head, channels[0], stride, fields.head_channels)
        self.widths = tuple((c, c) for c in coarse_to_fine[: len(self.guides)])

    def forward(self, image: Image, text: TextFeatures) -> Referred:
        """Image B 3 H W in [0, 1] and text features -> logits B 1 H W and the fused maps, coarse to fine."""
        return self.decode(self.encode(image), image, text)

    def encode(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that needs no text: image B 3 H W in [0, 1] -> maps for `decode`. A second prompt then costs less.

        They are the coarsest map after its places attended to each other, the skips as each up-sampling block reads
        them, and the image as the head reads it.
        """
        whole = padded_to(image, self.encoder.info.strides[-1])
        scaled = zscored(image) if self.encoder.scaled_outside else image
        features = self.encoder(padded_to(scaled, self.encoder.info.strides[-1]))[self.first :]
        # a convolution of a concatenation is a sum of two: the skip's part needs no text
        guides, ups = self._levels
        parts = map(UpBlock.skip_part, ups, features[-2::-1])
        return guides[0].look(features[-1]), *parts, self.head.image_part(standardise(whole))

    @property
    def _levels(self) -> tuple[list[GuideBlock], list[UpBlock]]:
        return cast(list[GuideBlock], list(self.guides)), cast(list[UpBlock], list(self.ups))

    def decode(self, features: tuple[Tensor, ...], image: Image, text: TextFeatures) -> Referred:
        """The maps of `encode`, the image and the text -> as `forward`."""
        x, fused, texts = features[0], [], []
        attention = None
        if not self.training:
            guide = self._levels[0][0]
            scores = guide.mean_score(x, text.text_tokens, text.token_mask)
            stride = self.encoder.info.strides[-1]
            padded = (x.shape[2] * stride, x.shape[3] * stride)
            attention = attention_at(scores, x.shape[2], padded, (image.shape[2], image.shape[3]))
        for i, (guide, up, part) in enumerate(zip(*self._levels, features[1:-1], strict=True)):
            x, words = guide.ask(guide.look(x) if i else x, text.text_tokens, text.token_mask)
            fused.append(x)
            texts.append(words)
            x = up.join(x, part)

        # padding was masked before mixing: all mixed tokens are real if the prompt has any token
        logits = self.head.join(x, features[-1])[..., : image.shape[2], : image.shape[3]]
        anything = text.token_mask.any(dim=1)[:, None].expand(-1, max(t.shape[1] for t in texts))
        masks = tuple(anything[:, : t.shape[1]] for t in texts)
        return Referred(logits, x, tuple(fused), tuple(texts), masks, attention)
