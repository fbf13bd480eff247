"""Access control of the service: host names, tokens, loopback addresses, and paths below the jobs folder."""

from __future__ import annotations

import hmac
import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from textmask.serve.problems import Problem


def is_loopback(host: str) -> bool:
    """Whether a listening address can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name in a Host header or an origin, without port, in lower case: "[::1]:8000" -> "::1"."""
    try:
        return urlsplit(header if "//" in header else f"//{header}").hostname or ""
    except ValueError:
        return ""


def same_token(got: str, expected: str) -> bool:
    """Constant-time comparison."""
    return hmac.compare_digest(got.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


def below(root: Path, text: str) -> Path:
    """Resolve a relative path below `root`, following symbolic links.

    Raises:
        Problem: 403 if the path is absolute, leaves `root`, or is not a valid path.
    """
    outside = Problem(
        403, "outside_jobs_root", "the path must be relative and stay inside the jobs folder."
    )
    if "\0" in text or "\\" in text or Path(text).is_absolute():
        raise outside
    try:
        base, path = root.resolve(), (root / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise outside from error
    if not path.is_relative_to(base):
        raise outside
    return path
