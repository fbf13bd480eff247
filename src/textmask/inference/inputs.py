"""Images as people have them in Python: a path, bytes, Pillow, NumPy or torch; each becomes a `LoadedImage`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from torch import Tensor

from textmask.errors import ConfigError, DataError
from textmask.io.arrays import ACCEPTED, channels_last, pixels_of_array
from textmask.io.images import image_of_pillow, is_pillow_image
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation
from textmask.io.read import load_image, read_bytes

# see `ACCEPTED`; Pillow's type is known in io.images only
ImageInput: TypeAlias = Any


def as_loaded_image(
    image: ImageInput, window: Sequence[float] | None = None, index: int | None = None
) -> LoadedImage:
    """Read an image of any accepted type. The orientation of pixels is unknown, that of a file is kept.

    Args:
        image: see `ACCEPTED`.
        window: of an array: the values that become black and white; values outside are clipped.
        index: of a file: slice of a volume or frame of a DICOM file.

    Raises:
        DataError: the type, the shape or the values are not accepted, or the file cannot be read.
        ConfigError: `window` or `index` does not apply to such an image, or is not a window.
    """
    is_array = isinstance(image, np.ndarray | Tensor)
    if window is not None and not is_array:
        raise ConfigError("window applies to arrays and tensors only; a file has its own range.")
    if index is not None and not isinstance(image, str | Path | bytes):
        raise ConfigError("index applies to files only; give the slice itself.")

    if isinstance(image, LoadedImage):
        return image
    if isinstance(image, str | Path):
        return load_image(image, index)
    if isinstance(image, bytes | bytearray | memoryview):
        found = read_bytes(bytes(image), "the image", index)
        if len(found) > 1:
            raise DataError(f"the file contains {len(found)} images, expected one. Give index.")
        return found[0]
    if is_pillow_image(image):
        return LoadedImage(image_of_pillow(image))
    if isinstance(image, Tensor):
        return LoadedImage(pixels_of_array(channels_last(image), window))
    if isinstance(image, np.ndarray):
        return LoadedImage(pixels_of_array(image, window))
    raise DataError(f"got an image of type {type(image).__name__}, expected {ACCEPTED}.")


def image_prompt_pairs(image: ImageInput, prompt: object) -> tuple[list[ImageInput], list[str]]:
    """Images and prompts as two lists of one length, or one image and any number of prompts.

    Raises:
        DataError: a prompt is not a text, or the lists differ in length.
    """
    several = isinstance(image, list | tuple)
    images = list(image) if several else [image]
    wanted = list(prompt) if isinstance(prompt, list | tuple) else [prompt] * len(images)
    prompts: list[str] = []
    for text in wanted:
        if not isinstance(text, str):
            raise DataError(
                f"got a prompt of type {type(text).__name__}, expected a text, or a list of texts: "
                'segment(image, "lower left lung").'
            )
        prompts.append(text)
    if several and len(images) != len(prompts):
        raise DataError(
            f"got {len(images)} images and {len(prompts)} prompts, expected one prompt per image, or one for all."
        )
    return images, prompts


def as_stored(
    plane: np.ndarray, size: tuple[int, int], orientation: Orientation | None
) -> np.ndarray:
    """A plane h w as the model sees the image, in the size and the geometry of the file.

    Args:
        plane: float32.
        size: rows and columns of the image in the usual view.
        orientation: of the file.
    """
    # first the size, then the orientation: it may swap rows and columns
    if plane.shape != size:
        resized = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
        plane = np.asarray(resized, np.float32)
    return plane if orientation is None else orientation.from_usual(plane)
