"""The errors textmask raises for what a caller can cause; the command line prints their message without a traceback."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TextMaskError(Exception):
    """Base of all errors a user can cause. The message says what is wrong, found and expected, and what to do."""


class ConfigError(TextMaskError):
    """A recipe, a field, a method name or a command-line option is wrong."""


class DataError(TextMaskError):
    """A manifest, an image, a mask or a prompt cannot be used as it is."""


class LateralityError(DataError):
    """A prompt names a side, and it is unknown which side of the image that is."""


class DomainError(DataError):
    """An image is of a kind that the model does not know."""


class CheckpointError(TextMaskError):
    """A run folder or weights file is missing, damaged, not safetensors, or belongs to another method."""


class WeightsError(TextMaskError):
    """Published pre-trained weights are missing, or are not the expected ones (sha256)."""


class BusyError(TextMaskError):
    """Another process writes the same folder now."""


class PacsError(TextMaskError):
    """A PACS refuses a request, or its response is not DICOMweb or is too large."""


class PacsDownError(PacsError):
    """A PACS does not respond now and may respond later."""


class PacsAccessError(ConfigError):
    """A PACS refuses the credentials, in general or for one of its objects."""


class TextMaskWarning(UserWarning):
    """Base of the warnings; work continues after each of them."""


class PromptWarning(TextMaskWarning):
    """A prompt is contradictory, empty, truncated, or not understood by the grammar."""


_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected_prompt_warnings", default=None)


def warn_prompt(message: str, stacklevel: int = 1) -> None:
    """Warn about a prompt with a `PromptWarning`, or add it to the collected warnings of this thread."""
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(message)
    else:
        warnings.warn(message, PromptWarning, stacklevel=stacklevel + 1)


@contextmanager
def collected_prompt_warnings() -> Iterator[list[str]]:
    """Collect the messages of `warn_prompt` in this thread. A filter of Python's warnings would affect all threads."""
    messages: list[str] = []
    token = _COLLECTED.set(messages)
    try:
        yield messages
    finally:
        _COLLECTED.reset(token)


class DataWarning(TextMaskWarning):
    """A data set is readable but suspicious (empty masks, leakage, side words that contradict the masks)."""


def choose(what: str, got: str, valid: list[str] | tuple[str, ...]) -> str:
    """Return `got` if it is one of `valid`.

    Raises:
        ConfigError: naming the closest valid name and listing all of them.
    """
    if got in valid:
        return got
    from difflib import get_close_matches

    close = get_close_matches(got, valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"unknown {what} {got!r}.{hint} Valid: {', '.join(valid)}.")
