"""Exact t-SNE in NumPy, for a few hundred vectors."""

from __future__ import annotations

import numpy as np

from textmask.metrics.overlap import Floats

STEPS, EXAGGERATED = 500, 125
TINY = 1e-12


def tsne_plane(vectors: Floats, perplexity: float = 30.0) -> Floats:
    """Places in the plane whose neighbours are those of the vectors; the same for the same vectors.

    Starts from the principal components. Memory and time grow with the square of the number of vectors.

    Args:
        vectors: N D.
        perplexity: number of neighbours that count; at most a third of the vectors.

    Returns:
        N 2.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008, with the gains and the early
    exaggeration of their program.
    """
    n = len(vectors)
    if n < 4:
        return np.zeros((n, 2))
    p = _neighbours(_squared_distances(vectors), min(perplexity, (n - 1) / 3))

    # the start is small, so that all points can still pass each other
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    y = np.zeros((n, 2))
    kept = min(2, len(sizes))
    y[:, :kept] = left[:, :kept] * sizes[:kept]
    y *= 1e-4 / max(y[:, 0].std(), TINY)

    rate = max(n / 12, 50.0)
    velocity, gains = np.zeros_like(y), np.ones_like(y)
    for step in range(STEPS):
        kernel = 1 / (1 + _squared_distances(y))
        np.fill_diagonal(kernel, 0)
        q = np.maximum(kernel / kernel.sum(), TINY)
        force = ((12.0 if step < EXAGGERATED else 1.0) * p - q) * kernel
        gradient = 4 * (force.sum(1)[:, None] * y - force @ y)

        # a coordinate that keeps its direction takes larger steps
        same = (gradient > 0) == (velocity > 0)
        gains = np.maximum(np.where(same, gains * 0.8, gains + 0.2), 0.01)
        velocity = (0.5 if step < EXAGGERATED else 0.8) * velocity - rate * gains * gradient
        y = y + velocity
        y -= y.mean(0)
    return y


def _neighbours(squared: Floats, perplexity: float) -> Floats:
    """Symmetric probabilities N N that two vectors are neighbours; each row has the perplexity, by bisection."""
    n = len(squared)
    low, high = np.full(n, 1e-10), np.full(n, 1e10)
    off = ~np.eye(n, dtype=bool)
    p = np.zeros_like(squared)
    nearest = np.where(off, squared, np.inf).min(1, keepdims=True)
    for _ in range(60):
        precision = np.sqrt(low * high)
        p = np.where(off, np.exp(-(squared - nearest) * precision[:, None]), 0)
        p /= p.sum(1, keepdims=True)
        entropy = -(p * np.log(np.maximum(p, TINY))).sum(1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
    return np.maximum((p + p.T) / (2 * n), TINY)


def _squared_distances(vectors: Floats) -> Floats:
    lengths = (vectors**2).sum(1)
    squared: Floats = np.maximum(lengths[:, None] + lengths[None] - 2 * vectors @ vectors.T, 0)
    return squared
