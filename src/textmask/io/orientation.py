"""Directions of the patient (left, head, front) in an image, and conversion to the usual view.

The usual view is the radiological one. In a radiograph or a coronal slice the patient's left is on the right side of
the image and the head is at the top; in an axial slice the left is on the right and the front at the top. Networks see
that view, so an image that is stored mirrored or upside down gives the same mask as one that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError, choose

OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
# directions of the usual views: columns run to the patient's left (sagittal: to the back), rows to the feet or the back
USUAL = (("L", "F"), ("L", "P"), ("P", "F"))
VIEWS = {
    "pa": ("L", "F"),
    "ap": ("L", "F"),
    "mirrored": ("R", "F"),
    "lateral": ("P", "F"),
    "axial": ("L", "P"),
}


@dataclass(frozen=True)
class Orientation:
    """Directions of an image in terms of the patient.

    Attributes:
        columns: direction in which the pixels of a row run: L, R, A, P, H (head) or F (feet).
        rows: direction in which the pixels of a column run.
        source: how this is known, e.g. "PatientOrientation", "affine" or "view pa".

    Raises:
        DataError: a letter is not one of these, or both letters belong to one axis.
    """

    columns: str
    rows: str
    source: str = ""

    def __post_init__(self) -> None:
        pair = (self.columns, self.rows)
        if not set(pair) <= OPPOSITE.keys() or pair[0] in (pair[1], OPPOSITE[pair[1]]):
            raise DataError(
                f"{self.columns}\\{self.rows} is not an orientation; expected two of L R A P H F of different axes, "
                "such as L\\F (columns run to the patient's left, rows to the feet)."
            )

    @classmethod
    def of_view(cls, view: str) -> Orientation:
        """The orientation of a named view: `pa`, `ap`, `mirrored`, `lateral` or `axial`.

        AP and PA radiographs are both shown with the patient's left on the right.

        Raises:
            ConfigError: the view is not one of these.
        """
        columns, rows = VIEWS[choose("view", view, list(VIEWS))]
        return cls(columns, rows, f"view {view}")

    @classmethod
    def of_cosines(cls, cosines: Sequence[float], source: str) -> Orientation:
        """The orientation given by six DICOM direction cosines (ImageOrientationPatient: row, then column), in LPS.

        Raises:
            DataError: these are not six finite numbers, or a direction is zero.
        """
        values = np.asarray(cosines, np.float64)
        if (
            values.shape != (6,)
            or not np.isfinite(values).all()
            or not (np.abs(values.reshape(2, 3)).max(1) > 0).all()
        ):
            raise DataError(f"{source} is {list(cosines)}, expected six direction cosines.")
        along_row, along_column = values.reshape(2, 3)
        return cls(_nearest(along_row), _nearest(along_column), source)

    @property
    def patient_left(self) -> Literal["right", "left", "top", "bottom"] | None:
        """Side of the image that shows the patient's left; None in a sagittal plane."""
        places: dict[tuple[str, str], Literal["right", "left", "top", "bottom"]] = {
            ("columns", "L"): "right",
            ("columns", "R"): "left",
            ("rows", "L"): "bottom",
            ("rows", "R"): "top",
        }
        return places.get(("columns", self.columns)) or places.get(("rows", self.rows))

    @property
    def usual(self) -> Orientation:
        """The orientation of the same plane in its usual view."""
        axes = {frozenset((a, OPPOSITE[a])) for a in (self.columns, self.rows)}
        pair = next(p for p in USUAL if {frozenset((a, OPPOSITE[a])) for a in p} == axes)
        return Orientation(pair[0], pair[1], self.source)

    def to_usual(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Convert H W or H W 3 to the usual view: transposed and flipped as needed, never resampled."""
        columns, rows, usual = self.columns, self.rows, self.usual
        if columns not in (usual.columns, OPPOSITE[usual.columns]):
            pixels, columns, rows = pixels.swapaxes(0, 1), rows, columns
        if columns != usual.columns:
            pixels = pixels[:, ::-1]
        if rows != usual.rows:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)

    def from_usual(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Convert H W or H W 3 from the usual view back to this orientation."""
        usual = self.usual
        turned = self.columns not in (usual.columns, OPPOSITE[usual.columns])
        columns, rows = (self.rows, self.columns) if turned else (self.columns, self.rows)
        if columns != usual.columns:
            pixels = pixels[:, ::-1]
        if rows != usual.rows:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if turned else pixels)


def orientation_of_cosines(cosines: Sequence[float], source: str) -> Orientation | None:
    """As `Orientation.of_cosines`; None if the cosines are zeros or both directions are nearest to the same axis."""
    try:
        return Orientation.of_cosines(cosines, source)
    except DataError:
        return None


def _nearest(vector: npt.NDArray[np.float64]) -> str:
    """The axis of LPS that a direction is closest to."""
    axis = int(np.abs(vector).argmax())
    return ("LR", "PA", "HF")[axis][int(vector[axis] < 0)]
