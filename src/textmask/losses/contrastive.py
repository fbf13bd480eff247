"""Contrast of images with prompts as the fit of a distribution; the methods differ only in the target."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from textmask.types import TokenMask, ZoneBits

Pairs = Float[Tensor, "b b"]  # row: image i, column: prompt j


def cosine_similarity_matrix(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]
) -> Float[Tensor, "n m"]:
    """Cosine of every row of N D with every row of M D, in fp32; a zero vector has cosine 0."""
    with torch.autocast(a.device.type, enabled=False):
        return (
            torch.nn.functional.normalize(a.float(), dim=1)
            @ torch.nn.functional.normalize(b.float(), dim=1).mT
        )


def soft_contrastive(similarity: Pairs, target: Pairs, tau: float | Tensor) -> Float[Tensor, ""]:
    """-(1/B) sum_ij [Y_ij log P^{v->l}_ij + Y_ji log P^{l->v}_ij], with softmaxes of similarity / tau (C2Seg Eq. 2).

    Rows of the target sum to 1: row i is the target distribution of image i, and row j that of prompt j. With
    the identity the loss is the sum of both directions of InfoNCE. Its gradient with respect to the similarity is
    (P^{v->l} - Y + P^{l->v} - Y^T) / (B tau); C2Seg's Eq. 3 prints it without the 1/B of its own loss.
    """
    return info_nce(similarity, target, tau) + info_nce(similarity.mT, target, tau)


def info_nce(similarity: Pairs, target: Pairs, tau: float | Tensor) -> Float[Tensor, ""]:
    """One direction of the contrast, -(1/B) sum_ij Y_ij log softmax_j(s_ij / tau): each row finds its column."""
    log_p = torch.log_softmax(similarity.float() / tau, dim=1)
    loss: Tensor = -(target * log_p).sum() / len(similarity)
    return loss


def clip_contrast(similarity: Pairs, tau: float | Tensor) -> Float[Tensor, ""]:
    """The mean of both directions of InfoNCE between an image and its own prompt.

    Args:
        similarity: cosines, images in rows and prompts in columns.
        tau: temperature; CLIP learns it from 0.07 on.

    Source: Radford et al., CLIP (2021), Figure 3.
    """
    return soft_contrastive(similarity, hard_target(similarity), tau) / 2


def convirt_contrast(
    similarity: Pairs, tau: float = 0.1, image_share: float = 0.75
) -> Float[Tensor, ""]:
    """InfoNCE whose direction from images to prompts weighs more.

    Args:
        similarity: cosines, images in rows and prompts in columns.
        tau: temperature.
        image_share: lambda, weight of the direction in which each image finds its prompt.

    Source: Zhang et al., ConVIRT (2022), Eq. 2-4 and section 3.
    """
    target = hard_target(similarity)
    to_text = info_nce(similarity, target, tau)
    to_image = info_nce(similarity.mT, target, tau)
    return image_share * to_text + (1 - image_share) * to_image


def gloria_contrast(
    places: Float[Tensor, "b p d"],
    text_embedding: Float[Tensor, "b d"],
    text_tokens: Float[Tensor, "b l d"],
    token_mask: TokenMask,
    tau: float = 0.1,
) -> Float[Tensor, ""]:
    """Both directions of InfoNCE, over whole images and prompts and over words that look for their places.

    Args:
        places: of each image, not normalized; their mean is the whole image.
        text_embedding: B D.
        text_tokens: B L D.
        token_mask: B L, True for real tokens.
        tau: of both terms.

    Source: Huang et al., GLoRIA (2021), global and local contrastive loss; 0.1 as in the released code (factor 10).
    """
    whole = cosine_similarity_matrix(places.mean(dim=1), text_embedding)
    local = word_similarity(places, text_tokens, token_mask)
    target = hard_target(whole)
    return soft_contrastive(whole, target, tau) + soft_contrastive(local, target, tau)


def word_similarity(
    places: Float[Tensor, "n p d"],
    text_tokens: Float[Tensor, "m l d"],
    token_mask: Bool[Tensor, "m l"],
    sharpness: float = 4.0,
    word_scale: float = 5.0,
) -> Float[Tensor, "n m"]:
    """How well each image N contains the words of each prompt M: log sum_w exp(5 cos(c_w, t_w)).

    c_w is the mean of the image's places, weighted by how much they look like word w: a softmax over the words of a
    place, then, times `sharpness`, a softmax over places.

    Args:
        places: N P D.
        text_tokens: M L D.
        token_mask: M L, True for real tokens.
        sharpness: factor before the softmax over places.
        word_scale: factor on the cosine of a word and what it found.

    Source: GLoRIA, attention weights and matching function; factors and the softmax over words as in its released code.
    """

    def of_one_prompt(places: Tensor, words: Tensor, real: Tensor) -> Tensor:
        # a large negative number, not -inf: a prompt without any token must not give NaN
        scores = (places @ words.mT).masked_fill(~real, -1e9).softmax(dim=2)
        weights = (scores * sharpness).softmax(dim=1)
        found = weights.mT @ places  # N L D
        cosine = torch.nn.functional.cosine_similarity(found, words[None], dim=2, eps=1e-8)
        total = (cosine * word_scale).masked_fill(~real, -1e9).logsumexp(dim=1)
        return torch.where(real.any(), total, 0.0)

    # the tables of all pairs together would need N x M x P x L numbers
    columns = []
    with torch.autocast(places.device.type, enabled=False):
        images, tokens = places.float(), text_tokens.float()
        for words, real in zip(tokens, token_mask, strict=True):
            columns.append(
                checkpoint(
                    of_one_prompt,
                    images,
                    words,
                    real,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            )
    return torch.stack(columns, dim=1)


def cluster_target(text_similarity: Pairs, tau: float, rho: float) -> Pairs:
    """The soft labels of C2Seg (Eq. 1): rho x row-softmax(max(M - row mean, 0) / tau) + (1 - rho) x identity."""
    debiased = (text_similarity - text_similarity.mean(dim=1, keepdim=True)).clamp(min=0)
    identity = torch.eye(len(text_similarity), device=text_similarity.device)
    return rho * torch.softmax(debiased / tau, dim=1) + (1 - rho) * identity


def hard_target(text_similarity: Pairs, merge_equal: bool = False) -> Pairs:
    """One-to-one labels: the identity; with `merge_equal`, equal prompts (cosine 1) share the mass."""
    if not merge_equal:
        return torch.eye(len(text_similarity), device=text_similarity.device)
    same = (text_similarity > 1 - 1e-5).float()
    same.fill_diagonal_(1)
    return same / same.sum(dim=1, keepdim=True)


def jaccard_target(zones: ZoneBits) -> Pairs:
    """Soft positives of Semi-MedRef (Eq. 9): overlap of the named zones, intersection over union, rows to sum 1.

    Two prompts that name no place agree (0/0 = 1), and every image agrees with its own prompt.
    """
    bits = zones.float()
    both = bits @ bits.mT
    either = bits.sum(dim=1)[:, None] + bits.sum(dim=1)[None] - both
    affinity = torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))
    affinity.fill_diagonal_(1)
    return affinity / affinity.sum(dim=1, keepdim=True)


def target_entropy(target: Pairs) -> Float[Tensor, ""]:
    """Mean entropy of the target's rows in nats: 0 is one-to-one, log B is flat."""
    nats: Tensor = -torch.special.xlogy(target, target)
    return nats.sum(dim=1).mean()
