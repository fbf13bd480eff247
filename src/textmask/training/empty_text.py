"""Refuses to train a method that reads prompts on rows that have none."""

from __future__ import annotations

from textmask.config import Recipe
from textmask.data.manifest import Manifest
from textmask.errors import DataError
from textmask.methods.registry import get_method


def refuse_empty_text(recipe: Recipe, manifest: Manifest) -> None:
    """Check that a method that reads prompts has some.

    Raises:
        DataError: more than half of the train rows have no prompt.
    """
    rows = [row for row in manifest.rows if row.split == "train"]
    empty = sum(not row.text.strip() for row in rows)
    if 2 * empty <= len(rows) or not get_method(recipe.method).card.uses_text:
        return
    raise DataError(
        f"{empty} of {len(rows)} train rows have no prompt, but {recipe.method} reads prompts. Name the column of the "
        "prompts (--text-column), make prompts from the masks (textmask data describe), take a method that reads none "
        "(unet), or train without prompts on purpose: --allow-empty-text."
    )
