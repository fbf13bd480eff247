"""Convert stored numbers to 256 gray levels: by a window, or by the range of the pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from textmask.errors import DataError

LOW_HIGH = (0.1, 99.9)  # percentiles that become black and white
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
MOST = 1e30  # differences of two such numbers are still finite in single precision
SHORT = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int16))

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]
MAX_PIXELS = 100_000_000  # of an image or slice


@dataclass(frozen=True)
class Window:
    """Which values become black and white (DICOM PS3.3 C.11.2.1.2): center and width in the unit of the values."""

    center: float
    width: float
    function: str = "LINEAR"


def value_range(
    pixels: Pixels,
    where: str,
    valid: npt.NDArray[np.bool_] | None = None,
    *,
    most: int | None = None,
) -> tuple[float, float]:
    """The values that become black and white: 0.1th and 99.9th percentile, or minimum and maximum if these are equal.

    Args:
        pixels: any numbers.
        where: the file, for the error message.
        valid: True for pixels that count; None means all.
        most: numbers that are sorted; of more, every n-th counts for the percentiles. None sorts all.

    Raises:
        DataError: a pixel is NaN, infinite, or larger than 1e30.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise DataError(f"{where}: contains NaN or infinite pixels. Replace them before use.")
    if (
        pixels.dtype.kind == "f"
        and pixels.size
        and max(abs(float(pixels.min())), abs(float(pixels.max()))) > MOST
    ):
        raise DataError(
            f"{where}: contains values beyond {MOST:g}, expected pixel values. Check the data type."
        )

    values = pixels if valid is None else pixels[valid]
    if not values.size:
        return 0.0, 0.0
    ranked = values if most is None else values.reshape(-1)[:: -(-values.size // most)]
    low, high = (float(v) for v in np.percentile(ranked, LOW_HIGH))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def stretch(pixels: Pixels, low: float, high: float, inverted: bool = False) -> Bytes:
    """Map values from `low` to `high` to 0 to 255, or to 255 to 0 if inverted; all 0 if the two are equal."""
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    values = (pixels.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    levels = np.asarray(values.clip(0, 255).round(), np.uint8)
    return 255 - levels if inverted else levels


def apply_window(
    pixels: Pixels, window: Window, slope: float = 1.0, intercept: float = 0.0
) -> Bytes:
    """Rescale and window stored numbers to 0..255; equal to the formulas of the standard within one gray level.

    A window of a width below 1 (LINEAR) or of 0 is a step at its center.

    Args:
        pixels: stored numbers.
        window: center, width and function.
        slope: from stored numbers to the unit of the window.
        intercept: added after the slope.
    """
    if window.function == "SIGMOID":
        values = (pixels.astype(np.float64) * slope + (intercept - window.center)) * (
            -4.0 / max(window.width, 1e-6)
        )
        return np.asarray((255.0 / (1.0 + np.exp(values.clip(-700, 700)))).round(), np.uint8)

    linear = window.function == "LINEAR"
    center, width = (
        (window.center - 0.5, window.width - 1) if linear else (window.center, window.width)
    )
    if width <= 0:
        return np.where(pixels.astype(np.float64) * slope + intercept > center, 255, 0).astype(
            np.uint8
        )

    # one multiplication and one addition for rescaling and window together
    return _scaled(pixels, 255.0 * slope / width, 255.0 * ((intercept - center) / width + 0.5))


def _scaled(pixels: Pixels, factor: float, offset: float) -> Bytes:
    """`pixels * factor + offset`, rounded and cut to 0..255."""
    if pixels.dtype in SHORT and 0 < abs(factor) <= 0.5:
        return _scaled_gently(pixels, factor, offset)
    # the error of a float32 is far below one gray level unless the window is narrower than three numbers
    exact = pixels.dtype not in SHORT or abs(factor) >= 100
    values: npt.NDArray[np.floating[Any]] = pixels.astype(np.float64 if exact else np.float32)
    values *= factor
    values += offset
    return np.asarray(values.clip(0, 255, out=values).round(out=values), np.uint8)


def _scaled_gently(pixels: Pixels, factor: float, offset: float) -> Bytes:
    """`_scaled` in two passes of OpenCV, which takes the absolute value; negative results are therefore cut first.

    The first number that is cut differs from a black one by less than `factor`, at most half a gray level.
    """
    lowest, highest = np.iinfo(pixels.dtype).min, np.iinfo(pixels.dtype).max
    black = math.ceil(-offset / factor) if factor > 0 else math.floor(-offset / factor)
    if (factor > 0 and black > highest) or (factor < 0 and black < lowest):
        return np.zeros(pixels.shape, np.uint8)
    if lowest < black < highest:
        pixels = (cv2.max if factor > 0 else cv2.min)(pixels, float(black))
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=factor, beta=offset), np.uint8)
