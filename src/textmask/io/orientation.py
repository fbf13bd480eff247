"""Where the patient's left, head and front lie in a picture, and the same picture in its usual view.

The usual view is the radiological one: of a film, or of a coronal slice, the patient's left is on the right of the
picture and the head on top; of an axial slice the left is on the right and the front on top. Networks see that view, so
that a film stored mirrored or upside down is answered as the one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError, choose

OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
# towards these a usual view runs: columns to the patient's left (sagittal: to the back), rows to the feet or the back
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
    """Directions of a picture in terms of the patient.

    Attributes:
        columns: towards what the pixels of a row run: L, R, A, P, H (head) or F (feet).
        rows: towards what the pixels of a column run.
        source: how this is known, e.g. "PatientOrientation", "affine" or "--view pa".

    Raises:
        DataError: a letter that is none of these, or two letters of one axis.
    """

    columns: str
    rows: str
    source: str = ""

    def __post_init__(self) -> None:
        pair = (self.columns, self.rows)
        if not set(pair) <= OPPOSITE.keys() or pair[0] in (pair[1], OPPOSITE[pair[1]]):
            raise DataError(
                f"orientation {self.columns}\\{self.rows} is none: expected two of L R A P H F of different axes, such "
                "as L\\F (columns run to the patient's left, rows to the feet)."
            )

    @classmethod
    def of_view(cls, view: str) -> Orientation:
        """What somebody says a picture shows: `pa`, `ap`, `mirrored`, `lateral` or `axial`.

        AP and PA films are both shown with the patient's left on the right.

        Raises:
            ConfigError: another word.
        """
        columns, rows = VIEWS[choose("view", view, list(VIEWS))]
        return cls(columns, rows, f"view {view}")

    @classmethod
    def of_cosines(cls, cosines: Sequence[float], source: str) -> Orientation:
        """From DICOM's six direction cosines (ImageOrientationPatient: of a row, then of a column), in LPS.

        Raises:
            DataError: no six finite numbers.
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
        """Side of the picture where the patient's left is; None in a sagittal plane."""
        places: dict[tuple[str, str], Literal["right", "left", "top", "bottom"]] = {
            ("columns", "L"): "right",
            ("columns", "R"): "left",
            ("rows", "L"): "bottom",
            ("rows", "R"): "top",
        }
        return places.get(("columns", self.columns)) or places.get(("rows", self.rows))

    @property
    def usual(self) -> Orientation:
        """Of the same plane in its usual view."""
        axes = {frozenset((a, OPPOSITE[a])) for a in (self.columns, self.rows)}
        pair = next(p for p in USUAL if {frozenset((a, OPPOSITE[a])) for a in p} == axes)
        return Orientation(pair[0], pair[1], self.source)

    def to_usual(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """H W or H W 3 in the usual view: transposed and flipped as needed, never resampled."""
        columns, rows, usual = self.columns, self.rows, self.usual
        if columns not in (usual.columns, OPPOSITE[usual.columns]):
            pixels, columns, rows = pixels.swapaxes(0, 1), rows, columns
        if columns != usual.columns:
            pixels = pixels[:, ::-1]
        if rows != usual.rows:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)

    def from_usual(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The way back: H W or H W 3 of the usual view in this picture's own."""
        usual = self.usual
        turned = self.columns not in (usual.columns, OPPOSITE[usual.columns])
        columns, rows = (self.rows, self.columns) if turned else (self.columns, self.rows)
        if columns != usual.columns:
            pixels = pixels[:, ::-1]
        if rows != usual.rows:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if turned else pixels)


def orientation_of_cosines(cosines: Sequence[float], source: str) -> Orientation | None:
    """`Orientation.of_cosines`, None where they name no two axes: zeros, or both directions nearest to one axis."""
    try:
        return Orientation.of_cosines(cosines, source)
    except DataError:
        return None


def _nearest(vector: npt.NDArray[np.float64]) -> str:
    """The axis of LPS that a direction is closest to."""
    axis = int(np.abs(vector).argmax())
    return ("LR", "PA", "HF")[axis][int(vector[axis] < 0)]
