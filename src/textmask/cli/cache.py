"""Commands on the cache of decoded images."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from textmask.cli.options import FullHelpGroup, print_table, say

cache_app = typer.Typer(
    cls=FullHelpGroup,
    help="Show and clear the cache of decoded images.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DAY = 86_400.0


@cache_app.command("ls")
def ls_command() -> None:
    """List what the cache holds, the longest unused first.

    Example: textmask cache ls
    """
    from textmask.data.cache_folder import (
        cache_entries,
        cache_folder,
        folder_bytes,
        size_limit,
        unpacked_folders,
    )

    entries = cache_entries()
    print_table(
        ["data", "split", "rows", "size", "last used"],
        [
            [
                entry.data,
                entry.split,
                str(entry.rows),
                _in_bytes(entry.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            ]
            for entry in entries
        ],
    )
    if folders := unpacked_folders():
        size = _in_bytes(sum(map(folder_bytes, folders)))
        say(f"unpacked shards: {len(folders)} data sets, {size}; the limit does not count them")
    limit = size_limit()
    bound = "no limit (set TEXTMASK_CACHE_LIMIT, e.g. 20G)" if limit is None else _in_bytes(limit)
    say(f"{cache_folder()}: {_in_bytes(sum(entry.size for entry in entries))}; limit: {bound}")


@cache_app.command("clear")
def clear_command(
    older_than: Annotated[
        float,
        typer.Option("--older-than", min=0.0, help="Only what was unused for so many days."),
    ] = 0.0,
) -> None:
    """Remove what the cache holds; it is built again when it is needed.

    Example: textmask cache clear --older-than 30
    """
    from textmask.data.cache_folder import cache_entries, remove_entries, remove_other_files

    now = time.time()
    old = [entry for entry in cache_entries() if now - entry.used >= older_than * DAY]
    freed = remove_entries(old) + remove_other_files(older_than=older_than * DAY)
    say(f"removed {len(old)} decoded splits, {_in_bytes(freed)}")


def _in_bytes(count: float) -> str:
    """A number of bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
