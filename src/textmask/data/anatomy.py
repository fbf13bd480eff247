"""The bones and organs of a synthetic chest radiograph, in gray values of 0 (air) to 1 (bone)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# outlines as shares of (W, H); the patient's left is on the right; mirrored about 0.5 if both sides agree
TORSO = ((0.40, 0.0), (0.38, 0.05), (0.16, 0.10), (0.02, 0.20), (0.04, 0.50), (0.05, 1.0))
LEFT_LUNG = (
    (0.31, 0.11), (0.38, 0.13), (0.425, 0.24), (0.44, 0.45), (0.43, 0.62), (0.42, 0.76),
    (0.36, 0.75), (0.27, 0.765), (0.18, 0.80), (0.11, 0.86), (0.105, 0.70), (0.125, 0.50), (0.165, 0.30), (0.22, 0.17),
)  # fmt: skip
RIGHT_LUNG = (
    (0.69, 0.11), (0.62, 0.13), (0.575, 0.24), (0.565, 0.42), (0.60, 0.55), (0.66, 0.70), (0.665, 0.79),
    (0.72, 0.785), (0.80, 0.81), (0.89, 0.87), (0.895, 0.70), (0.875, 0.50), (0.835, 0.30), (0.78, 0.17),
)  # fmt: skip


def draw_anatomy(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Draw the anatomy of one person: torso, lungs, heart, spine, ribs, collar bones, vessels.

    Args:
        size: rows and columns.
        rng: draws the variations between people.

    Returns:
        H W, about 0 (air) to 1 (bone).
    """
    scale = max(size) / 224
    image = np.full(size, 0.03, np.float32)

    # body and organs, each with a soft edge
    torso = np.array((*TORSO, *((1 - x, y) for x, y in reversed(TORSO))))
    image += _soft(size, torso, 5 * scale) * np.float32(rng.uniform(0.56, 0.64))
    organs = _ellipse(size, (0.5, 1.02), (0.46, 0.26), 9 * scale)  # liver and stomach
    image += organs * np.float32(0.16)
    lungs = np.zeros(size, np.float32)
    for outline in (LEFT_LUNG, RIGHT_LUNG):
        lungs += _soft(size, _wobble(outline, rng), 2.2 * scale)

    place = (0.575 + rng.uniform(-0.012, 0.012), 0.63 + rng.uniform(-0.01, 0.01))
    # the heart leans to the patient's left
    heart = _ellipse(size, place, (0.12 * rng.uniform(0.85, 1.1), 0.17), 3 * scale, angle_deg=-35)
    middle = _ellipse(size, (0.5, 0.45), (0.07, 0.75), 5 * scale)  # spine and great vessels

    # air in the lungs is darker, except behind dense organs
    dense = np.maximum(heart, middle)
    image += np.float32(0.1) * dense - np.float32(rng.uniform(0.30, 0.38)) * lungs * (
        1 - np.float32(0.85) * dense
    )
    image -= _ellipse(size, (0.5, 0.09), (0.022, 0.16), 2 * scale) * np.float32(0.09)  # windpipe
    image += _bones(size, rng, scale) + lungs * _vessels(size, rng, scale)
    return image + np.float32(0.035) * smooth_noise(rng, size, 7)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Floats:
    """Smooth unit noise, H W, with about `cells` hills along each side."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _fixed_point(points: npt.ArrayLike, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Convert shares of (W, H) to sixteenths of a pixel (cv2's `shift` of 4)."""
    return np.rint(np.asarray(points) * (size[1], size[0]) * 16).astype(np.int32)


def _soften(canvas: npt.NDArray[np.uint8], sigma_px: float) -> Floats:
    """Blur to H W in [0, 1]; bytes, and half the size for wide blurs, are several times faster."""
    size = canvas.shape[1], canvas.shape[0]
    # a wide blur removes the detail that half the size loses
    if sigma_px >= 2.2:
        canvas = cv2.resize(
            canvas, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA
        ).astype(np.uint8)
        canvas = cv2.resize(cv2.GaussianBlur(canvas, (0, 0), sigma_px / 2), size).astype(np.uint8)
    else:
        canvas = cv2.GaussianBlur(canvas, (0, 0), sigma_px).astype(np.uint8)
    return canvas.astype(np.float32) / np.float32(255)


def _soft(size: tuple[int, int], outline: npt.ArrayLike, sigma_px: float) -> Floats:
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [_fixed_point(outline, size)], 255, cv2.LINE_AA, 4)
    return _soften(canvas, sigma_px)


def _ellipse(
    size: tuple[int, int],
    center: tuple[float, float],
    axes: tuple[float, float],
    sigma_px: float,
    angle_deg: float = 0.0,
) -> Floats:
    canvas = np.zeros(size, np.uint8)
    place, half = (tuple(int(v) for v in _fixed_point(point, size)) for point in (center, axes))
    cv2.ellipse(canvas, place, half, angle_deg, 0, 360, 255, -1, cv2.LINE_AA, 4)
    return _soften(canvas, sigma_px)


def _wobble(outline: npt.ArrayLike, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A closed smooth curve through slightly moved corners."""
    # four neighboring corners define each piece of the curve
    corners = np.asarray(outline) + rng.uniform(-0.008, 0.008, np.shape(outline))

    previous, following, after = (np.roll(corners, -k, axis=0) for k in (-1, 1, 2))
    t = np.linspace(0, 1, 6, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * corners
        + (following - previous) * t
        + (2 * previous - 5 * corners + 4 * following - after) * t**2
        + (3 * corners - previous - 3 * following + after) * t**3
    )  # Catmull-Rom
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))


def _bones(size: tuple[int, int], rng: np.random.Generator, scale: float) -> Floats:
    """Ribs and collar bones, as brightness to add."""
    canvas = np.zeros(size, np.uint8)
    width = max(1, round(4.5 * scale))

    # nine pairs of ribs
    start, slope = 0.13 + rng.uniform(-0.01, 0.01), rng.uniform(0.06, 0.10)
    t = np.linspace(0, 1, 16)
    for rib in range(9):
        reach = 0.41 - 0.20 * np.exp(-rib / 1.3)  # the chest widens downwards
        across = 0.04 + (reach - 0.04) * np.sin(t * np.pi / 2)
        down = start + 0.083 * rib - 0.035 * np.sin(np.pi * t) + slope * t**2 * (1 + 0.12 * rib)
        for sign in (-1, 1):
            points = _fixed_point(np.stack([0.5 + sign * across, down], 1), size)
            cv2.polylines(canvas, [points], False, 120 - 6 * rib, width, cv2.LINE_AA, 4)

    # collar bones
    for sign in (-1, 1):
        across = 0.5 + sign * np.array([0.05, 0.14, 0.24, 0.36])
        points = _fixed_point(np.stack([across, np.array([0.155, 0.135, 0.10, 0.075])], 1), size)
        cv2.polylines(canvas, [points], False, 220, round(6 * scale) or 1, cv2.LINE_AA, 4)
    return _soften(canvas, 1.3 * scale) * np.float32(0.16)


def _vessels(size: tuple[int, int], rng: np.random.Generator, scale: float) -> Floats:
    """Fine branches that spread from both lung roots, as brightness to add."""
    # eight branches per lung root, each slightly bent
    canvas = np.zeros(size, np.uint8)
    t = np.linspace(0, 1, 6)[:, None]
    for sign in (-1, 1):
        for angle in rng.uniform(-1.25, 1.3, 8):
            direction = np.array([sign * np.cos(angle), np.sin(angle)])
            bend = np.array([-direction[1], direction[0]]) * rng.uniform(-0.12, 0.12)
            root = (0.5 + sign * 0.07, 0.45 + rng.uniform(-0.05, 0.06))
            points = root + t * direction * rng.uniform(0.1, 0.26) + t**2 * bend
            cv2.polylines(
                canvas,
                [_fixed_point(points, size)],
                False,
                150,
                round(1.6 * scale) or 1,
                cv2.LINE_AA,
                4,
            )
        cv2.ellipse(canvas, tuple(_fixed_point((0.5 + sign * 0.075, 0.45), size).tolist()),
                    tuple(_fixed_point((0.03, 0.06), size).tolist()), 0, 0, 360, 200, -1, cv2.LINE_AA, 4)  # fmt: skip

    return _soften(canvas, 1.5 * scale) * np.float32(0.13)
