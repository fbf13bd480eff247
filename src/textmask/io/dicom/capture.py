"""The picture of a secondary capture: the mask over the image, a legend, and letters for the patient's sides."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from textmask.io.images import resize_image, resize_mask
from textmask.io.orientation import OPPOSITE, Orientation
from textmask.plots.overlays import contour, overlay

Bytes = npt.NDArray[np.uint8]

LEAST_COLUMNS, MOST_PX = 512, 1024  # legible, and not as heavy as the image itself
LINE_PX, MARGIN_PX = 20, 8
MOST_LINES = 6
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.48
INK = (235, 235, 235)


def capture_picture(
    image: Bytes, mask: Bytes, lines: Sequence[str], orientation: Orientation | None
) -> Bytes:
    """uint8 H' W' 3: the legend above, the image with the mask below, the patient's directions at its four edges.

    Args:
        image: H W or H W 3.
        mask: H W, 0 or 1.
        lines: of the legend; long ones are wrapped. Letters outside ASCII appear as "?": OpenCV has no others.
        orientation: of the image; None writes that its sides are not known.
    """
    rows, columns = image.shape[:2]
    scale = min(max(1.0, LEAST_COLUMNS / columns), MOST_PX / max(rows, columns))
    size = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    region = resize_mask(np.asarray(mask != 0, np.uint8), size)
    shown = contour(overlay(resize_image(image, size), region, alpha=0.25), region, thickness_px=2)
    letters = (
        ""
        if orientation is not None
        else "Patient's sides not known: the file does not tell its orientation."
    )
    text = [
        part
        for line in [*lines, letters]
        if line
        for part in _wrapped(line, max(size[1], LEAST_COLUMNS))
    ]
    if len(text) > MOST_LINES:  # the last lines say what it is: they stay
        text = [*text[: MOST_LINES - 3], "... (whole sentence in the header)", *text[-2:]]
    head = MARGIN_PX * 2 + LINE_PX * len(text)
    canvas = np.zeros((head + size[0], max(size[1], LEAST_COLUMNS), 3), np.uint8)
    left = (canvas.shape[1] - size[1]) // 2
    canvas[head:, left : left + size[1]] = shown
    for number, line in enumerate(text, start=1):
        cv2.putText(
            canvas,
            line,
            (MARGIN_PX, MARGIN_PX + LINE_PX * number - 5),
            FONT,
            SCALE,
            INK,
            1,
            cv2.LINE_AA,
        )
    if orientation is not None:
        _mark(canvas[head:, left : left + size[1]], orientation)
    return canvas


def _wrapped(line: str, columns: int) -> list[str]:
    """Broken between words where it is too wide, within a word where that alone is."""
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


def _mark(picture: Bytes, orientation: Orientation) -> None:
    """Letters at the edges: where a row, and a column, start and end in terms of the patient."""
    rows, columns = picture.shape[:2]
    places = {
        (6, rows // 2): OPPOSITE[orientation.columns],
        (columns - 22, rows // 2): orientation.columns,
        (columns // 2, 22): OPPOSITE[orientation.rows],
        (columns // 2, rows - 8): orientation.rows,
    }
    for place, letter in places.items():
        for ink, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.putText(picture, letter, place, FONT, 0.7, ink, width, cv2.LINE_AA)
