"""The errors textmask raises for what a caller can cause; the command line prints their message without a traceback."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TextMaskError(Exception):
    """Base of all errors a user can cause. The message says what, got, expected and what to do."""


class ConfigError(TextMaskError):
    """A recipe, a field, a method name or a command-line option is wrong."""


class DataError(TextMaskError):
    """A table, an image, a mask or a sentence cannot be used as it is."""


class LateralityError(DataError):
    """A sentence names a side, and it cannot be known which side of the picture that is."""


class CheckpointError(TextMaskError):
    """A run folder or weights file is missing, damaged, of another method, or not safetensors."""


class WeightsError(TextMaskError):
    """Published pre-trained weights are missing or not the ones expected (sha256)."""


class PacsError(TextMaskError):
    """A PACS refuses, or answers what is not DICOMweb, or more than is taken from it."""


class PacsDownError(PacsError):
    """A PACS does not answer now and may later."""


class TextMaskWarning(UserWarning):
    """Base of the named warnings; each carries on with what it has."""


class PromptWarning(TextMaskWarning):
    """A sentence is contradictory, empty, truncated, or not understood by the grammar."""


_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected_prompt_warnings", default=None)


def warn_prompt(message: str, stacklevel: int = 1) -> None:
    """Warn of a sentence (`PromptWarning`), or tell whoever collects them."""
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(message)
    else:
        warnings.warn(message, PromptWarning, stacklevel=stacklevel + 1)


@contextmanager
def collected_prompt_warnings() -> Iterator[list[str]]:
    """Collect what `warn_prompt` says in this thread; a filter of Python's warnings would hold for all threads."""
    messages: list[str] = []
    token = _COLLECTED.set(messages)
    try:
        yield messages
    finally:
        _COLLECTED.reset(token)


class DataWarning(TextMaskWarning):
    """A data set is readable but suspicious (empty masks, leakage, side words that contradict the masks)."""


def choose(what: str, got: str, valid: list[str] | tuple[str, ...]) -> str:
    """Return `got` when it is one of `valid`.

    Raises:
        ConfigError: naming the closest valid name and listing all of them.
    """
    if got in valid:
        return got
    from difflib import get_close_matches

    close = get_close_matches(got, valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"unknown {what} {got!r}.{hint} Valid: {', '.join(valid)}.")
