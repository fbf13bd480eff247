"""Semantic similarity supervision, SSS (Eq. 1-5): the distance of two embeddings compared with their uncertainty."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.losses.contrastive import Pairs, cosine_similarity_matrix
from textmask.nn.attention import Attention
from textmask.types import Embedding

Constants = Literal["scaled", "released"]
EXACT = "donot_use_mm_for_euclid_dist"  # a matrix product loses the digits of small distances
MAX_RELATIVE = 50.0  # limit of the relative uncertainty: equal embeddings divide by 0


class Gaussian(NamedTuple):
    """A semantic embedding s and its distribution N(mu, sigma^2), B E each."""

    embedding: Embedding
    mean: Embedding
    sigma: Embedding


class GaussianHead(nn.Module):
    """Tokens -> mean and log-variance of the first one, [CLS].

    Linear, GELU and layer norm; attention with its output split in two halves; one MLP per half, with residual.

    Source: DuSSS, "SSS for Uncertain Correspondence Learning"; the head follows its released code in outline.
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.lift = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.LayerNorm(2 * width))
        self.attention = Attention(2 * width, heads)
        self.mean, self.log_variance = self._mlp(width), self._mlp(width)

    @staticmethod
    def _mlp(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, tokens: Float[Tensor, "b n e"], mask: Tensor | None = None
    ) -> tuple[Embedding, Embedding]:
        """Tokens B N E, mask B N (True = real) -> mean and log-variance, B E each."""
        lifted = self.lift(tokens)
        first = (lifted[:, :1] + self.attention(lifted[:, :1], lifted, lifted, mask))[:, 0]
        a, b = first.chunk(2, dim=1)
        return a + self.mean(a), b + self.log_variance(b)


def wasserstein2(a: Gaussian, b: Gaussian) -> Pairs:
    """D_2W = ||mu_1 - mu_2||^2 + ||sigma_1 - sigma_2||^2 of every pair, B B (Eq. 1)."""
    means = torch.cdist(a.mean.float(), b.mean.float(), compute_mode=EXACT)
    sigmas = torch.cdist(a.sigma.float(), b.sigma.float(), compute_mode=EXACT)
    return means.square() + sigmas.square()


def uncertain_similarity(
    a: Gaussian, b: Gaussian, tau: Tensor, constants: Constants = "scaled", lam: float = 0.2
) -> tuple[Pairs, Pairs]:
    """The similarity of Eq. 5, 1 - (1 - cos) D_SSS, and D_SSS itself (Eq. 2-4), B B each.

    It rises with the distance of the distributions and falls with the distance of the embeddings as unit vectors. For
    equal embeddings Eq. 3 is infinite; it is limited to `MAX_RELATIVE`, at which the similarity is 1.

    Args:
        a: Gaussians of B samples.
        b: Gaussians of B samples; row i of the result compares a_i with every b_j.
        tau: temperature; only the released constants use it.
        constants: `scaled` divides Eq. 1 by the dimension, with a = 1 and b = 0.05, which keeps D_SSS away from 0 and
            1. `released` is a = 1 / (200 tau), b = 4 / tau + 4 and squared distances, of the public code: with them
            D_SSS is about 0.002 for every pair, so that every pair is similar.
        lam: lambda of Eq. 4.
    """
    distance = torch.cdist(
        nn.functional.normalize(a.embedding.float(), dim=1),
        nn.functional.normalize(b.embedding.float(), dim=1),
        compute_mode=EXACT,
    )

    # the two choices of constants differ in the scale of both distances
    level = wasserstein2(a, b)
    if constants == "scaled":
        level = level / a.mean.shape[1] + 0.05  # Eq. 2
    else:
        level, distance = level / (200 * tau) + 4 / tau + 4, distance.square()

    relative = (level / (distance + 1e-6)).clamp(max=MAX_RELATIVE)  # Eq. 3
    d_sss = torch.exp(-lam * relative)  # Eq. 4
    return 1 - (1 - cosine_similarity_matrix(a.embedding, b.embedding)) * d_sss, d_sss


class GatedUp(nn.Module):
    """Twice the size, then x + tanh(gate) conv(x); the gate starts nearly closed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        # not 0, at which the convolutions would start without a gradient
        self.gate = nn.Parameter(torch.full((), 1e-2))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """B C h w -> B C 2h 2w."""
        x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        out: Tensor = x + torch.tanh(self.gate) * self.conv(x)
        return out


class GroundingDecoder(nn.Module):
    """f_g: patch tokens -> pixel features, four times finer, compared with the text embedding (Eq. 10)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, width, 1)
        self.ups = nn.Sequential(GatedUp(width), GatedUp(width))
        self.scale, self.shift = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-2.5))

    def forward(
        self, patches: Float[Tensor, "b e h w"], sentence: Embedding
    ) -> tuple[Float[Tensor, "b e h4 w4"], Float[Tensor, "b 1 h4 w4"]]:
        """Patch tokens B E h w and t_f B E -> pixel features v_f B E 4h 4w, logits of y_text B 1 4h 4w.

        The logits are scale x cosine + shift: a product of unit vectors alone gives probabilities of 0.27 to 0.73.
        """
        pixels = self.ups(self.project(patches))
        with torch.autocast(pixels.device.type, enabled=False):
            cosine = torch.einsum(
                "bchw,bc->bhw",
                nn.functional.normalize(pixels.float(), dim=1),
                nn.functional.normalize(sentence.float(), dim=1),
            )
        return pixels, (self.scale * cosine + self.shift)[:, None]


def pooled_region(pixels: Float[Tensor, "b e h w"], logits: Float[Tensor, "b 1 h w"]) -> Embedding:
    """v_f^t: pixel features averaged over the mask of the prompt, B E in fp32."""
    weight = rearrange(torch.sigmoid(logits.float()), "b 1 h w -> b (h w)")
    flat = rearrange(pixels.float(), "b e h w -> b (h w) e")
    with torch.autocast(pixels.device.type, enabled=False):
        total = torch.einsum("bne,bn->be", flat, weight)
    return total / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
