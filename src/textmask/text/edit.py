"""Sentences rewritten so that they stay true."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=65536)
def mirror(prompt: str) -> str | None:
    """The sentence that is true after a horizontal flip; None when it cannot be rewritten."""
    swap = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda m: swap[m.group()], prompt)
