"""The one file of the service that knows how pictures are read, sentences answered and results written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask import __version__
from textmask.config import write_json
from textmask.errors import DataError
from textmask.io.figures import overlay
from textmask.io.images import picture_size, png_bytes, write_png
from textmask.io.orientation import Orientation
from textmask.io.pictures import Picture
from textmask.io.read import read_bytes
from textmask.io.result_facts import Model, Request, ResultUids
from textmask.run.answers import request_of
from textmask.run.jobs import Job
from textmask.run.predict import Opened, Predictor
from textmask.run.prompt_check import CODES
from textmask.serve.limits import kind_of
from textmask.serve.problems import Problem
from textmask.text.grammar import parse
from textmask.text.statement import Statement, Zone
from textmask.types import Laterality

PICTURES = ("png", "jpeg", "tiff", "bmp")
MEDICAL = {"dicom": "dicom", "gzip": "nifti", "nifti": "nifti"}
FORMATS = (*PICTURES, "dicom", "nifti")
PLAIN_WORDS = {**CODES, "no_picture_side": "whose left is meant is not known, so the zones may be on the other side"}


@dataclass(frozen=True)
class Upload:
    """One uploaded picture, decoded.

    Attributes:
        picture: pixels and what is known of the patient.
        count: pictures in the file; `picture` is one of them.
        sha256: of the file.
        opened: what the model has computed of it already, by the view that was named.
    """

    picture: Picture
    count: int
    sha256: str
    opened: dict[str | None, Opened] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """Of the pixels."""
        return self.picture.pixels.nbytes


@dataclass(frozen=True)
class Question:
    """What is asked of a picture.

    Attributes:
        sentence: any text.
        laterality: whose left it means: `image`, `patient` or `unknown`; None takes the usual for the format.
        view: what the picture shows, where the file does not say: a name of `io.orientation.VIEWS`.
        assume: `image` or `patient`: whose left to take where it cannot be known, instead of refusing.
    """

    sentence: str
    laterality: str | None = None
    view: str | None = None
    assume: str | None = None


@dataclass(frozen=True)
class Answer:
    """The answer in the size of the picture.

    Attributes:
        mask: uint8 H W, 0 or 1, at the recipe's threshold.
        probability: float32 H W.
        statement: what was understood.
        cells: the understood zones by sides of the picture as it is shown; None where these are not known.
        free_cells: likewise what the sentence says to be free.
        warnings: codes; `plain` says each in words.
        asked: what was done with the sentence before the network got it.
        abstained: no answer is given, and the mask is empty.
        withheld: the mask is empty whatever the threshold: the model abstained, or the sentence denies the finding.
        compatibility: how well sentence and picture fit, where the run can tell.
        request: what DICOM results say of the question.
        orientation: of the picture, or of the view that was named.
    """

    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    statement: Statement
    cells: frozenset[Zone] | None
    free_cells: frozenset[Zone]
    warnings: tuple[str, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)
    abstained: bool = False
    withheld: bool = False
    compatibility: float | None = None
    request: Request = field(default_factory=lambda: Request(""))
    orientation: Orientation | None = None


def plain(code: str) -> str:
    """A warning in words."""
    return PLAIN_WORDS.get(code, code.replace("_", " "))


class Engine:
    """A trained run that any thread may ask.

    Raises:
        CheckpointError: not a run folder.
    """

    def __init__(self, run: Path | str | Predictor) -> None:
        self._predictor = run if isinstance(run, Predictor) else Predictor(run)
        self.method = self._predictor.run.recipe.method
        self.threshold = float(self._predictor.run.recipe.threshold)
        self.laterality = str(self._predictor.laterality)
        self.sha256 = self._predictor.weights_sha256

    def warm_up(self) -> None:
        """Segment an empty picture, so that the first client does not wait for caches."""
        blank = np.zeros(self._predictor.run.recipe.image_size, np.uint8)
        self.segment(Upload(Picture(blank), 1, ""), Question("opacity in both upper lungs"))

    def read(self, data: bytes, index: int, max_pixels: int) -> Upload:
        """Decode an uploaded file; the pixels of a plain picture are counted before they are decoded.

        Raises:
            Problem: 413 too many pixels; 415 no picture of a known kind; 422 damaged, or no such index.
        """
        kind = kind_of(data[:512])
        if kind not in PICTURES and kind not in MEDICAL:
            raise Problem(415, "not_a_picture", "expected a PNG, JPEG, TIFF, BMP, DICOM or NIfTI picture.")
        if kind in PICTURES and index != 0:
            raise Problem(422, "no_such_index", f"the file holds one picture, got index {index}.")
        try:
            if kind in PICTURES:
                _check_pixels(picture_size("the file", data), max_pixels)
            # the ending counts only where the first bytes say nothing, as in gzip
            name = "the file.nii.gz" if kind == "gzip" else "the file"
            picture = read_bytes(data, name, index)[0]
        except DataError as error:
            if "Decompression" in type(error.__cause__).__name__:
                raise _too_many("far more", max_pixels) from error
            raise Problem(422, "damaged", str(error)) from error
        _check_pixels(picture.pixels.shape, max_pixels)
        return Upload(picture, _count(picture), hashlib.sha256(data).hexdigest())

    def segment(self, upload: Upload, question: Question) -> Answer:
        """Answer one question.

        Raises:
            LateralityError: a side is named, and it cannot be known which side of the picture that is.
            DataError: the question cannot be answered as it is.
        """
        view = question.view
        opened = upload.opened.get(view) or self._predictor.open(upload.picture, view)
        upload.opened[view] = opened
        found = opened.segment(question.sentence, question.laterality, question.assume)
        shown = parse(question.sentence, self._predictor.grammar, found.asked.said)
        cells, free = _cells(shown, opened.orientation)
        denied = shown.absent or bool(shown.negated and not shown.zones)
        return Answer(
            found.mask,
            found.probability,
            shown,
            cells,
            free,
            found.warnings,
            found.asked.as_json(),
            found.abstained,
            found.abstained or denied,
            found.compatibility,
            request_of(question.sentence, [found], opened.orientation, view),
            opened.orientation,
        )

    def dicom(self, kind: str, upload: Upload, answer: Answer, mask: npt.NDArray[np.uint8], threshold: float) -> bytes:
        """A DICOM object (`seg` or `sr`) of an answer; `mask` is what `threshold` makes of it.

        Raises:
            Problem: 415, the upload is not DICOM, so there is no patient and study to write it for.
        """
        picture = upload.picture
        if picture.format != "dicom":
            what = kind.upper()
            raise Problem(415, "not_dicom", f"a DICOM {what} can be made of an uploaded DICOM picture only.")
        from textmask.io.dicom_results import encode, measurement_report, segmentation

        model = Model(self.method, __version__, self.sha256, threshold)
        uids = ResultUids.of(upload.sha256, str(picture.index), repr(answer.request), repr(model), mask.tobytes().hex())
        made = segmentation([picture.header], mask[None], answer.request, model, uids)
        if kind == "sr":
            made = measurement_report([picture.header], mask[None], answer.request, model, uids, made)
        return encode(made)

    def write_row(self, job: Job, question: Question, out: Path, max_pixels: int) -> tuple[str, ...]:
        """Segment a picture file into NAME.mask.png, NAME.overlay.png and, last, NAME.json; returns warning codes.

        Raises:
            TextMaskError, Problem: the picture or the sentence cannot be used, or a file not written.
        """
        try:
            if not job.image.is_file():
                raise DataError(f"{job.image.name} is no file.")
            data = job.image.read_bytes()
        except OSError as error:
            raise DataError(f"{job.image.name} cannot be read ({error.strerror}).") from error
        upload = self.read(data, job.index or 0, max_pixels)
        answer = self.segment(upload, question)
        start = out / job.stem
        write_png(start.with_name(f"{job.stem}.mask.png"), answer.mask * np.uint8(255))
        write_png(start.with_name(f"{job.stem}.overlay.png"), overlay(upload.picture.pixels, answer.mask))
        record = {
            "image": job.image.name,
            "image_sha256": upload.sha256,
            "text": job.text,
            "asked": dict(answer.asked),
            "abstained": answer.abstained,
            "foreground_px": int(answer.mask.sum()),
            "warnings": list(answer.warnings),
            "findings": [finding.as_json() for finding in answer.statement.findings],
            "method": self.method,
            "weights_sha256": self.sha256,
            "threshold": self.threshold,
        }
        try:
            write_json(start.with_name(f"{job.stem}.json"), record)
        except OSError as error:
            raise DataError(f"cannot write {job.stem}.json ({error.strerror}). Free some space.") from error
        return answer.warnings


def _too_many(got: str, max_pixels: int) -> Problem:
    return Problem(413, "too_many_pixels", f"the picture has {got} pixels, at most {max_pixels:,} are accepted.")


def _check_pixels(shape: tuple[int, ...], most: int) -> None:
    if shape[0] * shape[1] > most:
        raise _too_many(f"{shape[0]:,} x {shape[1]:,}", most)


def _count(picture: Picture) -> int:
    """Frames or slices in the file of a picture."""
    if picture.format == "nifti":
        return int((*picture.header.shape, 1, 1)[picture.header.axis])
    return int(picture.header.get("NumberOfFrames") or 1) if picture.format == "dicom" else 1


def _names_a_side(statement: Statement) -> bool:
    """Whether it matters whose left is meant."""
    return statement.mirrored() != statement


def _cells(statement: Statement, orientation: Orientation | None) -> tuple[frozenset[Zone] | None, frozenset[Zone]]:
    """Affected and free zones by sides of the picture; (None, ()) where these are not known."""
    if not _names_a_side(statement) or statement.laterality is Laterality.IMAGE:
        return statement.zones, statement.negated
    left = None if orientation is None else orientation.patient_left
    if statement.laterality is Laterality.UNKNOWN or left not in ("left", "right"):
        return None, frozenset()
    turned = statement.mirrored() if left == "right" else statement
    return turned.zones, turned.negated


def mask_at(answer: Answer, threshold: float | None) -> npt.NDArray[np.uint8]:
    """The mask at another threshold, uint8 H W; a withheld answer stays empty."""
    if threshold is None or answer.withheld:
        return answer.mask
    return (answer.probability > threshold).astype(np.uint8)


def mask_png(mask: npt.NDArray[np.uint8]) -> bytes:
    """PNG of 0 and 255."""
    return png_bytes(mask * np.uint8(255))


def probability_png(answer: Answer) -> bytes:
    """PNG of the probability, 0 to 255."""
    return png_bytes((answer.probability * 255 + 0.5).astype(np.uint8))


def overlay_png(upload: Upload, mask: npt.NDArray[np.uint8]) -> bytes:
    """PNG of the picture with the mask tinted."""
    return png_bytes(overlay(upload.picture.pixels, mask))


def picture_png(upload: Upload) -> bytes:
    """PNG of the picture as the network is given it, before resizing."""
    return png_bytes(upload.picture.pixels)
