"""Draw the image of a secondary capture: the mask over the image, a legend, and letters for the patient's sides."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from textmask.io.images import resize_image, resize_mask
from textmask.io.orientation import OPPOSITE, Orientation
from textmask.plots.overlays import contour, overlay

Bytes = npt.NDArray[np.uint8]

LEAST_COLUMNS, MOST_PX = 512, 1024  # legible, and smaller than the image itself
LINE_PX, MARGIN_PX = 20, 8
MOST_LINES = 6
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.48
INK = (235, 235, 235)


def capture_image(
    image: Bytes, mask: Bytes, lines: Sequence[str], orientation: Orientation | None
) -> Bytes:
    """Draw the legend above the image with the mask, and the patient's directions at the four edges of the image.

    Args:
        image: uint8 H W or H W 3.
        mask: H W, 0 or 1.
        lines: lines of the legend; long lines are wrapped. Letters outside ASCII appear as "?", because OpenCV has
            no others.
        orientation: orientation of the image; None writes that the sides are unknown.

    Returns:
        uint8 H' W' 3.
    """
    rows, columns = image.shape[:2]
    scale = min(max(1.0, LEAST_COLUMNS / columns), MOST_PX / max(rows, columns))
    size = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    region = resize_mask(np.asarray(mask != 0, np.uint8), size)
    shown = contour(overlay(resize_image(image, size), region, alpha=0.25), region, thickness_px=2)
    text: list[str] = []
    for line in lines:
        text += _wrapped(line, max(size[1], LEAST_COLUMNS))
    if orientation is None:
        text.append("Patient's sides unknown: the file does not give its orientation.")
    if len(text) > MOST_LINES:  # the last lines say what the image is, so they stay
        text = [*text[: MOST_LINES - 3], "... (whole prompt in the header)", *text[-2:]]

    head = MARGIN_PX * 2 + LINE_PX * len(text)
    canvas = np.zeros((head + size[0], max(size[1], LEAST_COLUMNS), 3), np.uint8)
    left = (canvas.shape[1] - size[1]) // 2
    canvas[head:, left : left + size[1]] = shown

    for number, line in enumerate(text, start=1):
        place = (MARGIN_PX, MARGIN_PX + LINE_PX * number - 5)
        cv2.putText(canvas, line, place, FONT, SCALE, INK, 1, cv2.LINE_AA)
    if orientation is not None:
        _mark(canvas[head:, left : left + size[1]], orientation)
    return canvas


def _wrapped(line: str, columns: int) -> list[str]:
    """Break a line between words if it is too wide, and within a word that is too wide by itself."""
    room = columns - 2 * MARGIN_PX
    out = [""]
    for word in line.encode("ascii", "replace").decode().split():
        rest = word
        while rest:
            longer = f"{out[-1]} {rest}".strip()
            if _width(longer) <= room:
                out[-1], rest = longer, ""
            elif out[-1]:
                out.append("")
            else:
                fits = next(
                    n for n in range(len(rest), 0, -1) if n == 1 or _width(rest[:n]) <= room
                )
                out[-1], rest = rest[:fits], rest[fits:]
        if len(out) > MOST_LINES:
            break
    return [part for part in out if part]


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, SCALE, 1)[0][0])


def _mark(image: Bytes, orientation: Orientation) -> None:
    """Write letters at the edges: the directions of the patient at the ends of a row and of a column."""
    rows, columns = image.shape[:2]
    places = {
        (6, rows // 2): OPPOSITE[orientation.columns],
        (columns - 22, rows // 2): orientation.columns,
        (columns // 2, 22): OPPOSITE[orientation.rows],
        (columns // 2, rows - 8): orientation.rows,
    }

    # a dark outline keeps the letters legible on bright images
    for place, letter in places.items():
        for ink, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.putText(image, letter, place, FONT, 0.7, ink, width, cv2.LINE_AA)
