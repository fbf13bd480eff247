"""Arrays and tensors as pixels: which shapes and values are accepted, and what is black and what is white."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from textmask.errors import ConfigError, DataError
from textmask.io.images import without_equal_channels

ACCEPTED = (
    "a path, the bytes of a file, a Pillow image, a NumPy array (H W or H W 3: uint8; float in 0 to 1 or 0 to 255; "
    "any other number type with window=(low, high)) or a torch tensor (also 3 H W)"
)


def pixels_of_array(array: np.ndarray, window: Sequence[float] | None = None) -> np.ndarray:
    """An array as uint8 H W or H W 3.

    Floats up to 1 are fractions of white, floats up to 255 are gray values. Nothing is stretched by its own range,
    because two images would then mean different things.

    Raises:
        DataError: the shape, the type or the values are not accepted.
        ConfigError: not a window.
    """
    values = array
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)) or not values.size:
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3):
            hint = " Channels come last: image.transpose(1, 2, 0)."
        raise DataError(
            f"got an image of {array.dtype} with shape {array.shape}, expected uint8 H W or H W 3, or another number "
            f"type of that shape.{hint}"
        )
    if values.dtype == bool or values.dtype.kind not in "uif":
        raise DataError(f"got an image of {array.dtype}, expected {ACCEPTED}.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("the image contains NaN or infinite values. Replace them first.")

    if window is not None:
        low, high = _two_numbers(window)
        scaled = (values.astype(np.float64) - low) / (high - low)
        values = (scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif values.dtype != np.uint8:
        values = _plain_values(values)
    return np.ascontiguousarray(without_equal_channels(values))


def _plain_values(values: np.ndarray) -> np.ndarray:
    """Floats in 0 to 1 or 0 to 255 as uint8."""
    low, high = values.min(), values.max()
    if values.dtype.kind != "f" or low < 0 or high > 255:
        raise DataError(
            f"got an image of {values.dtype} with values {low:g} to {high:g}: which of them are black and white is "
            "unknown. State it: window=(low, high), for example window=(0, 65535) or a CT window (-160, 240)."
        )
    white = 1 if high <= 1 else 255
    return np.asarray(values.astype(np.float64) / white * 255 + 0.5, np.uint8)


def _two_numbers(window: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError):
        raise ConfigError(f"window is {window!r}, expected two numbers (low, high).") from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise ConfigError(
            f"window is {window!r}, expected two finite numbers, the lower one first."
        )
    return low, high


def channels_last(tensor: Tensor) -> np.ndarray:
    """A tensor H W, H W 3, C H W or 1 C H W as an array with the channels last."""
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()  # NumPy has no bf16
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    array: np.ndarray = values.numpy()
    # torch puts channels first; H W 3 is taken if only that fits
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
