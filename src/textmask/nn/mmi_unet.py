"""MMI-UNet: image and text update each other between the scales of the encoder (Bui et al., 2024)."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.attention import Interactor
from textmask.nn.decoders import UpBlock
from textmask.nn.fields import MMIUNetFields
from textmask.nn.image_encoders import ImageEncoder, padded_to, standardise, zscored
from textmask.nn.referring import (
    Feature,
    Referred,
    attention_at,
    backbone_head,
    fused_scales,
)
from textmask.types import Image, TextFeatures, TextTokens, TokenMask


class Bridger(nn.Module):
    """Bidirectional aggregation at one scale: the halved map and the text tokens attend to each other.

    Both attend to the other's state before the update. A map with an odd number of rows or columns is padded before it
    is halved; the released code drops the odd ones, which are then never fused with the text.

    Args:
        channels: C of the map.
        text_width: D of the text tokens.
        fields: of the network.
        answers: whether the text tokens are updated too; False at the last scale if nothing reads them.

    Source: MMI-UNet, visual-textual matching.
    """

    def __init__(
        self, channels: int, text_width: int, fields: MMIUNetFields, answers: bool = True
    ) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 2, stride=2, bias=False)
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.text_in = nn.Linear(text_width, channels)
        self.norm_image, self.norm_text = nn.LayerNorm(channels), nn.LayerNorm(channels)

        settings = (channels, fields.heads, fields.hidden, fields.dropout)
        self.image_asks = Interactor(*settings)
        self.text_asks = Interactor(*settings) if answers else None
        self.text_out = nn.Linear(channels, text_width) if answers else None

        # the interactors keep the first weights of their own layers
        if fields.blocks == "released":
            for layer in (self.down, self.up, self.text_in, self.text_out):
                if layer is not None:
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> tuple[Feature, TextTokens]:
        """Map B C H W and tokens B L D -> both updated by residuals; padding tokens are not changed."""
        rows, columns = feature.shape[2:]
        small = self.down(padded_to(feature, 2))
        image_tokens = self.norm_image(rearrange(small, "b c h w -> b (h w) c"))
        words = self.norm_text(self.text_in(text_tokens))

        seen = self.image_asks(image_tokens, words, None, token_mask)
        grown = self.up(rearrange(seen, "b (h w) c -> b c h w", h=small.shape[2]))
        fused = feature + grown[..., :rows, :columns]
        if self.text_asks is None or self.text_out is None:
            return fused, text_tokens

        update = self.text_out(self.text_asks(words, image_tokens, token_mask, None))
        return fused, text_tokens + update * token_mask[..., None]

    def mean_score(
        self, feature: Feature, text_tokens: TextTokens, token_mask: TokenMask
    ) -> tuple[Float[Tensor, "b n"], int]:
        """The score of each place of the halved map for the words, and the rows of that map."""
        small = self.down(padded_to(feature, 2))
        image_tokens = self.norm_image(rearrange(small, "b c h w -> b (h w) c"))
        words = self.norm_text(self.text_in(text_tokens))
        return self.image_asks.mean_score(image_tokens, words, token_mask), small.shape[2]


class MMIUNet(nn.Module):
    """Encoder with bridgers between its scales, U-shaped decoder, sub-pixel head.

    As in the released code, the next scale reads bridger output + scale output, so that the scale's map enters twice,
    and the next bridger reads the original text tokens + the output of the last bridger.

    Args:
        encoder: any.
        text_width: D of the text tokens.
        fields: see `MMIUNetFields`.
        last_answers: whether the coarsest bridger also updates the text tokens, for callers that read `Referred.texts`.
    """

    bidirectional = True

    def __init__(
        self,
        encoder: ImageEncoder,
        text_width: int,
        fields: MMIUNetFields,
        last_answers: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        encoder.scaled_outside = fields.intensity == "released"
        channels, stride, self.first = fused_scales(encoder.info, fields.scales)

        # the first scale with a bridger
        self.plain = self.first + max(fields.scales - fields.fused, 0)
        fused = encoder.info.channels[self.plain :]
        self.bridgers = nn.ModuleList()
        for i, c in enumerate(fused):
            answers = last_answers or i < len(fused) - 1
            self.bridgers.append(Bridger(c, text_width, fields, answers))

        coarse_to_fine = channels[::-1]
        self.ups = nn.ModuleList(UpBlock(a, b, convolutions=1) for a, b in pairwise(coarse_to_fine))
        self.head = backbone_head(fields.head, channels[0], stride, fields.head_channels)
        self.widths = tuple((c, text_width) for c in fused[::-1])

    def forward(self, image: Image, text: TextFeatures) -> Referred:
        """Image B 3 H W in [0, 1] and text features -> logits B 1 H W and the fused maps, coarse to fine."""
        return self.decode(self.encode(image), image, text)

    def encode(self, image: Image) -> tuple[Tensor, ...]:
        """Everything that needs no text: image B 3 H W in [0, 1] -> plain skips and the map of the first bridger."""
        # the image is padded to whole strides; `decode` cuts the logits back
        scaled = zscored(image) if self.encoder.scaled_outside else image
        x = self.encoder.begin(padded_to(scaled, self.encoder.info.strides[-1]))
        maps: list[Tensor] = []
        for i in range(self.plain + 1):
            x = self.encoder.scale(i, x)
            maps.append(x)
        return tuple(maps[self.first :])

    def decode(self, features: tuple[Tensor, ...], image: Image, text: TextFeatures) -> Referred:
        """The maps of `encode`, the image and the text -> as `forward`; the coarser scales run here."""
        whole = padded_to(image, self.encoder.info.strides[-1])
        *plain, x = features
        skips, words = list(plain), text.text_tokens
        texts: list[Tensor] = []
        for i, bridger in enumerate(self.bridgers, start=self.plain):
            x = x if i == self.plain else self.encoder.scale(i, x)
            asked, before = x, words
            fused, updated = bridger(x, words, text.token_mask)
            texts.append(updated)
            words = text.text_tokens + updated
            skips.append(fused)
            x = x + fused

        # only to be looked at: where the coarsest bridger finds the words
        attention = None
        if not self.training:
            last = cast(Bridger, self.bridgers[-1])
            scores, rows = last.mean_score(asked, before, text.token_mask)
            # the halved map covers two strides each way, also of an odd map
            stride = 2 * self.encoder.info.strides[-1]
            padded = (rows * stride, scores.shape[1] // rows * stride)
            attention = attention_at(scores, rows, padded, (image.shape[2], image.shape[3]))

        # U-shaped decoder over all scales, plain skips included
        x = skips[-1]
        for up, skip in zip(self.ups, skips[-2::-1], strict=True):
            x = up(x, skip)
        logits = self.head(x, standardise(whole))[..., : image.shape[2], : image.shape[3]]
        maps = tuple(skips[::-1][: len(texts)])
        return Referred(
            logits, x, maps, tuple(texts[::-1]), (text.token_mask,) * len(texts), attention
        )
