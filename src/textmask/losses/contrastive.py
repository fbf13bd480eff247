"""Contrast of images with prompts as the fit of a distribution; the methods differ only in the target."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from textmask.types import Embedding, ZoneBits

Pairs = Float[Tensor, "b b"]  # row: image i, column: prompt j


def cosine_similarity_matrix(a: Embedding, b: Embedding) -> Float[Tensor, "_n _m"]:
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
