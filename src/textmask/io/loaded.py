"""One picture of any format, with what is known of the patient in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask.io.orientation import Orientation


@dataclass(frozen=True)
class LoadedImage:
    """A picture to segment, as it is stored: not turned, not resized.

    Attributes:
        pixels: uint8 H W or H W 3.
        format: `picture` (PNG, JPEG, TIFF, BMP), `nifti` or `dicom`; the latter two speak of a patient.
        orientation: of the patient in it; None where the file does not say.
        spacing_mm: of rows and of columns; None where the file does not say.
        source: its file.
        index: slice of a volume or frame of a DICOM file; None of a flat picture.
        header: what results are written with: a pydicom data set without pixels, or a NIfTI header and affine.
    """

    pixels: npt.NDArray[np.uint8]
    format: str = "picture"
    orientation: Orientation | None = None
    spacing_mm: tuple[float, float] | None = None
    source: Path | None = None
    index: int | None = None
    header: Any = None
