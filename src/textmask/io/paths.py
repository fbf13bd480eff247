"""Checks that paths in a manifest stay below its folder; links below it may lead anywhere."""

from __future__ import annotations

import re

# nearly all paths: no control character, backslash or colon, and no slash or space at the begin
ORDINARY = re.compile(r"[^\x00-\x20\x7f\\:/][^\x00-\x1f\x7f\\:]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
WINDOWS = re.compile(r"[A-Za-z]:|\\\\")


def path_problem(text: str) -> str | None:
    """Why `text` cannot be a path below a root, judged by the text alone; None if it can."""
    if ORDINARY.fullmatch(text) and ".." not in text:
        return None
    if not text.strip():
        return "is empty; write a path relative to the table's folder"
    if CONTROL.search(text):
        return f"{text!r} contains a NUL or control character; rename the file"
    if WINDOWS.match(text) or "://" in text:
        return f"{text!r} names a drive, a server or a URL; write a path relative to the table's folder"
    if "\\" in text:
        return f"{text!r} uses backslashes; write forward slashes"
    if text.startswith("/"):
        return f"{text!r} is absolute; write a path relative to the table's folder"
    if ".." in text.split("/"):
        return f"{text!r} climbs out with '..'; put the files below the table's folder"
    return None
