"""Encode masks as uncompressed COCO run lengths."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt


class RunLengths(TypedDict):
    """Size (rows, columns), and lengths of runs column by column: background first, then foreground, and so on."""

    size: list[int]
    counts: list[int]


def run_lengths(mask: npt.NDArray[np.uint8]) -> RunLengths:
    """Encode a mask H W; every value but 0 is foreground."""
    flat = (mask > 0).ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    edges = np.concatenate(([0], changes, [flat.size]))
    return {"size": [int(n) for n in mask.shape], "counts": [int(n) for n in np.diff(edges)]}
