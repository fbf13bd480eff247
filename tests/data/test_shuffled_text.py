"""Shuffled prompts are those of the slow, literal rule, seed by seed."""

from types import SimpleNamespace

import numpy as np
import pytest

from textmask.data import shuffled_text
from textmask.data.shuffled_text import shuffled_prompts
from textmask.text.grammar import parse


class Split(SimpleNamespace):
    def __len__(self):
        return len(self.prompts)


def literal(prompts, statements, seed):
    """Every exchange looks at all positions for its partners."""
    rng = np.random.default_rng([seed, 0x5FF1E])
    keys = [s.bits() if s.has_location else p for s, p in zip(statements, prompts, strict=True)]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    claims = np.array([numbers[key] for key in keys], np.int64)
    order = rng.permutation(len(prompts))
    for i in rng.permutation(np.flatnonzero(claims[order] == claims)):
        if claims[order[i]] == claims[i]:
            partners = np.flatnonzero((claims[order] != claims[i]) & (claims != claims[order[i]]))
            if len(partners):
                j = rng.choice(partners)
                order[i], order[j] = order[j], order[i]
    return [prompts[i] for i in order], int((claims[order] == claims).sum())


@pytest.mark.parametrize("block", [3, 512])
@pytest.mark.parametrize("seed", range(12))
def test_the_prompts_are_those_of_the_literal_rule(monkeypatch, block, seed):
    monkeypatch.setattr(shuffled_text, "BLOCK", block)
    rng = np.random.default_rng(seed)
    places = [
        "upper left lung",
        "lower left lung",
        "lower right lung",
        "polyp",
        "small polyp",
        "",
        "left lung",
    ]
    for n in (1, 2, 3, 40, 300, 1300):
        # from few claims, of which one may fill more than a half, to many
        weights = rng.dirichlet(np.full(len(places), rng.choice([0.3, 5.0])))
        prompts = tuple(rng.choice(places, n, p=weights).tolist())
        if seed % 3 == 0:
            prompts = tuple(f"{text} {i % (1 + n // 2)}" for i, text in enumerate(prompts))
        statements = tuple(parse(text) for text in prompts)
        data = Split(prompts=prompts, statements=statements)
        assert shuffled_prompts(data, seed) == literal(prompts, statements, seed)
