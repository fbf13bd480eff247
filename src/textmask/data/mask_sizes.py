"""Masks whose size is not that of their image: which of them may be fitted, and how."""

from __future__ import annotations

import numpy as np

from textmask.io.images import Bytes

Size = tuple[int, int]


def may_be_fitted(mask: Size, image: Size) -> bool:
    """Whether two sizes (rows, columns) differ by at most a pixel, or by one factor for rows and columns.

    A factor may be a pixel off, because the smaller size is rounded.
    """
    if abs(mask[0] - image[0]) <= 1 and abs(mask[1] - image[1]) <= 1:
        return True
    larger = max(mask, image, key=lambda size: size[0] * size[1])
    return abs(mask[0] * image[1] - mask[1] * image[0]) <= max(larger)


def fit_nearest(mask: Bytes, size: Size) -> Bytes:
    """Resize a mask: each pixel takes the value of the mask's pixel that its center lies in."""
    rows, columns = (
        (2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, mask.shape, strict=True)
    )
    return np.ascontiguousarray(mask[np.ix_(rows, columns)])
