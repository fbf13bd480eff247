"""Compiled loops work with and without a folder to keep them in."""

import functools

import numba
import numpy as np

from textmask.compiled import compiled


def total(x):
    found = 0.0
    for i in range(x.size):
        found += x[i]
    return found


def test_a_loop_gives_what_plain_python_gives():
    x = np.arange(5.0)
    assert compiled(total)(x) == total(x) == 10


def test_a_wrapped_function_is_compiled_bare():
    @functools.wraps(total)
    def checked(x):
        raise AssertionError("the wrapper ran")

    assert compiled(checked)(np.ones(3)) == 3


def test_a_loop_compiles_without_any_writable_cache(monkeypatch):
    seen = []

    def njit(**options):
        seen.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(total, fastmath=True) is total
    assert [bool(options.get("cache")) for options in seen] == [True, False]
    assert all(options["fastmath"] for options in seen)
