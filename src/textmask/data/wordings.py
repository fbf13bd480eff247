"""Other wordings of training prompts: misspelled, shortened, reworded, as in a report, or denied; see `TextAugment`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from textmask.config import TextAugment
from textmask.text.edit import absent, deny
from textmask.text.grammar import parse
from textmask.text.noise import spoil

KINDS = tuple(TextAugment.model_fields)
AS_IT_IS = -1
# of each prompt and kind: frozen text encoders keep every distinct prompt
VARIANTS = 8
TYPOS = ("keyboard", "swap", "drop", "real_typos")
SENTENCES = ("extra", "negation")


@dataclass(frozen=True)
class Wording:
    """A prompt in other words.

    Attributes:
        prompt: the new words.
        is_empty: whether they deny the finding, so that the mask that belongs to them is empty.
    """

    prompt: str
    is_empty: bool = False


def draw_kinds(augment: TextAugment, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw what happens to each of N prompts: N 2, index in `KINDS` or `AS_IT_IS`, and number of the variant."""
    limits = np.cumsum(list(augment.shares.values()))
    kinds = np.searchsorted(limits, rng.random(n), side="right")
    kinds[kinds == len(KINDS)] = AS_IT_IS
    return np.stack([kinds, rng.integers(VARIANTS, size=n)], axis=1)


@lru_cache(maxsize=65536)
def reworded(prompt: str, kind: int, variant: int, is_name: bool = False) -> Wording:
    """A variant of a prompt, always the same for the same arguments; the prompt itself if the kind has no words for it.

    Args:
        prompt: any text.
        kind: index in `KINDS`, or `AS_IT_IS`.
        variant: number of the variant, from 0.
        is_name: the prompt is the name of a structure and not a finding, so that only typos keep its meaning.
    """
    name = KINDS[kind] if kind != AS_IT_IS else ""
    if not name or (is_name and name != "typo"):
        return Wording(prompt)

    rng = np.random.default_rng(
        [zlib.crc32(prompt.encode("utf-8", "surrogatepass")), kind, variant]
    )
    if name == "absent":
        denials = [text for text in (absent(prompt), deny(prompt)) if text]
        return Wording(str(rng.choice(denials)), True) if denials else Wording(prompt)
    if name == "typo":
        return Wording(spoil(prompt, str(rng.choice(TYPOS)), 1, rng) or prompt)

    # what the grammar cannot read back has changed its meaning
    text = prompt
    if name == "abbreviation":
        text = spoil(prompt, "abbreviation", int(rng.integers(1, 3)), rng) or prompt
    elif name == "paraphrase":
        text = spoil(prompt, "paraphrase", 1, rng) or prompt
    elif name == "report":
        text = spoil(prompt, "paraphrase", 2, rng) or prompt
        text = spoil(text, str(rng.choice(SENTENCES)), 1, rng) or text
    return Wording(text if parse(text).zones == parse(prompt).zones else prompt)
