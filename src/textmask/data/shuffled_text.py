"""The same images with other images' prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textmask.data.manifest import Row
from textmask.statement import Statement
from textmask.text.grammar import parse

if TYPE_CHECKING:
    from textmask.data.loaders import SplitData


def read_prompts(prompts: Sequence[str], rows: Sequence[Row]) -> tuple[Statement, ...]:
    """Parse N prompts, each with the laterality convention of the row it is given to."""
    return tuple(
        parse(prompt, row.grammar, row.laterality)
        for prompt, row in zip(prompts, rows, strict=True)
    )


def shuffled_prompts(data: SplitData, seed: int) -> tuple[list[str], int]:
    """Give every image the prompt of another image, one that names other zones if the data allow it.

    The prompts are permuted at random. Then each position whose new prompt claims the same as its own is exchanged
    with a random position such that both claim something else afterwards. This leaves the smallest possible number of
    positions with an equal claim (0 unless one claim makes up more than half of the split).

    Args:
        data: N rows.
        seed: of the permutation.

    Returns:
        The N prompts, and the number of positions whose prompt still claims the same.
    """
    rng = np.random.default_rng([seed, 0x5FF1E])
    claims = _claim_numbers(data)
    order = rng.permutation(len(data))

    # exchange the positions that the permutation left with an equal claim
    for i in rng.permutation(np.flatnonzero(claims[order] == claims)):
        if claims[order[i]] == claims[i]:  # an earlier exchange may have solved it already
            partners = np.flatnonzero((claims[order] != claims[i]) & (claims != claims[order[i]]))
            if len(partners):
                j = rng.choice(partners)
                order[i], order[j] = order[j], order[i]
    return [data.prompts[i] for i in order], int((claims[order] == claims).sum())


def _claim_numbers(data: SplitData) -> np.ndarray:
    """Numbers N, equal if two prompts name the same zones; without zones, if they are the same text."""
    # zones if there are any, or else the text itself
    pairs = zip(data.statements, data.prompts, strict=True)
    keys = [statement.bits() if statement.has_location else prompt for statement, prompt in pairs]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
