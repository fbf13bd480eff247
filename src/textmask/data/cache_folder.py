"""Where decoded images and what is known about masks are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Cache folder: `cache_dir`, or $TEXTMASK_CACHE, or `.cache/textmask` in the home folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(os.environ.get("TEXTMASK_CACHE") or Path.home() / ".cache" / "textmask")
