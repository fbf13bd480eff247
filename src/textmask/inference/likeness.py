"""How unlike the training images of a run an image is, from a few numbers of its gray levels.

An image is reduced to its layout, 16 x 16 gray levels without their brightness and contrast, and to its tones:
brightness, contrast, color, and fine and coarse texture. Each has a Mahalanobis distance from the training images,
under probabilistic principal components, so that what varies among them counts little and what never varies counts
much. The larger of the two counts. It needs no feature of the model, so that it holds for every method. Images of
other clinics or devices may be unlike the training images without being wrong.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from textmask.errors import CheckpointError

SIDE = 16  # rows and columns of the reduced image
FINE = 64  # rows and columns in which texture is measured
COMPONENTS = 32
MOST_SIDE = 512  # pixels of the longer side; larger images are reduced first
FEWEST = 20  # with fewer, a quantile of one in a hundred means nothing
FLOOR = 0.02  # smallest deviation of a number that counts, so that one that never varied has a finite weight
USUAL = 0.99  # quantile of the training images at which a distance is 1
LEVELS_OF_RANK = np.linspace(0, 1, 101)

Floats = npt.NDArray[np.float64]


def image_numbers(planes: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """The numbers by which images are compared.

    Args:
        planes: C h w, C 1 or 3.

    Returns:
        The 256 numbers of its layout, and the five of its tones.
    """
    # tiles are cut from images in full resolution
    if max(planes.shape[1:]) > MOST_SIDE:
        size = (MOST_SIDE, MOST_SIDE)
        planes = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in planes])
    levels = planes.astype(np.float32) / 255
    gray = levels.mean(axis=0)
    color = float((levels.max(axis=0) - levels.min(axis=0)).mean())

    # the layout, without what exposure changes
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    layout = (small - small.mean()) / max(float(small.std()), 1 / 255)

    # texture: what is lost by smoothing over 2 and over 4 pixels
    middle = cv2.resize(gray, (FINE, FINE), interpolation=cv2.INTER_AREA)
    texture = []
    for side in (FINE // 2, FINE // 4):
        smooth = cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA)
        back = cv2.resize(smooth, (FINE, FINE), interpolation=cv2.INTER_LINEAR)
        texture.append(float(np.abs(middle - back).mean()))
    tones = [float(small.mean()), float(small.std()), color, *texture]
    return layout.ravel().astype(np.float64), np.array(tones, np.float64)


@dataclass(frozen=True, eq=False)
class _Spread:
    """How F numbers spread over N images: K principal components, and one variance for the rest."""

    mean: Floats
    scale: Floats
    components: Floats
    variances: Floats
    noise: float
    unit: float

    @classmethod
    def of(cls, vectors: Floats) -> _Spread:
        """Describe N F numbers."""
        # rounded as they are stored, so that the distances are those of the stored numbers
        mean = _rounded(vectors.mean(axis=0))
        scale = _rounded(np.maximum(vectors.std(axis=0), FLOOR))
        standard = (vectors - mean) / scale
        values, directions = np.linalg.eigh(standard.T @ standard / len(standard))
        kept = min(COMPONENTS, len(vectors) // 4, len(mean) - 1)
        components = _rounded(directions[:, ::-1][:, :kept].T)
        variances = _rounded(np.maximum(values[::-1][:kept], FLOOR))
        noise = max(float(values[::-1][kept:].mean()), FLOOR)
        found = cls(mean, scale, components, variances, noise, 1.0)
        unit = float(np.quantile([found.distance(vector) for vector in vectors], USUAL))
        return replace(found, unit=max(unit, FLOOR))

    def distance(self, numbers: Floats) -> float:
        """Distance from the mean; 1 at the quantile `USUAL` of the images."""
        standard = (numbers - self.mean) / self.scale
        along = self.components @ standard
        left = max(float(standard @ standard - along @ along), 0.0)
        return float(np.sqrt((along**2 / self.variances).sum() + left / self.noise)) / self.unit

    def as_json(self) -> dict[str, Any]:
        """Arrays are 16-bit floats in base64."""
        arrays = {
            name: _packed(getattr(self, name))
            for name in ("mean", "scale", "components", "variances")
        }
        return {**arrays, "noise": self.noise, "unit": self.unit}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> _Spread:
        mean, scale = _unpacked(value["mean"]), _unpacked(value["scale"])
        variances = _unpacked(value["variances"])
        components = _unpacked(value["components"]).reshape(len(variances), len(mean))
        if len(scale) != len(mean):
            raise ValueError(f"{len(mean)} means and {len(scale)} scales")
        return cls(mean, scale, components, variances, float(value["noise"]), float(value["unit"]))


@dataclass(frozen=True, eq=False)
class KnownImages:
    """The training images of a run, as far as their look goes.

    Attributes:
        layout, tones: of the training images, see `image_numbers`.
        distances: 101 ascending quantiles of the distance over the validation split.
    """

    layout: _Spread
    tones: _Spread
    distances: tuple[float, ...]

    @classmethod
    def of_images(
        cls, train: Iterable[npt.NDArray[np.uint8]], valid: Iterable[npt.NDArray[np.uint8]]
    ) -> KnownImages | None:
        """Describe the training images; the quantiles are those of other images. None if there are too few.

        Args:
            train: images C h w.
            valid: images C h w.
        """
        known = [image_numbers(image) for image in train]
        others = [image_numbers(image) for image in valid]
        if min(len(known), len(others)) < FEWEST:
            return None
        spreads = [_Spread.of(np.array(vectors)) for vectors in zip(*known, strict=True)]
        found = cls(spreads[0], spreads[1], ())
        distances = [found.distance(*numbers) for numbers in others]
        return replace(found, distances=tuple(np.quantile(distances, LEVELS_OF_RANK).tolist()))

    def distance(self, layout: Floats, tones: Floats) -> float:
        """Distance of an image from the training images; 1 is that of one in a hundred of them."""
        return max(self.layout.distance(layout), self.tones.distance(tones))

    def rank(self, planes: npt.NDArray[np.uint8]) -> float:
        """Share of the validation images that are at least as unlike the training images as C h w, in [0, 1]."""
        place = np.searchsorted(self.distances, self.distance(*image_numbers(planes)), side="left")
        return float(1 - place / len(self.distances))

    def as_json(self) -> dict[str, Any]:
        """For calibration.json. The numbers are those of all training images together, not of one."""
        return {
            "layout": self.layout.as_json(),
            "tones": self.tones.as_json(),
            "distance_quantiles": list(self.distances),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> KnownImages:
        """Read back `as_json`.

        Raises:
            CheckpointError: a field is missing, has another type or another size.
        """
        try:
            layout, tones = _Spread.from_json(value["layout"]), _Spread.from_json(value["tones"])
            distances = tuple(map(float, value["distance_quantiles"]))
            if not distances or list(distances) != sorted(distances):
                raise ValueError("distances that do not ascend")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"calibration.json is malformed: known_images ({error!r}). Run textmask calibrate again."
            ) from error
        return cls(layout, tones, distances)


def _rounded(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float64)


def _packed(values: Floats) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64)
