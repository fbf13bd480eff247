"""Paired transforms: parameters are sampled once, then applied to image, mask and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from textmask.config import Augment
from textmask.data.corruptions import line_kernel
from textmask.statement import Statement
from textmask.text.edit import mirror
from textmask.types import Image, send

cv2.setNumThreads(0)


@dataclass(frozen=True)
class Geometry:
    """Parameters of the transform of each sample, the same for image, mask and prompt.

    Attributes:
        matrices: N 2 3, output pixel (x, y, 1) -> input pixel; flip and crop are folded in.
        flipped: N booleans; only samples with a prompt that can be mirrored are flipped.
        gamma, brightness, contrast: N photometric factors of the image, neutral 1, 0, 1.
    """

    matrices: np.ndarray
    flipped: np.ndarray
    gamma: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray

    @classmethod
    def still(cls, n: int) -> Geometry:
        """Parameters that leave N samples unchanged."""
        matrices = np.tile(np.eye(2, 3), (n, 1, 1))
        return cls(matrices, np.zeros(n, bool), np.ones(n), np.zeros(n), np.ones(n))

    def slice(self, part: slice) -> Geometry:
        """The parameters of some samples of the batch."""
        return Geometry(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


def sample_affine(
    n: int, augment: Augment, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Sample N matrices 2 x 3, output pixel -> input pixel: rotation and scale about the center, then a shift."""
    rows, columns = size
    # drawn for the whole batch at once
    angle = np.deg2rad(rng.uniform(-augment.rotate_deg, augment.rotate_deg, n))
    scale = rng.uniform(*augment.scale, n)
    shift = rng.uniform(-augment.translate, augment.translate, (n, 2)) * np.array([columns, rows])
    if augment.p < 1:
        kept = rng.random(n) >= augment.p
        angle[kept], scale[kept], shift[kept] = 0, 1, 0
    center = np.array([(columns - 1) / 2, (rows - 1) / 2])
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    # the inverse transform: where each output pixel comes from
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    offset = center - np.einsum("nij,nj->ni", linear, center + shift)
    return np.concatenate([linear, offset[:, :, None]], 2)


def make_params(
    prompts: tuple[str, ...],
    augment: Augment,
    size: tuple[int, int],
    rng: np.random.Generator,
    further: Sequence[tuple[str, ...]] = (),
) -> Geometry:
    """Sample the parameters of a batch; a sample is not flipped if one of its prompts cannot be mirrored.

    Args:
        prompts: N prompts.
        augment: ranges and probabilities.
        size: rows and columns of the result.
        rng: draws the parameters.
        further: N more prompts for the same images, any number of times.
    """
    n = len(prompts)
    matrices = sample_affine(n, augment, size, rng)
    wanted = rng.random(n) < augment.flip
    flipped = np.zeros(n, dtype=bool)
    for i, of_image in enumerate(zip(prompts, *further, strict=True)):
        flipped[i] = wanted[i] and all(mirror(prompt) is not None for prompt in of_image)

    # mirror the output columns
    matrices[flipped, 0] = matrices[flipped, 0] * -1 + np.array([0, 0, size[1] - 1])

    gamma = rng.uniform(*augment.gamma, n)
    brightness = rng.uniform(-augment.brightness, augment.brightness, n)
    contrast = rng.uniform(1 - augment.contrast, 1 + augment.contrast, n)
    return Geometry(matrices, flipped, gamma, brightness, contrast)


def random_crops(
    geometry: Geometry, size: tuple[int, int], tile: tuple[int, int], rng: np.random.Generator
) -> Geometry:
    """Move the parameters of tiles to random places of their images, uniformly distributed.

    Args:
        geometry: made for images of the size of a tile.
        size: rows and columns of the images; a tile that is larger starts at the first row or column.
        tile: rows and columns of a tile.
        rng: draws the places.
    """
    n = len(geometry.matrices)
    rows, columns = (
        rng.integers(max(whole - part, 0) + 1, size=n)
        for whole, part in zip(size, tile, strict=True)
    )
    # a shift of the input coordinates
    matrices = geometry.matrices.copy()
    matrices[:, :, 2] += np.stack([columns, rows], 1)
    return replace(geometry, matrices=matrices)


def apply_image(
    images: Sequence[np.ndarray] | np.ndarray,
    geometry: Geometry,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Images uint8 N C H W -> warped uint8 N C h w (bilinear, black outside), then gamma, contrast, brightness.

    `size` is (h, w); None means (H, W).
    """
    channels, *whole = images[0].shape
    out = np.empty((len(images), channels, *(size or whole)), np.uint8)
    for i, image in enumerate(images):
        table = _tone(geometry, i)
        for channel in range(channels):
            warped = _warp(image[channel], geometry.matrices[i], cv2.INTER_LINEAR, size)
            out[i, channel] = warped if table is None else cv2.LUT(warped, table)
    return out


def apply_mask(
    masks: Sequence[np.ndarray] | np.ndarray,
    geometry: Geometry,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Masks uint8 N H W -> N h w, warped by the same matrices (nearest)."""
    return np.stack(
        [
            _warp(m, a, cv2.INTER_NEAREST, size)
            for m, a in zip(masks, geometry.matrices, strict=True)
        ]
    )


def apply_prompt(prompt: str, statement: Statement, flipped: bool) -> tuple[str, Statement]:
    """The prompt and statement that are true of the transformed image."""
    if not flipped:
        return prompt, statement
    return mirror(prompt) or prompt, statement.mirrored()


def _warp(
    plane: np.ndarray, matrix: np.ndarray, interpolation: int, size: tuple[int, int] | None
) -> np.ndarray:
    rows, columns = plane.shape if size is None else size
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(plane, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    )


def _tone(geometry: Geometry, i: int) -> np.ndarray | None:
    """Lookup table (256) of gamma, contrast and brightness; None if they are neutral."""
    gamma, brightness, contrast = geometry.gamma[i], geometry.brightness[i], geometry.contrast[i]
    if gamma == 1 and brightness == 0 and contrast == 1:
        return None
    # one lookup per pixel instead of three operations
    x = np.linspace(0, 1, 256) ** gamma
    table = np.clip(((x - 0.5) * contrast + 0.5 + brightness) * 255 + 0.5, 0, 255)
    return np.asarray(table, np.uint8)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of a tensor; the meta device has none."""
    if x.device.type == "meta":
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def warp(
    x: Float[Tensor, "b c _h _w"],
    matrices: np.ndarray,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The same warp in differentiable form, for use inside a model and on a GPU; zero outside the image.

    An autocast around the call has no effect on it: coordinates in bf16 would move pixels.

    Args:
        x: images or masks.
        matrices: B 2 3, output pixels to input pixels, as `sample_affine` makes them.
        mode: interpolation.
        size: rows and columns of the result (default: those of `x`).
    """
    rows, columns = size or (x.shape[-2], x.shape[-1])
    inside = np.array([(x.shape[-1] - 1) / 2, (x.shape[-2] - 1) / 2])
    outside = np.array([(columns - 1) / 2, (rows - 1) / 2])
    linear = matrices[:, :, :2] * outside[None, None, :] / inside[None, :, None]
    offset = (np.einsum("nij,j->ni", matrices[:, :, :2], outside) + matrices[:, :, 2]) / inside - 1

    # in the normalized coordinates of affine_grid, -1 to 1
    theta = torch.from_numpy(np.concatenate([linear, offset[:, :, None]], 2)).float()
    shape = [len(x), x.shape[1], rows, columns]
    with full_precision(x):
        grid = torch.nn.functional.affine_grid(send(theta, x.device), shape, align_corners=True)
        warped = torch.nn.functional.grid_sample(x.float(), grid, mode=mode, align_corners=True)
    return warped.to(x.dtype)


@dataclass(frozen=True)
class Photometric:
    """Appearance changes of a view; each is applied to a sample with its probability.

    Attributes:
        gamma: range of the exponent.
        noise_sigma, noise_p: Gaussian noise.
        brightness, brightness_p: factor 1 +- brightness.
        contrast, contrast_p: factor 1 +- contrast about the image's mean.
        motion_kernel, motion_angle_deg, motion_p: line blur.
        blur_kernel, blur_sigma, blur_p: Gaussian blur.
    """

    gamma: tuple[float, float] = (1.0, 1.0)
    noise_sigma: float = 0.0
    noise_p: float = 0.0
    brightness: float = 0.0
    brightness_p: float = 0.0
    contrast: float = 0.0
    contrast_p: float = 0.0
    motion_kernel: int = 5
    motion_angle_deg: float = 20.0
    motion_p: float = 0.0
    blur_kernel: int = 7
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_p: float = 0.0


PHOTOMETRIC: dict[str, Photometric] = {
    "weak": Photometric(),
    # BiCLIP's strong view (official code)
    "strong": Photometric((0.9, 1.1), 0.01, 0.5, 0.3, 0.5, 0.3, 0.5, motion_p=0.2),
    # Semi-MedRef's strong view: ColorJitter and Gaussian blur
    "strong_blur": Photometric(
        brightness=0.2, brightness_p=0.8, contrast=0.2, contrast_p=0.8, blur_p=0.5
    ),
}


def photometric(image: Image, preset: Photometric, generator: torch.Generator) -> Image:
    """Apply a view's appearance changes to B C H W in [0, 1]; the geometry stays the same.

    Losses may call this under autocast, which has no effect on it: the result has the dtype of the image.
    On a GPU the noise is drawn there, from torch's own generator: one number per pixel is too much to copy.
    """
    if preset == Photometric():
        return image
    n = image.shape[0]

    def drawn(low: float, high: float, p: float, neutral: float) -> Tensor:
        value = torch.rand(n, generator=generator) * (high - low) + low
        chosen = torch.rand(n, generator=generator) < p
        return send(
            torch.where(chosen, value, neutral).view(n, 1, 1, 1).to(image.dtype), image.device
        )

    # the order of the draws is part of what a seed means
    x = image ** drawn(*preset.gamma, 1.0, 1.0) if preset.gamma != (1.0, 1.0) else image
    if preset.brightness_p:
        x = x * drawn(1 - preset.brightness, 1 + preset.brightness, preset.brightness_p, 1.0)
    if preset.contrast_p:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        factor = drawn(1 - preset.contrast, 1 + preset.contrast, preset.contrast_p, 1.0)
        x = (x - mean) * factor + mean

    if preset.noise_p:
        sigma = drawn(preset.noise_sigma, preset.noise_sigma, preset.noise_p, 0.0)
        if image.device.type == "cpu":
            noise = torch.randn(image.shape, generator=generator).to(image)
        else:
            noise = torch.randn(image.shape, dtype=image.dtype, device=image.device)
        x = x + sigma * noise

    with full_precision(image):  # the filters are convolutions
        x = _motion(x, preset, generator)
        return _blur(x, preset, generator).clamp(0, 1)


def _motion(x: Tensor, preset: Photometric, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(x), generator=generator) < preset.motion_p
    angles = (torch.rand(len(x), generator=generator) * 2 - 1) * preset.motion_angle_deg
    if not any(chosen.tolist()):
        return x
    # one kernel per chosen sample
    kernels = torch.stack(
        [line_kernel(preset.motion_kernel, angle) for angle in angles[chosen].tolist()]
    )
    return _filtered(x, chosen, kernels)


def _blur(x: Tensor, preset: Photometric, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(x), generator=generator) < preset.blur_p
    low, high = preset.blur_sigma
    sigmas = torch.rand(len(x), generator=generator) * (high - low) + low
    if not any(chosen.tolist()):
        return x
    t = torch.arange(preset.blur_kernel) - preset.blur_kernel // 2
    # the Gaussian is separable: the kernel is an outer product
    line = torch.exp(-(t**2) / (2 * sigmas[chosen, None] ** 2))
    line = line / line.sum(1, keepdim=True)
    return _filtered(x, chosen, line[:, :, None] * line[:, None, :])


def _filtered(x: Tensor, chosen: Tensor, kernels: Tensor) -> Tensor:
    """Convolve the chosen samples, each with its own kernel (M k k), reflecting at the border."""
    # row numbers, found on the CPU: a mask of booleans on the device of x would have to be read back
    numbers = send(torch.nonzero(chosen)[:, 0], x.device)
    part = x[numbers]
    m, c, rows, columns = part.shape
    pad = kernels.shape[-1] // 2
    # one grouped convolution for all samples
    weight = send(kernels.to(x.dtype), x.device).repeat_interleave(c, 0)[:, None]
    padded = torch.nn.functional.pad(part, (pad, pad, pad, pad), mode="reflect")
    flat = padded.reshape(1, m * c, rows + 2 * pad, columns + 2 * pad)
    blurred = torch.nn.functional.conv2d(flat, weight, groups=m * c).reshape(m, c, rows, columns)
    out = x.clone()
    out[numbers] = blurred
    return out
