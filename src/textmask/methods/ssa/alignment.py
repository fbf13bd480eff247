"""Dual-granularity symmetric optimal transport, DSOT (Eq. 1-2): images with prompts, places with words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.losses.contrastive import cosine_similarity_matrix, hard_target, soft_contrastive
from textmask.losses.transport import cosine_cost, transport_loss
from textmask.nn.attention import Interactor, stretched
from textmask.nn.referring import Feature, Referred
from textmask.processes import gathered
from textmask.types import Embedding, TextTokens, TokenMask

if TYPE_CHECKING:
    from textmask.methods.ssa import SSARecipe


class Aligned(NamedTuple):
    """Tokens of both modalities in one space: f_img B N E in reading order with `rows` rows, f_txt B L E."""

    image_tokens: Float[Tensor, "b n e"]
    text_tokens: TextTokens
    token_mask: TokenMask
    rows: int


class Alignment(nn.Module):
    """Bi-aggregated features of one scale, each through a linear map and layer norm.

    In MMI-UNet's bridgers both modalities attend to each other. A GuideDecoder's text tokens never attend to the image,
    so one interactor does that here.

    Args:
        recipe: fields of `ssa`.
        widths: channels of the map and width of the text tokens at that scale.
        bidirectional: whether the backbone's text tokens have already attended to the image.
    """

    def __init__(self, recipe: SSARecipe, widths: tuple[int, int], bidirectional: bool) -> None:
        super().__init__()
        width = recipe.align_width
        self.scale = recipe.align_scale
        self.image = nn.Sequential(nn.Linear(widths[0], width), nn.LayerNorm(width))
        self.text = nn.Sequential(nn.Linear(widths[1], width), nn.LayerNorm(width))
        self.text_asks = (
            None if bidirectional else Interactor(width, recipe.align_heads, dropout=0.0)
        )

    def forward(self, found: Referred) -> Aligned:
        """The chosen scale of a backbone's output -> tokens of width E."""
        feature: Feature = found.maps[self.scale]
        mask = found.token_masks[self.scale]
        image_tokens = self.image(rearrange(feature, "b c h w -> b (h w) c"))
        text_tokens = self.text(found.texts[self.scale])
        if self.text_asks is not None:
            text_tokens = self.text_asks(text_tokens, image_tokens, mask, None)
        return Aligned(image_tokens.float(), text_tokens.float(), mask, feature.shape[2])


def mean_token(tokens: TextTokens, token_mask: TokenMask) -> Embedding:
    """Mean over real tokens, B L E -> B E; 0 for a prompt without any."""
    real = token_mask[..., None].to(tokens.dtype)
    return (tokens * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def global_loss(
    aligned: Aligned, sentence: Embedding, tau: float, merge_equal: bool
) -> Float[Tensor, ""]:
    """L_global: symmetric InfoNCE, mean of both directions, of mean image and mean text tokens of all processes.

    Args:
        aligned: tokens of the batch.
        sentence: B D text embeddings; with `merge_equal` images of equal prompts are not negatives of each other.
        tau: temperature.
        merge_equal: see `hard_target`.
    """
    words = gathered(mean_token(aligned.text_tokens, aligned.token_mask))
    similarity = cosine_similarity_matrix(gathered(aligned.image_tokens.mean(dim=1)), words)
    sentence = gathered(sentence)
    with torch.no_grad():
        target = hard_target(cosine_similarity_matrix(sentence, sentence), merge_equal)
    return soft_contrastive(similarity, target, tau) / 2


def local_loss(aligned: Aligned, recipe: SSARecipe) -> Float[Tensor, ""]:
    """L_local: minimal cost of transport between places and words, 1 - cosine per unit (Eq. 1), both directions."""
    cost = cosine_cost(aligned.image_tokens, aligned.text_tokens)
    return transport_loss(
        cost,
        aligned.token_mask,
        eps=recipe.eps,
        max_iterations=recipe.max_iterations,
        tolerance=recipe.tolerance,
        grad=recipe.plan_gradient,
    )


def attention_map(aligned: Aligned) -> Float[Tensor, "b 1 h w"]:
    """A_norm: cosine of every place with the mean word, per image stretched to [0, 1]; 1 if all are equal.

    A softmax over tokens sums to 1 at every place, so it is not a map of places.
    """
    words = mean_token(aligned.text_tokens, aligned.token_mask)[:, None]
    cosine = nn.functional.cosine_similarity(aligned.image_tokens, words, dim=2)
    return stretched(rearrange(cosine, "b (h w) -> b 1 h w", h=aligned.rows))
