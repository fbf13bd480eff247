"""PosAug: the student reads sentences whose place is missing or vague; the teacher reads them as they are."""

from __future__ import annotations

from typing import Literal

import numpy as np

from textmask.data.loaders import build_text
from textmask.text.edit import blur_position, drop_position, paraphrase, reorder_clauses, typo
from textmask.types import Text

TextView = Literal["none", "posaug", "generic"]
PosAugMode = Literal["mix", "dropout", "fuzzing"]


def position_augmented(
    prompt: str, blank: str, p: float, mode: PosAugMode, rng: np.random.Generator
) -> str:
    """With probability p the places become `blank` (dropout) or "a region of the lung" (fuzzing); `mix` tosses a coin.

    Places are found by the parser: every style of caption, typos included. A sentence without a place stays.
    """
    if rng.random() >= p:
        return prompt
    drop = mode == "dropout" or (mode == "mix" and rng.random() < 0.5)
    return drop_position(prompt, blank) if drop else blur_position(prompt)


def generically_augmented(prompt: str, p: float, rng: np.random.Generator) -> str:
    """The paper's control TextStrong: other wording, order or spelling, whatever that does to the place."""
    if rng.random() >= p:
        return prompt
    return (paraphrase, reorder_clauses, typo)[int(rng.integers(3))](prompt, rng)


def text_view(
    text: Text, view: TextView, blank: str, p: float, mode: PosAugMode, rng: np.random.Generator
) -> Text:
    """The sentences that the student reads. Their statements stay: what is true of the picture is not what is said."""
    if view == "none":
        return text
    if view == "generic":
        prompts = [generically_augmented(prompt, p, rng) for prompt in text.prompts]
    else:
        prompts = [position_augmented(prompt, blank, p, mode, rng) for prompt in text.prompts]
    return build_text(prompts, text.statements) if prompts != list(text.prompts) else text
