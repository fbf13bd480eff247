"""Segment DICOM files with a prompt: the masks, and the data that results record with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError, DomainError
from textmask.inference.dicom_request import request_of
from textmask.inference.predictor import Predictor
from textmask.io.dicom.domain import Domain
from textmask.io.dicom.facts import ModelFacts, RequestFacts, is_uid
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation

ImageReader = Callable[[bytes, str], Sequence[LoadedImage]]


@dataclass(frozen=True)
class DicomSegmentation:
    """Masks of the slices of one request.

    Attributes:
        sources: N pydicom data sets in the order of the mask; pixels are not needed.
        pixels: uint8 N H W or N H W 3, gray levels as they are shown.
        mask: uint8 N H W, as the images are stored.
        probability: float32 N H W.
        request: the prompt with its side, site and notes.
        orientation: of the images; None if unknown.
    """

    sources: tuple[Any, ...]
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    request: RequestFacts
    orientation: Orientation | None = None


class DicomSegmenter(Protocol):
    """Segments the files of one image or series.

    Attributes:
        model: the model.
        settings: what else changes the result, e.g. the laterality convention; other settings make other results.
        domain: the images that the model knows.
    """

    model: ModelFacts
    settings: str
    domain: Domain

    def __call__(self, files: Sequence[bytes], prompt: str) -> DicomSegmentation:
        """Segment the files.

        Raises:
            DataError: the files or the prompt cannot be used.
        """
        ...


def segment_files(
    predictor: Predictor,
    files: Sequence[bytes],
    prompt: str,
    read: ImageReader,
    laterality: str | None = None,
    assume: str | None = None,
    view: str | None = None,
) -> DicomSegmentation:
    """Segment every file, one slice each.

    Args:
        predictor: the model.
        files: whole DICOM files of one series.
        prompt: what to segment.
        read: reads the images of a file from its bytes and its name (`textmask.io.read.read_bytes`).
        laterality: laterality convention of the prompt; None means `patient`.
        assume: convention to use if it is unknown.
        view: view of the images, e.g. pa; it replaces the orientation in the files.

    Raises:
        DomainError: an image is of a kind that the model does not know.
        DataError: a file is not a DICOM image of one frame, or the slices differ in size.
        LateralityError: the prompt names a side, and it is unknown which side of the image that is.
    """
    images = [_only_image(read(data, "the instance")) for data in files]
    kinds = {(image.pixels.shape, _letters(image.orientation)) for image in images}
    if len(kinds) != 1:
        raise DataError(
            f"the {len(images)} images differ in size or orientation; expected slices of one series."
        )

    named = None if view is None else Orientation.of_view(view)
    if predictor.domain is not None:
        for image in images:
            shown = image.orientation if named is None else named
            if outside := predictor.domain.mismatch(image.header, shown, named is not None):
                raise DomainError(f"the model does not know images of this kind: {outside}.")
    found = [predictor.open(image, view).segment(prompt, laterality, assume) for image in images]
    orientation = images[0].orientation if named is None else named
    return DicomSegmentation(
        tuple(image.header for image in images),
        np.stack([image.pixels for image in images]),
        np.stack([one.mask for one in found]).astype(np.uint8),
        np.stack([one.probability for one in found]).astype(np.float32),
        request_of(prompt, found, orientation, view),
        orientation,
    )


class PredictorSegmenter:
    """`segment_files` with a fixed predictor and fixed settings.

    Args:
        predictor: the model.
        read: see `segment_files`.
        version: of this software.
        laterality: see `segment_files`.
        assume: see `segment_files`.
        view: see `segment_files`.
        any_image: segment images outside of the domain of the model too; the results say so.
    """

    def __init__(
        self,
        predictor: Predictor,
        read: ImageReader,
        version: str,
        laterality: str | None = None,
        assume: str | None = None,
        view: str | None = None,
        any_image: bool = False,
    ) -> None:
        recipe = predictor.run.recipe
        self.domain = predictor.domain or Domain()
        if any_image:
            predictor.domain = None
        self.predictor, self.read = predictor, read
        self.convention = (laterality, assume, view)
        self.model = ModelFacts(recipe.method, version, predictor.weights_sha256, recipe.threshold)
        self.settings = (
            f"laterality={laterality or 'patient'} assume={assume or 'no'} view={view or 'file'}"
        )

    def __call__(self, files: Sequence[bytes], prompt: str) -> DicomSegmentation:
        """Segment the files of one image or series."""
        found = segment_files(self.predictor, files, prompt, self.read, *self.convention)
        notes = _domain_notes(self.domain, found, named=self.convention[2] is not None)
        return replace(found, request=replace(found.request, notes=(*found.request.notes, *notes)))


def _domain_notes(domain: Domain, found: DicomSegmentation, named: bool) -> list[str]:
    """What results say about the kind of the images, each remark once."""
    notes: list[str] = []
    for header in found.sources:
        if outside := domain.mismatch(header, found.orientation, named):
            notes.append(f"Outside of what the model knows, by order of the operator: {outside}.")
        if unknown := domain.unknown(header):
            missing = ", ".join(unknown)
            notes.append(f"The file does not say its {missing}, which the model depends on.")
    return list(dict.fromkeys(notes))


def _only_image(images: Sequence[LoadedImage]) -> LoadedImage:
    if len(images) != 1:
        raise DataError(
            f"the instance has {len(images)} frames; results are written for single-frame images only."
        )
    image = images[0]
    if image.format != "dicom" or not is_uid(str(image.header.get("SOPInstanceUID", ""))):
        raise DataError("the instance is not a DICOM image.")
    return image


def _letters(orientation: Orientation | None) -> tuple[str, str] | None:
    return None if orientation is None else (orientation.columns, orientation.rows)
