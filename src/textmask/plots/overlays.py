"""Masks and probabilities drawn over images (OpenCV)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from textmask.errors import DataError

Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
GREEN: Colour = (0, 158, 115)
VERMILION: Colour = (213, 94, 0)
BLUE: Colour = (86, 180, 233)
PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    GREEN,
    (204, 121, 167),
    VERMILION,
    BLUE,
    (90, 90, 90),
)
# what the colours of `error_overlay` mean
LEGEND: dict[str, Colour] = {
    "found (TP)": GREEN,
    "missed (FN)": VERMILION,
    "false alarm (FP)": BLUE,
}
CAPTION_HEIGHT_PX = 18
GAP_PX = 4


def overlay(image: Bytes, mask: npt.ArrayLike, colour: Colour = GREEN, alpha: float = 0.4) -> Bytes:
    """H W 3 picture with the mask tinted.

    Args:
        image: H W or H W 3.
        mask: H W, not 0 is foreground.
        colour: RGB.
        alpha: 0 (invisible) to 1 (opaque).

    Raises:
        DataError: shapes that do not fit, or not uint8.
    """
    picture = _colour(image)
    return _tint(picture, _hard(mask, picture, "mask"), colour, alpha)


def contour(
    image: Bytes, mask: npt.ArrayLike, colour: Colour = GREEN, thickness_px: int = 1
) -> Bytes:
    """H W 3 picture with the outline of the mask.

    Raises:
        DataError: shapes that do not fit, or not uint8.
    """
    picture = _colour(image)
    outlines, _ = cv2.findContours(
        _hard(mask, picture, "mask"), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    return np.asarray(cv2.drawContours(picture, outlines, -1, colour, thickness_px), np.uint8)


def error_overlay(
    image: Bytes, prediction: npt.ArrayLike, truth: npt.ArrayLike, alpha: float = 0.35
) -> Bytes:
    """H W 3 picture with hits, misses and false alarms in the colours of `LEGEND`, each outlined.

    Raises:
        DataError: shapes that do not fit, or not uint8.
    """
    picture = _colour(image)
    predicted, true = (
        _hard(m, picture, n) for m, n in ((prediction, "prediction"), (truth, "truth"))
    )
    regions = (predicted & true, true & (1 - predicted), predicted & (1 - true))
    for region, colour in zip(regions, LEGEND.values(), strict=True):
        picture = _tint(picture, region, colour, alpha)
    for region, colour in zip(regions, LEGEND.values(), strict=True):
        inside = np.asarray(cv2.erode(region, np.ones((3, 3), np.uint8), borderValue=0), np.uint8)
        picture = _tint(picture, region - inside, colour, 1.0)
    return picture


def heat(image: Bytes, values: npt.ArrayLike, alpha: float = 0.55) -> Bytes:
    """H W 3 picture under a map: dark blue is 0, yellow is 1 (viridis, readable with any colour blindness and in grey).

    Args:
        image: H W or H W 3.
        values: H W in [0, 1].
        alpha: 0 (the picture alone) to 1 (the map alone).

    Raises:
        DataError: shapes that do not fit.
    """
    picture, scores = _colour(image), np.asarray(values, np.float32)
    if scores.shape != picture.shape[:2]:
        raise DataError(
            f"heat: got a map of shape {scores.shape} for a picture of {picture.shape[:2]}; resize it."
        )
    scores = np.nan_to_num(scores).clip(0, 1)
    coloured = cv2.applyColorMap((scores * 255 + 0.5).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[
        :, :, ::-1
    ]
    return np.asarray(picture * (1 - alpha) + coloured * alpha + 0.5, np.uint8)


def side_by_side(panels: Sequence[Bytes], captions: Sequence[str] = ()) -> Bytes:
    """One H W 3 picture of several, as high as the highest, each with its caption above.

    Letters outside ASCII appear as "?": OpenCV has no others.

    Raises:
        DataError: no panel, another number of captions than panels, or a panel that is no picture.
    """
    if not panels or (captions and len(captions) != len(panels)):
        raise DataError(
            f"side_by_side: got {len(panels)} panels and {len(captions)} captions, expected one or none each."
        )
    head = CAPTION_HEIGHT_PX if captions else 0
    height = max(panel.shape[0] for panel in panels)
    columns = []
    for i, panel in enumerate(panels):
        column = np.full((head + height, panel.shape[1] + (GAP_PX if i else 0), 3), 255, np.uint8)
        column[head : head + panel.shape[0], GAP_PX if i else 0 :] = _colour(panel)
        if captions:
            _write_caption(column, captions[i], (GAP_PX if i else 0) + 2)
        columns.append(column)
    return np.hstack(columns)


def _colour(image: Bytes) -> Bytes:
    """A fresh H W 3 copy."""
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


def _hard(mask: npt.ArrayLike, picture: Bytes, name: str) -> Bytes:
    array = np.asarray(mask)
    if array.shape != picture.shape[:2]:
        raise DataError(
            f"figure: got a {name} of shape {array.shape} for a picture of {picture.shape[:2]}."
        )
    return np.asarray(array != 0, np.uint8)


def _tint(picture: Bytes, region: Bytes, colour: Colour, alpha: float) -> Bytes:
    if not 0 <= alpha <= 1:
        raise DataError(f"figure: got alpha {alpha}, expected 0 to 1.")
    where = region != 0
    mixed = picture[where] * (1 - alpha) + np.array(colour) * alpha
    picture[where] = mixed.round().astype(np.uint8)
    return picture


def _write_caption(column: Bytes, caption: str, left: int) -> None:
    """Write a caption into the head of a panel, smaller and then cut where it would not fit."""
    room = column.shape[1] - left - 2
    text = caption.encode("ascii", "replace").decode()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    wide = cv2.getTextSize(text, font, scale, 1)[0][0]
    scale = max(0.3, min(scale, scale * room / max(wide, 1)))
    while len(text) > 2 and cv2.getTextSize(text, font, scale, 1)[0][0] > room:
        text = text.removesuffix("..")[:-1] + ".."
        if text == "..":
            break
    cv2.putText(
        column, text, (left, CAPTION_HEIGHT_PX - 5), font, scale, (30, 30, 30), 1, cv2.LINE_AA
    )
