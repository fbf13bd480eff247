"""Characters that can hide what a prompt says."""

from __future__ import annotations

import unicodedata

RIGHT_TO_LEFT = {"R", "AL", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI", "PDF", "PDI"}


def has_hidden_characters(text: str) -> bool:
    """Whether a prompt has control or right-to-left characters."""
    if text.isascii() and text.isprintable():
        return False
    return any(
        unicodedata.bidirectional(letter) in RIGHT_TO_LEFT
        or (unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\t\r\n")
        for letter in text
    )
