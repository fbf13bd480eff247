"""Manifests, checks, transforms, loaders, facts about published data sets and synthetic images; `from_rows`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textmask.data.in_code import from_rows as from_rows


def __getattr__(name: str) -> Any:
    # imported when it is used, because it needs torch
    if name == "from_rows":
        from textmask.data.in_code import from_rows

        return from_rows
    raise AttributeError(f"module 'textmask.data' has no attribute {name!r}")
