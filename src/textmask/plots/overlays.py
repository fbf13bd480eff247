"""Draw masks and probabilities over images (OpenCV)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from textmask.errors import DataError

Bytes = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
GREEN: Color = (0, 158, 115)
VERMILION: Color = (213, 94, 0)
BLUE: Color = (86, 180, 233)
PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    GREEN,
    (204, 121, 167),
    VERMILION,
    BLUE,
    (90, 90, 90),
)
# meaning of the colors of `error_overlay`
LEGEND: dict[str, Color] = {
    "found (TP)": GREEN,
    "missed (FN)": VERMILION,
    "false alarm (FP)": BLUE,
}
CAPTION_HEIGHT_PX = 18
GAP_PX = 4
LETTER_PX = 8  # about the mean width of a letter in a caption


def overlay(image: Bytes, mask: npt.ArrayLike, color: Color = GREEN, alpha: float = 0.4) -> Bytes:
    """Tint the mask on an image.

    Args:
        image: H W or H W 3.
        mask: H W, not 0 is foreground.
        color: RGB.
        alpha: 0 (invisible) to 1 (opaque).

    Returns:
        uint8 H W 3.

    Raises:
        DataError: the shapes differ, or the image is not uint8.
    """
    canvas = _rgb_copy(image)
    return _tint(canvas, _hard(mask, canvas, "mask"), color, alpha)


def contour(
    image: Bytes, mask: npt.ArrayLike, color: Color = GREEN, thickness_px: int = 1
) -> Bytes:
    """Draw the outline of the mask on an image.

    Args:
        image: H W or H W 3.
        mask: H W, not 0 is foreground.
        color: RGB.
        thickness_px: width of the line.

    Returns:
        uint8 H W 3.

    Raises:
        DataError: the shapes differ, or the image is not uint8.
    """
    canvas = _rgb_copy(image)
    region = _hard(mask, canvas, "mask")
    outlines, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(canvas, outlines, -1, color, thickness_px), np.uint8)


def error_overlay(
    image: Bytes, prediction: npt.ArrayLike, truth: npt.ArrayLike, alpha: float = 0.35
) -> Bytes:
    """Draw hits, misses and false alarms in the colors of `LEGEND`, each with an outline.

    Args:
        image: H W or H W 3.
        prediction: H W, not 0 is foreground.
        truth: H W, not 0 is foreground.
        alpha: 0 (invisible) to 1 (opaque).

    Returns:
        uint8 H W 3.

    Raises:
        DataError: the shapes differ, or the image is not uint8.
    """
    canvas = _rgb_copy(image)
    predicted = _hard(prediction, canvas, "prediction")
    true = _hard(truth, canvas, "truth")
    regions = (predicted & true, true & (1 - predicted), predicted & (1 - true))
    for region, color in zip(regions, LEGEND.values(), strict=True):
        canvas = _tint(canvas, region, color, alpha)

    # outlines come last, so that no tint covers them
    for region, color in zip(regions, LEGEND.values(), strict=True):
        inside = np.asarray(cv2.erode(region, np.ones((3, 3), np.uint8), borderValue=0), np.uint8)
        canvas = _tint(canvas, region - inside, color, 1.0)
    return canvas


def heat(image: Bytes, values: npt.ArrayLike, alpha: float = 0.55) -> Bytes:
    """Draw a map over an image: dark blue is 0, yellow is 1 (viridis, readable with color blindness and in gray).

    Args:
        image: H W or H W 3.
        values: H W in [0, 1].
        alpha: 0 (only the image) to 1 (only the map).

    Returns:
        uint8 H W 3.

    Raises:
        DataError: the shapes differ.
    """
    canvas, scores = _rgb_copy(image), np.asarray(values, np.float32)
    if scores.shape != canvas.shape[:2]:
        raise DataError(
            f"heat: got a map of shape {scores.shape} for an image of {canvas.shape[:2]}. Resize it first."
        )

    scores = np.nan_to_num(scores).clip(0, 1)
    levels = (scores * 255 + 0.5).astype(np.uint8)
    colored = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    return np.asarray(canvas * (1 - alpha) + colored * alpha + 0.5, np.uint8)


def side_by_side(panels: Sequence[Bytes], captions: Sequence[str] = ()) -> Bytes:
    """Join images to one row, as high as the highest, each with its caption above.

    Args:
        panels: uint8 H W or H W 3, of any sizes.
        captions: one per panel, or none. Letters outside ASCII appear as "?", because OpenCV has no others.

    Returns:
        uint8 H W 3.

    Raises:
        DataError: there are no panels, the number of captions differs, or a panel is not an image.
    """
    if not panels or (captions and len(captions) != len(panels)):
        raise DataError(
            f"side_by_side: got {len(panels)} panels and {len(captions)} captions, expected one per panel or none."
        )

    head = CAPTION_HEIGHT_PX if captions else 0
    height = max(panel.shape[0] for panel in panels)
    columns = []
    for i, panel in enumerate(panels):
        gap = GAP_PX if i else 0
        column = np.full((head + height, panel.shape[1] + gap, 3), 255, np.uint8)
        column[head : head + panel.shape[0], gap:] = _rgb_copy(panel)
        if captions:
            _write_caption(column, captions[i], gap + 2)
        columns.append(column)
    return np.hstack(columns)


def stacked(rows: Sequence[Bytes], headings: Sequence[str]) -> Bytes:
    """Put images below each other, left-aligned, each below its heading.

    Args:
        rows: uint8 H W 3, of any sizes.
        headings: one per row, wrapped to the width of the widest row; letters outside ASCII appear as "?".

    Returns:
        uint8 H W 3.

    Raises:
        DataError: there are no rows, or the number of headings differs.
    """
    if not rows or len(rows) != len(headings):
        raise DataError(f"stacked: got {len(rows)} rows and {len(headings)} headings.")

    width = max(row.shape[1] for row in rows)
    letters = max((width - 4) // LETTER_PX, 8)
    parts = []
    for row, heading in zip(rows, headings, strict=True):
        lines = textwrap.wrap(heading, letters) or [""]
        for line in lines:
            strip = np.full((CAPTION_HEIGHT_PX, width, 3), 255, np.uint8)
            _write_caption(strip, line, 2)
            parts.append(strip)
        whole = np.full((row.shape[0] + GAP_PX, width, 3), 255, np.uint8)
        whole[: row.shape[0], : row.shape[1]] = _rgb_copy(row)
        parts.append(whole)
    return np.vstack(parts)


def _rgb_copy(image: Bytes) -> Bytes:
    """A copy of shape H W 3."""
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or image.shape[2:] not in ((), (3,))
        or not image.size
    ):
        raise DataError(
            f"figure: got {image.dtype} of shape {image.shape}, expected uint8 H W or H W 3."
        )
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image.copy()


def _hard(mask: npt.ArrayLike, image: Bytes, name: str) -> Bytes:
    array = np.asarray(mask)
    if array.shape != image.shape[:2]:
        raise DataError(
            f"figure: got a {name} of shape {array.shape}, expected {image.shape[:2]} as the image."
        )
    return np.asarray(array != 0, np.uint8)


def _tint(image: Bytes, region: Bytes, color: Color, alpha: float) -> Bytes:
    """Mix a color into a region, in place."""
    if not 0 <= alpha <= 1:
        raise DataError(f"figure: got alpha {alpha}, expected 0 to 1.")
    # a pixel has one of 256 values, so that a table of them is all there is to compute
    values = np.arange(256)[:, None] * (1 - alpha) + np.array(color) * alpha
    table = values.round().astype(np.uint8)[None]
    cv2.copyTo(cv2.LUT(image, table), region, image)
    return image


def _write_caption(column: Bytes, caption: str, left: int) -> None:
    """Write a caption above a panel; a long one is made smaller and then cut."""
    room = column.shape[1] - left - 2
    text = caption.encode("ascii", "replace").decode()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42

    # first smaller letters, down to a legible size, then fewer
    wide = cv2.getTextSize(text, font, scale, 1)[0][0]
    scale = max(0.3, min(scale, scale * room / max(wide, 1)))
    while len(text) > 2 and cv2.getTextSize(text, font, scale, 1)[0][0] > room:
        text = text.removesuffix("..")[:-1] + ".."
        if text == "..":
            break

    place = (left, CAPTION_HEIGHT_PX - 5)
    cv2.putText(column, text, place, font, scale, (30, 30, 30), 1, cv2.LINE_AA)
