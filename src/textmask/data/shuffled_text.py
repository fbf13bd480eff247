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
    """What N sentences claim, each read with the convention of the row it is given to."""
    return tuple(
        parse(prompt, laterality=row.laterality) for prompt, row in zip(prompts, rows, strict=True)
    )


def shuffled_prompts(data: SplitData, seed: int) -> tuple[list[str], int]:
    """Every picture gets another picture's sentence, one that names other zones wherever the data allow it.

    A seeded random permutation; then each position whose new sentence claims the same as its own changes places with a
    random position for which neither of the two claims the same afterwards. That reaches the smallest possible number
    of positions left (0 unless one claim makes up more than half of the split).

    Returns:
        The N sentences, and how many positions still hold a sentence that claims the same.
    """
    rng = np.random.default_rng([seed, 0x5FF1E])
    claims = _claim_numbers(data)
    order = rng.permutation(len(data))
    for i in rng.permutation(np.flatnonzero(claims[order] == claims)):
        if claims[order[i]] == claims[i]:  # an earlier exchange may have helped already
            partners = np.flatnonzero((claims[order] != claims[i]) & (claims != claims[order[i]]))
            if len(partners):
                j = rng.choice(partners)
                order[i], order[j] = order[j], order[i]
    return [data.prompts[i] for i in order], int((claims[order] == claims).sum())


def _claim_numbers(data: SplitData) -> np.ndarray:
    """N numbers, equal where two sentences name the same zones, or are the same sentence where no zone is named."""
    pairs = zip(data.statements, data.prompts, strict=True)
    keys = [statement.bits() if statement.has_location else prompt for statement, prompt in pairs]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
