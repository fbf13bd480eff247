"""Files and a sentence in, masks and what is written beside them out: a predictor as the watcher calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError
from textmask.inference.dicom_request import request_of
from textmask.inference.predictor import Predictor
from textmask.io.dicom.facts import ModelFacts, RequestFacts, is_uid
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation

Read = Callable[[bytes, str], Sequence[LoadedImage]]


@dataclass(frozen=True)
class DicomSegmentation:
    """Masks of the slices of one request.

    Attributes:
        sources: N pydicom data sets, pixels not needed, in the order of the mask.
        pixels: uint8 N H W or N H W 3, grey levels as they are shown.
        mask: uint8 N H W, as the images are stored.
        probability: float32 N H W.
        request: the sentence with its side, site and notes.
        orientation: of the images; None where it is not known.
    """

    sources: tuple[Any, ...]
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    request: RequestFacts
    orientation: Orientation | None = None


class DicomSegmenter(Protocol):
    """Answers a sentence about the files of one film or series.

    Attributes:
        model: what answers.
        settings: what else changes the answer, e.g. whose left is meant; results of other settings are other results.
    """

    model: ModelFacts
    settings: str

    def __call__(self, files: Sequence[bytes], sentence: str) -> DicomSegmentation:
        """The masks.

        Raises:
            DataError: the files or the sentence cannot be used.
        """
        ...


def answer(
    predictor: Predictor,
    files: Sequence[bytes],
    sentence: str,
    read: Read,
    laterality: str | None = None,
    assume: str | None = None,
    view: str | None = None,
) -> DicomSegmentation:
    """Ask a predictor about every file, one slice each.

    Args:
        predictor: `textmask.inference.predictor.Predictor`.
        files: whole DICOM files of one series.
        sentence: what to segment.
        read: bytes and what messages call them to pictures (`textmask.io.read.read_bytes`).
        laterality: whose left the sentence means; None is the patient's.
        assume: whose left is assumed where that is not known.
        view: what the images show, e.g. pa; it overrules the files.

    Raises:
        DataError: a file is no DICOM image of one frame, or the slices differ in size.
        LateralityError: a side is named, and it cannot be known which side of the picture that is.
    """
    pictures = [_only_picture(read(data, "the instance")) for data in files]
    if len({(picture.pixels.shape, _letters(picture.orientation)) for picture in pictures}) != 1:
        raise DataError(
            f"the {len(pictures)} images differ in size or orientation; expected slices of one series."
        )
    found = [
        predictor.open(picture, view).segment(sentence, laterality, assume) for picture in pictures
    ]
    orientation = pictures[0].orientation if view is None else Orientation.of_view(view)
    return DicomSegmentation(
        tuple(picture.header for picture in pictures),
        np.stack([picture.pixels for picture in pictures]),
        np.stack([one.mask for one in found]).astype(np.uint8),
        np.stack([one.probability for one in found]).astype(np.float32),
        request_of(sentence, found, orientation, view),
        orientation,
    )


class PredictorSegmenter:
    """`answer` with a predictor and settings that stay."""

    def __init__(
        self,
        predictor: Predictor,
        read: Read,
        version: str,
        laterality: str | None = None,
        assume: str | None = None,
        view: str | None = None,
    ) -> None:
        recipe = predictor.run.recipe
        self.predictor, self.read, self.how = predictor, read, (laterality, assume, view)
        self.model = ModelFacts(recipe.method, version, predictor.weights_sha256, recipe.threshold)
        self.settings = (
            f"laterality={laterality or 'patient'} assume={assume or 'no'} view={view or 'file'}"
        )

    def __call__(self, files: Sequence[bytes], sentence: str) -> DicomSegmentation:
        """The masks of the files of one film or series."""
        return answer(self.predictor, files, sentence, self.read, *self.how)


def _only_picture(pictures: Sequence[LoadedImage]) -> LoadedImage:
    if len(pictures) != 1:
        raise DataError(
            f"the instance holds {len(pictures)} frames; results are written for single-frame images only."
        )
    if pictures[0].format != "dicom" or not is_uid(
        str(pictures[0].header.get("SOPInstanceUID", ""))
    ):
        raise DataError("the instance is no DICOM image.")
    return pictures[0]


def _letters(orientation: Orientation | None) -> tuple[str, str] | None:
    return None if orientation is None else (orientation.columns, orientation.rows)
