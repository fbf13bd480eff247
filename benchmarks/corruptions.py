"""Noise and blur against torch.poisson, SciPy, OpenCV: `python benchmarks/corruptions.py`, one process, one thread."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy import ndimage
from timing import Goals, interleave
from torch import Tensor

from textmask.data.corruptions import line_kernel, low_dose, motion_blur
from textmask.data.phantom import PhantomConfig, make_phantom

IMAGES, DOSE, KERNEL_PX = 32, 1000.0, 15


def torch_poisson(x: Tensor, dose: float, generator: torch.Generator) -> Tensor:
    return (torch.poisson(x * dose, generator=generator) / dose).clamp_(0, 1)


def scipy_blur(x: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    return np.stack(
        [
            ndimage.correlate(image, kernel, mode="mirror")
            for image, kernel in zip(x, kernels, strict=True)
        ]
    )


def cv2_blur(x: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    border = cv2.BORDER_REFLECT_101
    return np.stack(
        [cv2.filter2D(image, -1, k, borderType=border) for image, k in zip(x, kernels, strict=True)]
    )


def check_noise(generator: torch.Generator) -> None:
    """Stop unless mean, variance and skewness are those of the Poisson law, on both sides of the switch at 20."""
    for count in (2.0, 10.0, 25.0, 100.0, 500.0):
        flat = torch.full((1, 1, 1000, 1000), count / DOSE)
        ours, exact = (
            (f(flat, DOSE, generator) * DOSE).double() for f in (low_dose, torch_poisson)
        )
        moments = []
        for counts in (ours, exact):
            z = (counts - count) / count**0.5
            moments.append((float(z.mean()), float(z.square().mean()), float(z.pow(3).mean())))
        np.testing.assert_allclose(moments[0], moments[1], atol=0.03)
        ours_text, exact_text = (", ".join(f"{m:.3f}" for m in three) for three in moments)
        print(
            f"count {count:3.0f}: standardised mean, variance, skewness {ours_text}; torch.poisson {exact_text}"
        )


def main() -> int:
    """Print the table and the goal lines; 0 only if every goal is met."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    generator = torch.Generator().manual_seed(0)
    phantoms = np.stack([make_phantom(PhantomConfig(), seed).image for seed in range(IMAGES)])
    x = torch.from_numpy(phantoms)[:, None].float() / 255
    pixels = x[:, 0].numpy()
    angles = np.linspace(0, 174, IMAGES).tolist()
    kernels = [line_kernel(KERNEL_PX, angle).numpy() for angle in angles]
    check_noise(generator)
    blurred = motion_blur(x, KERNEL_PX, angles)[:, 0].numpy()
    np.testing.assert_allclose(blurred, scipy_blur(pixels, kernels), atol=1e-6)
    np.testing.assert_allclose(blurred, cv2_blur(pixels, kernels), atol=1e-6)
    print(f"{IMAGES} phantoms {tuple(x.shape[-2:])}; blur equal to SciPy and OpenCV within 1e-6")

    noise = interleave(
        {
            "textmask": lambda: low_dose(x, DOSE, generator),
            "torch.poisson": lambda: torch_poisson(x, DOSE, generator),
            "torch.randn (bound)": lambda: torch.randn(x.shape, generator=generator),
            "textmask, dose 140": lambda: low_dose(x, 140, generator),
            "torch.poisson, dose 140": lambda: torch_poisson(x, 140, generator),
        },
        repeats=15,
    )
    blur = interleave(
        {
            "textmask": lambda: motion_blur(x, KERNEL_PX, angles),
            "scipy": lambda: scipy_blur(pixels, kernels),
            "cv2": lambda: cv2_blur(pixels, kernels),
        },
        repeats=15,
    )
    for title, seconds in (
        (f"noise, dose {DOSE:.0f}", noise),
        (f"blur, {KERNEL_PX} px, an angle each", blur),
    ):
        print(f"{title}: ms, median")
        for name, value in seconds.items():
            print(f"  {name:<26}{1e3 * value:>9.2f}")
    goals = Goals()
    goals.at_least(
        "corruptions_noise_vs_torch_poisson", noise["torch.poisson"] / noise["textmask"], 7.0
    )
    goals.at_least("corruptions_blur_vs_scipy", blur["scipy"] / blur["textmask"], 3.0)
    goals.at_least("corruptions_blur_vs_cv2", blur["cv2"] / blur["textmask"], 1.3)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
