"""The same images with other images' prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textmask.data.manifest import Row
from textmask.statement import Statement
from textmask.text.grammar import parse

BLOCK = 512  # positions that are counted together

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
    equal = rng.permutation(np.flatnonzero(claims[order] == claims))
    partners = _Partners(claims, claims[order], np.unique(claims[equal]))
    for i in equal.tolist():
        # an earlier exchange may have solved it already
        if partners.given[i] != claims[i]:
            continue
        count = partners.count(claims[i])
        if count:
            j = partners.find(claims[i], int(rng.integers(count)))
            order[i], order[j] = order[j], order[i]
            partners.exchange(i, j)
    return [data.prompts[i] for i in order], int((claims[order] == claims).sum())


class _Partners:
    """The positions that a position of some claim may exchange its prompt with: neither has the claim.

    Counted in blocks of positions, so that an exchange does not look at all of them.

    Attributes:
        own, given: N numbers, the claim of each position's own prompt and of the prompt that it has now.
        free: claim -> number of partners in each block of positions.
    """

    def __init__(self, own: np.ndarray, given: np.ndarray, claims: np.ndarray) -> None:
        self.own, self.given = own, given
        sizes = np.bincount(np.arange(len(own)) // BLOCK)
        self.free: dict[int, np.ndarray] = {}

        # the positions of each claim, found by sorting once
        members = [(np.argsort(column, kind="stable"), np.sort(column)) for column in (own, given)]
        for claim in claims.tolist():
            taken = [
                order[np.searchsorted(ordered, claim) : np.searchsorted(ordered, claim, "right")]
                for order, ordered in members
            ]
            blocks = np.union1d(*taken) // BLOCK
            self.free[claim] = sizes - np.bincount(blocks, minlength=len(sizes))

    def count(self, claim: int) -> int:
        """Number of partners of a position with this claim."""
        return int(self.free[claim].sum())

    def find(self, claim: int, number: int) -> int:
        """The partner of this number, counted in the order of positions."""
        before = np.cumsum(self.free[claim])
        block = int(np.searchsorted(before, number, "right"))
        start = block * BLOCK
        part = slice(start, start + BLOCK)
        inside = np.flatnonzero((self.own[part] != claim) & (self.given[part] != claim))
        return start + int(inside[number - int(before[block] - self.free[claim][block])])

    def exchange(self, i: int, j: int) -> None:
        """Exchange the prompts of a position that has its own claim and of its partner."""
        claim, other = int(self.given[i]), int(self.given[j])
        self.given[i], self.given[j] = other, claim

        # the partner now has the claim, and the position the claim that the partner had
        self.free[claim][j // BLOCK] -= 1
        if other in self.free:
            self.free[other][i // BLOCK] -= 1
            self.free[other][j // BLOCK] += self.own[j] != other


def _claim_numbers(data: SplitData) -> np.ndarray:
    """Numbers N, equal if two prompts name the same zones; without zones, if they are the same text."""
    # zones if there are any, or else the text itself
    pairs = zip(data.statements, data.prompts, strict=True)
    keys = [statement.bits() if statement.has_location else prompt for statement, prompt in pairs]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
