"""Image corruptions: low-dose noise, motion blur, contrast, gamma, lost resolution, burned-in text.

Applied after resizing and before normalization (BiCLIP, robustness tests); masks and prompts stay as they are.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textmask.compiled import compiled
from textmask.errors import ConfigError, DataError, choose
from textmask.types import Image

# counts; above it the Cornish-Fisher form has Poisson's mean, variance and skewness
EXACT_BELOW = 20.0
# none names a side
MARKERS = ("AP", "PA", "PORTABLE", "SUPINE", "ERECT", "WARD 7", "10:42", "110 kV")
BLOCK = 4096


def low_dose(image: Image, dose: float, generator: torch.Generator, *, scale: float = 1.0) -> Image:
    """Add photon noise: y = Poisson(x * dose * scale) / (dose * scale), clipped to [0, 1].

    The paper does not define the scale of its "dose", so `scale` is a parameter and its figures are not reproduced.
    Expected counts below 20 are drawn exactly (inversion), larger ones as a rounded Cornish-Fisher expansion. The three
    equal channels of a gray image get the same noise.

    Args:
        image: B C H W in [0, 1].
        dose: expected count at x = 1 when `scale` is 1; lower is noisier.
        generator: source of the noise, on the CPU.
        scale: factor on the dose.

    Raises:
        ConfigError: `dose * scale` is not a positive number.
    """
    counts = float(dose * scale)
    if not (counts > 0 and math.isfinite(counts)):
        raise ConfigError(
            f"low_dose: got dose {dose} and scale {scale}, expected a positive product."
        )
    if _is_gray(image):
        return low_dose(image[:, :1], dose, generator, scale=scale).expand_as(image).contiguous()

    # the compiled loop works in place on floats of the CPU
    pixels = image.detach().to("cpu", torch.float32).contiguous()
    noisy = torch.randn(pixels.shape, generator=generator)
    _fast(_poisson)(pixels.view(-1).numpy(), noisy.view(-1).numpy(), counts)
    return noisy.to(image.device, image.dtype)


def line_kernel(kernel_px: int, angle_deg: float = 0.0) -> Tensor:
    """Weights (k x k) of a straight motion, sum 1.

    Args:
        kernel_px: length k of the motion, odd; 1 means no motion.
        angle_deg: direction, counter-clockwise from horizontal.

    Raises:
        ConfigError: `kernel_px` is even or below 1.
    """
    if not (kernel_px >= 1 and kernel_px % 2 == 1):  # also refuses NaN
        raise ConfigError(
            f"motion_blur: got a kernel of {kernel_px} px, expected an odd whole number such as 3, 5 or 7."
        )

    half = int(kernel_px) // 2
    along = np.arange(-half, half + 1)
    columns = along * math.cos(math.radians(angle_deg))
    rows = -along * math.sin(math.radians(angle_deg))
    grid = np.arange(-half, half + 1)

    # each of the k positions is shared among its four neighbors, so that every angle keeps center and sum
    near_row = np.clip(1 - np.abs(rows[:, None] - grid), 0, None)
    near_column = np.clip(1 - np.abs(columns[:, None] - grid), 0, None)
    weights = near_row.T @ near_column
    return torch.from_numpy((weights / weights.sum()).astype(np.float32))


def motion_blur(image: Image, kernel_px: int, angle_deg: float | Sequence[float] = 0.0) -> Image:
    """Blur along a line, edges reflected.

    Args:
        image: B C H W.
        kernel_px: length of the motion, odd, at most the shorter side of the image.
        angle_deg: one direction for all, or B of them; counter-clockwise from horizontal.

    Raises:
        ConfigError: an even or too long kernel, or not B angles.
    """
    b, c, h, w = image.shape
    angles = (
        [float(angle_deg)] * b
        if isinstance(angle_deg, int | float)
        else [float(a) for a in angle_deg]
    )
    if len(angles) != b:
        raise ConfigError(
            f"motion_blur: got {len(angles)} angles for {b} images, expected one for all or one each."
        )

    if kernel_px > min(h, w):
        raise ConfigError(
            f"motion_blur: a kernel of {kernel_px} px is longer than the {h} x {w} image."
        )

    kernels = {angle: line_kernel(kernel_px, angle).numpy() for angle in set(angles)}
    half = int(kernel_px) // 2
    pixels = image.detach().to("cpu", torch.float32)
    padded = F.pad(pixels.reshape(1, b * c, h, w), (half,) * 4, mode="reflect")[0].view(
        b, c, h + 2 * half, w + 2 * half
    )

    # a line has few non-zero weights: add shifted images instead of a full convolution
    blurred = torch.empty(b, c, h, w)
    for i, angle in enumerate(angles):
        rows, columns = np.nonzero(kernels[angle])
        weights = kernels[angle][rows, columns]
        _fast(_shift_and_add)(padded[i].numpy(), rows, columns, weights, blurred[i].numpy())
    return blurred.to(image.device, image.dtype)


def contrast(image: Image, factor: float) -> Image:
    """Pull every pixel toward the mean of its image (factor < 1) or away from it."""
    if not 0 <= factor < math.inf:
        raise ConfigError(f"contrast: got a factor of {factor}, expected a number of 0 or more.")
    mean = image.mean((1, 2, 3), keepdim=True)
    return ((image - mean) * factor + mean).clamp(0, 1)


def gamma(image: Image, exponent: float) -> Image:
    """Raise to a power, y = x ** exponent: above 1 darker, below 1 brighter."""
    if not 0 < exponent < math.inf:
        raise ConfigError(f"gamma: got an exponent of {exponent}, expected a positive number.")
    return image.pow(exponent)


def downsample(image: Image, factor: float) -> Image:
    """Average down by `factor` and interpolate back to the same size."""
    h, w = image.shape[-2:]
    small = (round(h / factor), round(w / factor)) if factor >= 1 else (0, 0)
    if min(small) < 1:
        raise ConfigError(
            f"downsample: got a factor of {factor}, expected 1 to {min(h, w)} for {h} x {w}."
        )
    # area averaging, as a coarser detector would
    reduced = F.interpolate(image, size=small, mode="area")
    return F.interpolate(reduced, size=(h, w), mode="bilinear", align_corners=False)


def burned_text(image: Image, height: float, generator: torch.Generator) -> Image:
    """Write a marker that says nothing about the finding into a corner of each image.

    Args:
        image: B C H W in [0, 1].
        height: height of the letters as a share of H.
        generator: chooses marker and corner.

    Raises:
        ConfigError: `height` is not in (0, 0.5].
    """
    if not 0 < height <= 0.5:
        raise ConfigError(
            f"burned_text: got letters of {height} of the height, expected more than 0 and at most 0.5."
        )
    h, w = image.shape[-2:]
    inks = np.stack(
        [_marker((h, w), height, *draw.tolist()) for draw in _draws(len(image), generator)]
    )
    return torch.maximum(image, torch.from_numpy(inks)[:, None].to(image))


@dataclass(frozen=True)
class Corruption:
    """One kind of damage to an image.

    Attributes:
        apply: (image, severity, generator) -> image; deterministic ones ignore the generator.
        severities: default values, mild to strong.
        meaning: what the severity means, with its unit.
    """

    apply: Callable[[Tensor, Any, torch.Generator], Tensor]
    severities: tuple[float, ...]
    meaning: str


CORRUPTIONS: dict[str, Corruption] = {
    "low_dose": Corruption(low_dose, (140, 120, 110), "expected photon count at full brightness"),
    "motion_blur": Corruption(
        lambda x, v, _: motion_blur(x, v), (3, 5, 7), "length of the horizontal motion in px"
    ),
    "contrast": Corruption(
        lambda x, v, _: contrast(x, v), (0.75, 0.5, 0.3), "factor on the distance to the mean"
    ),
    "gamma": Corruption(lambda x, v, _: gamma(x, v), (1.25, 1.6, 2.2), "exponent"),
    "downsample": Corruption(
        lambda x, v, _: downsample(x, v), (2, 3, 4), "factor on the pixel size"
    ),
    "burned_text": Corruption(
        burned_text, (0.04, 0.08, 0.12), "height of the letters, share of the image's"
    ),
}
# the conditions of BiCLIP, Table 3
BICLIP_TABLE_3 = tuple(
    [("low_dose", dose) for dose in CORRUPTIONS["low_dose"].severities]
    + [("motion_blur", kernel_px) for kernel_px in CORRUPTIONS["motion_blur"].severities]
)


def corrupt(
    image: Image, name: str, severity: float, generator: torch.Generator | Sequence[torch.Generator]
) -> Image:
    """A damaged copy of `image`; masks and prompts stay as they are.

    Args:
        image: B C H W in [0, 1], float.
        name: a key of `CORRUPTIONS`.
        severity: in the unit of that corruption, e.g. 140 for low_dose or 5 for motion_blur.
        generator: one for the batch, or one per image (`image_generators`), so that the damage to an image
            does not depend on its batch.

    Raises:
        ConfigError: the name is unknown, the severity is impossible, or there is not one generator per image.
        DataError: the image is not a float B C H W in [0, 1].
    """
    corruption = CORRUPTIONS[choose("corruption", name, list(CORRUPTIONS))]
    _check_image(image)
    if isinstance(generator, torch.Generator):
        return corruption.apply(image, severity, generator)
    if len(generator) != len(image):
        raise ConfigError(
            f"corrupt: got {len(generator)} generators for {len(image)} images, expected one each."
        )
    return torch.cat(
        [corruption.apply(image[i : i + 1], severity, g) for i, g in enumerate(generator)]
    )


def image_generators(keys: Sequence[str], seed: int) -> list[torch.Generator]:
    """One generator per image, seeded only by its key and `seed`."""
    # torch's CPU generator takes 32 bits of a seed
    return [torch.Generator().manual_seed(zlib.crc32(f"{seed} {key}".encode())) for key in keys]


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.numel() == 0 or not image.is_floating_point():
        raise DataError(
            f"corrupt: got {image.dtype} of shape {tuple(image.shape)}, expected a float B C H W."
        )
    low, high = float(image.amin()), float(image.amax())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"corrupt: got pixels from {low:g} to {high:g}, expected 0 to 1; scale before, normalize after."
        )


def _is_gray(image: Tensor) -> bool:
    return image.shape[1] == 3 and bool((image[:, 1:] == image[:, :1]).all())


def _draws(b: int, generator: torch.Generator) -> Tensor:
    """B 3: marker, right edge or left, bottom or top."""
    return torch.stack(
        [torch.randint(0, n, (b,), generator=generator) for n in (len(MARKERS), 2, 2)], 1
    )


def _marker(
    size: tuple[int, int], height: float, marker: int, right: int, bottom: int
) -> np.ndarray[Any, Any]:
    """One word in one corner, H W in [0, 1]; smaller than `height` if it would not fit."""
    (h, w), font = size, cv2.FONT_HERSHEY_SIMPLEX
    margin = max(1, round(0.02 * h))
    (wide, tall), _ = cv2.getTextSize(MARKERS[marker], font, 1.0, 1)
    # the largest scale that fits the image
    scale = min(height * h / tall, (w - 2 * margin) / wide)
    thick = max(1, round(2 * scale))
    columns, rows = round(wide * scale), round(tall * scale)
    place = (w - margin - columns if right else margin, h - margin if bottom else margin + rows)
    ink = np.zeros((h, w), np.uint8)
    cv2.putText(ink, MARKERS[marker], place, font, scale, 255, thick, cv2.LINE_AA)
    return ink.astype(np.float32) / 255


@cache
def _fast(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop at its first use."""
    return compiled(loop, fastmath=True)


def _shift_and_add(padded: Any, rows: Any, columns: Any, weights: Any, out: Any) -> None:
    """Fill `out` C H W with the weighted sum of shifted images; a row of sums stays in the first-level cache."""
    for c in range(out.shape[0]):
        for y in range(out.shape[1]):
            line = out[c, y]
            line[:] = 0
            for tap in range(weights.size):
                source = padded[c, y + rows[tap], columns[tap] : columns[tap] + line.size]
                weight = weights[tap]
                for x in range(line.size):
                    line[x] += weight * source[x]


def _poisson(x: Any, z: Any, counts: float) -> None:
    """Turn standard normal `z` into Poisson(x * counts) / counts in place, clipped to [0, 1]."""
    scale, inverse, exact = np.float32(counts), np.float32(1 / counts), np.float32(EXACT_BELOW)
    zero, half, one, sixth = np.float32(0), np.float32(0.5), np.float32(1), np.float32(1 / 6)
    place, normal = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.float32)
    reciprocal = (1.0 / np.arange(1, 201)).astype(np.float32)
    for start in range(0, x.size, BLOCK):  # fits into the first-level cache
        means, out = x[start : start + BLOCK], z[start : start + BLOCK]
        few = 0
        for i in range(means.size):
            place[few], normal[few] = i, out[i]
            few += means[i] * scale < exact

        for i in range(means.size):  # no branch, so that it is vectorized
            mean, a = means[i] * scale, out[i]
            count = np.floor(mean + np.sqrt(mean) * a + (a * a - one) * sixth + half)
            out[i] = min(max(count * inverse, zero), one)
        # inversion: the smallest k with a cumulative probability of at least Phi(normal)
        for j in range(few):
            mean = means[place[j]] * scale
            level = half * math.erfc(normal[j] * np.float32(-0.70710678))
            term = math.exp(-mean)
            total, k = term, 0
            while total < level and k < 200:
                term *= mean * reciprocal[k]
                total += term
                k += 1
            out[place[j]] = min(np.float32(k) * inverse, one)
