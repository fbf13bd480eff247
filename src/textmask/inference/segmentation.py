"""The result for one prompt: a mask that draws itself, describes itself, and becomes a row of a data frame."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from textmask.errors import ConfigError, DataError, PromptWarning
from textmask.inference.laterality import NOTHING_ASKED, SideConversion
from textmask.inference.screening import CODES, CUT, DOUBTS, NO_SCORES, Scores
from textmask.io.data_frames import data_frame
from textmask.io.images import png_bytes
from textmask.plots.overlays import GREEN, Color, heat, side_by_side
from textmask.plots.overlays import contour as draw_contour
from textmask.plots.overlays import overlay as draw_overlay
from textmask.statement import Statement
from textmask.types import PromptReading

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Segmentation:
    """The result for one prompt, in the size and the geometry of the stored image.

    A notebook shows it as the image with the mask.

    Attributes:
        mask: uint8 H W, 0 or 1; all 0 if the model abstained or the prompt denies the finding.
        probability: float32 H W in [0, 1], as the network predicted it, also if the model abstained.
        statement: what was understood of the prompt, before any conversion of sides.
        warnings: codes for questionable requests; `textmask.inference.screening.CODES` explains each.
        maps: what the method publishes of `MAPS`, float32 H W in [0, 1]: `attention` is where it looks for what the
            prompt names, `prior` is where the prompt locates it, `guide` combines both.
        asked: which laterality convention was used, and the prompt that the network read.
        abstained: the mask is withheld; the codes say why.
        scores: numbers about the image, the finding and the place of the mask.
        unknown_words: words that neither the training prompts nor medicine know; () without a calibration.
        prompt: as it was given.
        pixels: the image, uint8 H W or H W 3.
        reading: what the method understood of the prompt, if it parses prompts itself.
        existence: probability that the image shows what the prompt asks for, if the method estimates it.
    """

    mask: np.ndarray
    probability: np.ndarray
    statement: Statement
    warnings: tuple[str, ...]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    asked: SideConversion = NOTHING_ASKED
    abstained: bool = False
    scores: Scores = NO_SCORES
    unknown_words: tuple[str, ...] = ()
    prompt: str = ""
    pixels: np.ndarray | None = field(default=None, repr=False, compare=False)
    reading: PromptReading | None = field(default=None, repr=False)
    existence: float | None = None

    @property
    def program(self) -> Mapping[str, Any] | None:
        """The steps that the prompt was read as, with the words that each rests on; None without a reading."""
        return None if self.reading is None else self.reading.program

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The names that the model knows; () if it has no list of names."""
        return () if self.reading is None else self.reading.vocabulary

    def contour(self) -> list[np.ndarray]:
        """Outlines of the mask and of its holes: one int32 N 2 array each, with x (column) and y (row) in pixels."""
        outlines, _ = cv2.findContours(self.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        return [np.asarray(outline[:, 0], np.int32) for outline in outlines]

    def overlay(self, color: Color = GREEN, alpha: float = 0.4) -> np.ndarray:
        """The image with the mask tinted and outlined, uint8 H W 3 (RGB).

        Args:
            color: RGB.
            alpha: 0 (only the outline) to 1 (opaque).

        Raises:
            DataError: the result has no image, because it was not made by a predictor.
        """
        if self.pixels is None:
            raise DataError("this segmentation has no image to draw on; it needs `pixels`.")
        tinted = draw_overlay(self.pixels, self.mask, color, alpha)
        return draw_contour(tinted, self.mask, color)

    def to_dict(self) -> dict[str, Any]:
        """Figures and outlines in plain types, ready for JSON."""
        inside = self.probability[self.mask > 0]
        rows, columns = np.nonzero(self.mask)
        box = None
        if rows.size:
            # x, y of the first pixel, width, height, as in COCO
            left, top = int(columns.min()), int(rows.min())
            box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
        return {
            "prompt": self.prompt,
            "rows": int(self.mask.shape[0]),
            "columns": int(self.mask.shape[1]),
            "foreground_px": int(inside.size),
            "foreground_fraction": float(self.mask.mean()),
            "mean_probability": float(inside.mean()) if inside.size else None,
            "box": box,
            "contours": [outline.tolist() for outline in self.contour()],
            "zones": sorted(f"{side} {level}" for side, level in self.statement.zones),
            "warnings": list(self.warnings),
            "unknown_words": list(self.unknown_words),
            "abstained": self.abstained,
            **self.scores.as_json(),
            "conversion": self.asked.conversion,
            "program": self.program,
            "refused": {} if self.reading is None else dict(self.reading.refused),
            "existence_probability": self.existence,
        }

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame of one row; see `Segmentations.to_pandas`.

        Raises:
            ConfigError: pandas is not installed.
        """
        return Segmentations([self]).to_pandas()

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        if self.pixels is None:
            return None
        return png_bytes(np.asarray(self.overlay(), np.uint8))


class Segmentations(list[Segmentation]):
    """Several results, in the order of the images and prompts."""

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per result: the figures of `Segmentation.to_dict`, without outlines.

        Raises:
            ConfigError: pandas is not installed.
        """
        records = []
        for found in self:
            record = found.to_dict()
            del record["contours"]
            records.append(record)
        return data_frame(records)


def explanation(pixels: np.ndarray, found: Segmentation) -> np.ndarray:
    """The image, each published map over it, and the mask side by side (Fig. 4 of SSA): uint8 H W' 3.

    Raises:
        ConfigError: the method publishes no attention map.
    """
    if "attention" not in found.maps:
        raise ConfigError(
            "this method publishes no attention map, so there is nothing to explain. Omit --explain, or use a run of "
            "a method that publishes one in Output.aux['attention'], such as one that aligns places with words."
        )
    maps = [heat(pixels, values) for values in found.maps.values()]
    return side_by_side(
        [pixels, *maps, draw_overlay(pixels, found.mask)], ["image", *found.maps, "prediction"]
    )


def warned_of(answer: tuple[Segmentation, list[str]]) -> Segmentation:
    """The result, after a Python warning for each of its codes about the prompt; doubts are in its scores."""
    found, complaints = answer
    # the text encoder's own message says more than the code
    messages = list(complaints)
    for code in found.warnings:
        if code not in DOUBTS and (code != CUT or not complaints):
            messages.append(f"{found.prompt[:80]!r}: {CODES[code]}")
    for message in messages:
        warnings.warn(message, PromptWarning, stacklevel=3)
    return found
