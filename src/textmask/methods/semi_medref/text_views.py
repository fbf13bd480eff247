"""PosAug: the student reads prompts with a missing or vague place; the teacher reads the original prompts."""

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
    """With probability p replace the places by `blank` (dropout) or "a region of the lung" (fuzzing); `mix`: either.

    The parser finds the places in every style of caption, typos included. A prompt without a place is not changed.
    """
    if rng.random() >= p:
        return prompt
    drop = mode == "dropout" or (mode == "mix" and rng.random() < 0.5)
    return drop_position(prompt, blank) if drop else blur_position(prompt)


def generically_augmented(prompt: str, p: float, rng: np.random.Generator) -> str:
    """The paper's baseline TextStrong: other wording, order or spelling, without regard to the place."""
    if rng.random() >= p:
        return prompt
    return (paraphrase, reorder_clauses, typo)[int(rng.integers(3))](prompt, rng)


def text_view(
    text: Text, view: TextView, blank: str, p: float, mode: PosAugMode, rng: np.random.Generator
) -> Text:
    """The prompts that the student reads. The statements stay: they describe the image, not the changed prompt."""
    if view == "none":
        return text
    if view == "generic":
        prompts = [generically_augmented(prompt, p, rng) for prompt in text.prompts]
    else:
        prompts = [position_augmented(prompt, blank, p, mode, rng) for prompt in text.prompts]
    return build_text(prompts, text.statements) if prompts != list(text.prompts) else text
