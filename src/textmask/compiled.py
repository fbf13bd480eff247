"""Plain loops compiled to machine code by numba."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F, **options: Any) -> F:
    """Compile `function` at its first call; cache the machine code if a cache folder is writable.

    Args:
        function: plain loops over arrays; a wrapper of a type checker is removed.
        options: of `numba.njit`, e.g. fastmath=True, parallel=True.
    """
    from numba import njit  # slow to import, and not every import of the caller needs it

    loop = inspect.unwrap(function)
    try:
        return cast(F, njit(cache=True, nogil=True, **options)(loop))
    except RuntimeError:  # numba found neither a writable __pycache__ nor a writable user cache
        return cast(F, njit(nogil=True, **options)(loop))
