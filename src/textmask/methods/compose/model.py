"""The network: a pixel embedding, queries from phrases, learned regions and an existence score."""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from textmask.nn.decoders import PRIOR_LOGIT, UNetDecoder
from textmask.nn.image_encoders import standardise
from textmask.nn.pretrained_image import build_image_encoder
from textmask.statement import Level, Side
from textmask.types import Embedding, Image

REGIONS: tuple[Side | Level, ...] = (*Side, *Level)
MAP_SIZE = 7  # rows and columns of the learned map of a region
FIRST_EXISTENCE = 3.0  # before training nothing is held back


class PixelEmbedding(nn.Module):
    """Image -> a vector per pixel: e = ReLU(shuffled decoder feature + 3x3 convolution of the gray image).

    Args:
        encoder: see `build_image_encoder`.
        width: D.
    """

    def __init__(self, encoder: str, width: int) -> None:
        super().__init__()
        self.encoder = build_image_encoder(encoder)
        self.decoder = UNetDecoder(self.encoder.info.channels)
        self.stride = self.encoder.info.strides[0]
        self.expand = nn.Conv2d(self.decoder.out_channels, width * self.stride**2, 1)
        self.detail = nn.Conv2d(1, width, 3, padding=1)

    def forward(
        self, image: Image
    ) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b _c _rows _columns"]]:
        """Image B 3 H W in [0, 1] -> embedding B D H W, and the decoder feature B C h w."""
        feature = self.decoder(self.encoder(image))
        rows, columns = image.shape[-2:]
        coarse = nn.functional.pixel_shuffle(self.expand(feature), self.stride)
        gray = reduce(standardise(image), "b rgb h w -> b 1 h w", "mean")
        return torch.relu(coarse[..., :rows, :columns] + self.detail(gray)), feature


class QueryHead(nn.Module):
    """Text vector of a phrase -> query: D numbers and a bias, which starts at `PRIOR_LOGIT`."""

    def __init__(self, text_width: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(text_width),
            nn.Linear(text_width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width + 1),
        )
        nn.init.constant_(cast(nn.Linear, self.layers[-1]).bias[-1:], PRIOR_LOGIT)

    def forward(self, vectors: Embedding) -> Float[Tensor, "b _query"]:
        """P text vectors -> P queries of D + 1 numbers."""
        out: Tensor = self.layers(vectors)
        return out


def scaled_products(
    queries: Float[Tensor, "b l _query"], embedding: Float[Tensor, "b _d h w"]
) -> Float[Tensor, "b l h w"]:
    """Logit of query q with bias c at a pixel with embedding e: <q, e> / sqrt(D) + c, in fp32."""
    rows, columns = embedding.shape[-2:]
    flat = rearrange(embedding, "b d h w -> b d (h w)")
    products = queries[..., :-1].to(flat.dtype) @ flat / flat.shape[1] ** 0.5
    logits = products.float() + queries[..., -1:].float()
    out: Tensor = rearrange(logits, "b l (h w) -> b l h w", h=rows, w=columns)
    return out


class Regions(nn.Module):
    """Logits of the sides and levels of an image: a query and a learned low-resolution map for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(REGIONS), width + 1) * 0.1)
        self.maps = nn.Parameter(torch.zeros(1, len(REGIONS), MAP_SIZE, MAP_SIZE))

    def forward(self, embedding: Float[Tensor, "b _d h w"]) -> Float[Tensor, "b regions h w"]:
        """Embedding B D H W -> logits B 6 H W, in the order of `REGIONS`."""
        queries = self.queries.expand(len(embedding), -1, -1)
        maps = nn.functional.interpolate(self.maps.float(), embedding.shape[-2:], mode="bilinear")
        logits: Tensor = scaled_products(queries, embedding) + maps
        return logits


class Existence(nn.Module):
    """Whether an image shows what a prompt asks for: x = <w, sum_p a_p e_p> + u sum_p a_p l_p + c, a = softmax_p(l)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pooled = nn.Linear(width, 1)
        self.peak = nn.Parameter(torch.ones(1))
        nn.init.constant_(self.pooled.bias, FIRST_EXISTENCE)

    def forward(
        self, logits: Float[Tensor, "b 1 h w"], embedding: Float[Tensor, "b _d h w"]
    ) -> Float[Tensor, "b 1 1 1"]:
        """Logits l B 1 H W and embedding e B D H W -> logit x of existence."""
        flat = rearrange(logits.float(), "b 1 h w -> b (h w) 1")
        attention = flat.softmax(dim=1)
        e = rearrange(embedding, "b d h w -> b d (h w)")
        pooled = (e @ attention.to(e.dtype))[..., 0].float()
        found: Tensor = self.pooled(pooled).float() + self.peak * (attention * flat).sum(dim=1)
        return found[..., None, None]
