"""An image of any file format, with what the file says about the patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask.io.orientation import Orientation


@dataclass(frozen=True)
class LoadedImage:
    """An image to segment, as it is stored: not rotated, not resized.

    Attributes:
        pixels: uint8 H W or H W 3.
        format: `picture` (PNG, JPEG, TIFF, BMP), `nifti` or `dicom`; the last two know the patient's directions.
        orientation: directions of the patient in the image; None if the file does not say.
        spacing_mm: distance of rows and of columns; None if the file does not say.
        source: the file; None if the image was read from bytes.
        index: slice of a volume or frame of a DICOM file; None for a single image.
        header: needed to write results: a pydicom data set without pixels, or a NIfTI header and affine.
    """

    pixels: npt.NDArray[np.uint8]
    format: str = "picture"
    orientation: Orientation | None = None
    spacing_mm: tuple[float, float] | None = None
    source: Path | None = None
    index: int | None = None
    header: Any = None
