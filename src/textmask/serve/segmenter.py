"""Read images, segment prompts and write results: the only file of the service that uses the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask import __version__
from textmask.errors import DataError
from textmask.inference.dicom_request import request_of
from textmask.inference.jobs import BatchItem
from textmask.inference.predictor import Opened, Predictor
from textmask.inference.report_masks import TextSegmentation, segment_text
from textmask.inference.results import write_segmentation
from textmask.inference.screening import CODES, NO_SCORES, Scores
from textmask.inference.segmentation import Segmentation
from textmask.io.dicom.facts import ModelFacts, RequestFacts, ResultUids
from textmask.io.images import png_bytes, stored_size
from textmask.io.loaded import LoadedImage
from textmask.io.nifti import NiftiVolume
from textmask.io.orientation import Orientation
from textmask.io.read import kind_of, read_bytes
from textmask.plots.overlays import overlay
from textmask.serve.problems import Problem
from textmask.serve.uploads import DicomFrames, Slices, Upload, without_tables
from textmask.statement import Laterality, Statement, Zone

PLAIN = ("png", "jpeg", "tiff", "bmp")
MEDICAL = {"dicom": "dicom", "gzip": "nifti", "nifti": "nifti"}
FORMATS = (*PLAIN, "dicom", "nifti")
MESSAGES = {
    **CODES,
    "no_picture_side": "the laterality convention is unknown, so the zones may be on the other side",
}


@dataclass(frozen=True)
class PromptRequest:
    """A prompt and how to read it.

    Attributes:
        prompt: any text.
        laterality: convention of the prompt: `image`, `patient` or `unknown`; None depends on the file format.
        view: view of the image if the file does not say: a name of `io.orientation.VIEWS`.
        assume: `image` or `patient`: convention to use if it is unknown, instead of refusing.
    """

    prompt: str
    laterality: str | None = None
    view: str | None = None
    assume: str | None = None


@dataclass(frozen=True)
class ServedSegmentation:
    """The result for a prompt, in the size of the image.

    Attributes:
        mask: uint8 H W, 0 or 1, at the threshold of the recipe.
        probability: float32 H W.
        statement: what the parser understood.
        cells: the named zones by the sides of the image; None if these are unknown.
        free_cells: likewise the zones that the prompt says are free.
        warnings: codes; `message_of` gives the text of each.
        conversion: how the prompt was converted for the network.
        abstained: the model abstained, and the mask is empty.
        withheld: the mask is empty at every threshold: the model abstained, or the prompt denies the finding.
        scores: numbers about the image, the finding and the place of the mask.
        request: the request as DICOM results record it.
        orientation: of the image, or of the requested view.
        parts: one result per finding of a report; () for a single prompt.
    """

    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    statement: Statement
    cells: frozenset[Zone] | None
    free_cells: frozenset[Zone]
    warnings: tuple[str, ...]
    conversion: Mapping[str, Any] = field(default_factory=dict)
    abstained: bool = False
    withheld: bool = False
    scores: Scores = NO_SCORES
    request: RequestFacts = field(default_factory=lambda: RequestFacts(""))
    orientation: Orientation | None = None
    parts: tuple[Segmentation, ...] = ()


def message_of(code: str) -> str:
    """The text of a warning code."""
    return MESSAGES.get(code, code.replace("_", " "))


class Segmenter:
    """A trained run that may be used from several threads.

    Args:
        run: run folder, `default`, or a predictor.
        device: auto, cpu, cuda, cuda:N or mps; a predictor stays where it is.

    Raises:
        ConfigError: this machine does not have the device.
        CheckpointError: not a run folder.
    """

    def __init__(self, run: Path | str | Predictor, device: str = "auto") -> None:
        self._predictor = run if isinstance(run, Predictor) else Predictor(run, device=device)
        self.method = self._predictor.run.recipe.method
        self.threshold = float(self._predictor.run.recipe.threshold)
        self.laterality = str(self._predictor.laterality)
        self.sha256 = self._predictor.weights_sha256

    def warm_up(self) -> None:
        """Segment an empty image, so that the first client does not wait for caches."""
        blank = LoadedImage(np.zeros(self._predictor.run.recipe.image_size, np.uint8))
        self.segment(Upload(blank, 1, ""), PromptRequest("opacity in both upper lungs"))

    def read(self, data: bytes, index: int, max_pixels: int) -> Upload:
        """Decode an uploaded file. The pixels of PNG, JPEG, TIFF and BMP are counted before they are decoded.

        Args:
            data: the file.
            index: slice or frame of a file that contains several.
            max_pixels: largest accepted number of pixels.

        Raises:
            Problem: 413 if there are too many pixels, 415 if the format is unknown, 422 if the file is damaged or has
                no such index.
        """
        kind = kind_of(data[:512])
        if kind not in PLAIN and kind not in MEDICAL:
            raise Problem(
                415, "not_a_picture", "expected a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image."
            )
        if kind in PLAIN and index != 0:
            raise Problem(422, "no_such_index", f"the file contains one image, got index {index}.")

        slices: Slices | None
        try:
            if kind in PLAIN:
                _check_pixels(stored_size("the file", data), max_pixels)
            if MEDICAL.get(kind or "") == "nifti":
                volume = NiftiVolume(data, "the file")
                _check_pixels(volume.slice_shape, max_pixels)
                image, slices = volume.image(index), volume
            else:
                image, slices = read_bytes(data, "the file", index)[0], None
        except DataError as error:
            if "Decompression" in type(error.__cause__).__name__:
                raise _too_many("far more", max_pixels) from error
            raise Problem(422, "damaged", str(error)) from error

        _check_pixels(image.pixels.shape, max_pixels)
        count = _count(image)
        if image.format == "dicom":
            without_tables(image.header)
        if image.format == "dicom" and count > 1:
            slices = DicomFrames(data)
        return Upload(image, count, hashlib.sha256(data).hexdigest(), slices if count > 1 else None)

    def segment_opened(
        self, upload: Upload, request: PromptRequest
    ) -> tuple[Opened, TextSegmentation]:
        """Open the image, once per view, and segment a prompt or a report; errors as in `segment`."""
        opened = upload.opened.get(request.view)
        if opened is None:
            opened = self._predictor.open(upload.image, request.view)
            upload.keep(request.view, opened)
        return opened, segment_text(opened, request.prompt, request.laterality, request.assume)

    def segment(self, upload: Upload, request: PromptRequest) -> ServedSegmentation:
        """Segment one prompt, or each finding of a report.

        Raises:
            LateralityError: the prompt names a side, and it is unknown which side of the image that is.
            DataError: the request cannot be fulfilled.
        """
        opened, text = self.segment_opened(upload, request)
        found = text.whole

        # what was understood is shown as the user wrote it, not as the network got it
        shown = found.statement
        cells, free = _zones_in_image(shown, opened.orientation)
        denied = shown.absent or bool(shown.negated and not shown.zones)
        return ServedSegmentation(
            found.mask,
            found.probability,
            shown,
            cells,
            free,
            found.warnings,
            found.asked.as_json(),
            found.abstained,
            found.abstained or denied,
            found.scores,
            request_of(request.prompt, [found], opened.orientation, request.view),
            opened.orientation,
            text.parts,
        )

    def dicom(
        self,
        kind: str,
        upload: Upload,
        found: ServedSegmentation,
        mask: npt.NDArray[np.uint8],
        threshold: float,
    ) -> bytes:
        """Write a DICOM object.

        Args:
            kind: `seg` or `sr`.
            upload: the image.
            found: the result.
            mask: uint8 H W, the mask of the result at `threshold`.
            threshold: on the probability.

        Raises:
            Problem: 415 if the upload is not DICOM, so that patient and study are unknown.
        """
        image = upload.image
        if image.format != "dicom":
            what = kind.upper()
            raise Problem(
                415,
                "not_dicom",
                f"a DICOM {what} needs an uploaded DICOM image, got another format.",
            )

        # highdicom belongs to an optional extra and is imported only when it is needed
        from textmask.io.dicom.results import encode, measurement_report, segmentation

        model = ModelFacts(self.method, __version__, self.sha256, threshold)
        uids = ResultUids.of(
            upload.sha256,
            str(image.index),
            repr(found.request),
            repr(model),
            mask.tobytes().hex(),
        )
        made = segmentation([image.header], mask[None], found.request, model, uids)
        if kind == "sr":
            made = measurement_report([image.header], mask[None], found.request, model, uids, made)
        return encode(made)

    def write_row(
        self, item: BatchItem, request: PromptRequest, out: Path, max_pixels: int
    ) -> tuple[str, ...]:
        """Segment an image file and write NAME.mask.png, NAME.overlay.png and, last, NAME.json.

        Args:
            item: the image and its prompt.
            request: the prompt and how to read it.
            out: existing folder for the results.
            max_pixels: largest accepted number of pixels.

        Returns:
            The warning codes.

        Raises:
            TextMaskError, Problem: the image or the prompt cannot be used, or a file cannot be written.
        """
        try:
            if not item.image.is_file():
                raise DataError(f"{item.image.name} is not a file.")
            data = item.image.read_bytes()
        except OSError as error:
            raise DataError(f"{item.image.name} cannot be read ({error.strerror}).") from error

        upload = self.read(data, item.index or 0, max_pixels)
        opened, text = self.segment_opened(upload, request)
        # clients do not see the folders of this machine
        facts = {"image": item.image.name, "image_sha256": upload.sha256}
        write_segmentation(out, item, text.whole, opened, facts=facts)
        return text.whole.warnings


def _too_many(got: str, max_pixels: int) -> Problem:
    return Problem(
        413,
        "too_many_pixels",
        f"the image has {got} pixels; the limit is {max_pixels:,}.",
    )


def _check_pixels(shape: tuple[int, ...], most: int) -> None:
    if shape[0] * shape[1] > most:
        raise _too_many(f"{shape[0]:,} x {shape[1]:,}", most)


def _count(image: LoadedImage) -> int:
    """Number of frames or slices in the file of an image."""
    if image.format == "nifti":
        return int((*image.header.shape, 1, 1)[image.header.axis])
    return int(image.header.get("NumberOfFrames") or 1) if image.format == "dicom" else 1


def _zones_in_image(
    statement: Statement, orientation: Orientation | None
) -> tuple[frozenset[Zone] | None, frozenset[Zone]]:
    """Affected and free zones by the sides of the image; (None, empty) if these are unknown."""
    names_a_side = statement.mirrored() != statement
    if not names_a_side or statement.laterality is Laterality.IMAGE:
        return statement.zones, statement.negated

    left = None if orientation is None else orientation.patient_left
    if statement.laterality is Laterality.UNKNOWN or left not in ("left", "right"):
        return None, frozenset()
    turned = statement.mirrored() if left == "right" else statement
    return turned.zones, turned.negated


def mask_at(
    found: ServedSegmentation | Segmentation, threshold: float | None
) -> npt.NDArray[np.uint8]:
    """The mask at another threshold, uint8 H W; a withheld mask stays empty."""
    withheld = found.withheld if isinstance(found, ServedSegmentation) else found.abstained
    if threshold is None or withheld:
        return found.mask
    return (found.probability > threshold).astype(np.uint8)


def mask_png(mask: npt.NDArray[np.uint8]) -> bytes:
    """The mask as PNG of 0 and 255."""
    return png_bytes(mask * np.uint8(255))


def probability_png(found: ServedSegmentation | Segmentation) -> bytes:
    """The probability as PNG of 0 to 255."""
    return png_bytes((found.probability * 255 + 0.5).astype(np.uint8))


def overlay_png(upload: Upload, mask: npt.NDArray[np.uint8]) -> bytes:
    """The image with the mask tinted, as PNG."""
    return png_bytes(overlay(upload.image.pixels, mask))


def image_png(upload: Upload) -> bytes:
    """The image as PNG, before resizing."""
    return png_bytes(upload.image.pixels)
