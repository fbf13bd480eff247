"""The one file of the service that knows how pictures are read, sentences answered and results written."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask.config import write_json
from textmask.errors import DataError, LateralityError, PromptWarning
from textmask.io.figures import overlay
from textmask.io.images import picture_size, png_bytes, read_image, write_png
from textmask.io.orientation import Orientation
from textmask.io.pictures import Picture
from textmask.run.predict import CUT, Job, Predictor
from textmask.serve.limits import kind_of
from textmask.serve.problems import Problem
from textmask.text.edit import mirror
from textmask.text.grammar import WARNINGS, parse
from textmask.text.statement import Statement, Zone
from textmask.types import Laterality

SUFFIX = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "bmp": ".bmp"}
PLAIN_WORDS = {
    **WARNINGS,
    CUT: "the sentence is longer than the text encoder reads; its end had no effect",
    "no_picture_side": "whose left is meant is not known, so the zones may be on the other side",
}


@dataclass(frozen=True)
class Upload:
    """One uploaded picture, decoded.

    Attributes:
        picture: pixels and what is known of the patient.
        count: pictures in the file; `picture` is one of them.
        sha256: of the file.
    """

    picture: Picture
    count: int
    sha256: str

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
        compatibility: how well sentence and picture fit, where the run can tell.
    """

    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    statement: Statement
    cells: frozenset[Zone] | None
    free_cells: frozenset[Zone]
    warnings: tuple[str, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)
    abstained: bool = False
    compatibility: float | None = None


def plain(code: str) -> str:
    """A warning in words."""
    return PLAIN_WORDS.get(code, code.replace("_", " "))


class Engine:
    """A trained run behind a lock: any thread may ask.

    Raises:
        CheckpointError: not a run folder.
    """

    def __init__(self, run: Path | str | Predictor) -> None:
        self._predictor = run if isinstance(run, Predictor) else Predictor(run)
        self._lock = threading.Lock()
        self.method = self._predictor.run.recipe.method
        self.threshold = float(self._predictor.run.recipe.threshold)
        self.laterality = str(self._predictor.laterality)
        self.sha256 = self._predictor.weights_sha256
        self.medical = False  # whether DICOM and NIfTI can be read and written

    def warm_up(self) -> None:
        """Segment an empty picture, so that the first client does not wait for caches."""
        blank = np.zeros(self._predictor.run.recipe.image_size, np.uint8)
        self.segment(Upload(Picture(blank), 1, ""), Question("upper lung", assume="image"))

    def read(self, data: bytes, index: int, max_pixels: int) -> Upload:
        """Decode an uploaded file; its pixels are counted before they are decoded.

        Raises:
            Problem: 413 too many pixels; 415 no picture of a known kind; 422 damaged, or no such index.
        """
        kind = kind_of(data[:512])
        if kind not in SUFFIX:
            raise Problem(415, "not_a_picture", "expected a PNG, JPEG, TIFF or BMP picture.")
        if index != 0:
            raise Problem(422, "no_such_index", f"the file holds one picture, got index {index}.")
        with tempfile.TemporaryDirectory(prefix="textmask-") as folder:
            path = Path(folder) / f"upload{SUFFIX[kind]}"
            path.write_bytes(data)
            try:
                rows, columns = picture_size(path)
                if rows * columns > max_pixels:
                    raise _too_many(f"{rows:,} x {columns:,}", max_pixels)
                pixels = read_image(path)
            except DataError as error:
                if "Decompression" in type(error.__cause__).__name__:
                    raise _too_many("far more", max_pixels) from error
                message = str(error).replace(str(path), "the file")
                raise Problem(422, "damaged", message) from error
        return Upload(Picture(pixels), 1, hashlib.sha256(data).hexdigest())

    def segment(self, upload: Upload, question: Question) -> Answer:
        """Answer one question.

        Raises:
            LateralityError: a side is named, and it cannot be known which side of the picture that is.
            DataError: the question cannot be answered as it is.
        """
        sentence, asked = self._as_learnt(upload.picture, question)
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptWarning)  # the codes are in the answer
            found = self._predictor.set_image(upload.picture.pixels).segment(sentence)
        shown = parse(question.sentence, laterality=Laterality(asked["said"]))
        cells, free = _cells(shown, _orientation(upload.picture, question.view))
        return Answer(found.mask, found.probability, shown, cells, free, found.warnings, asked)

    def dicom(self, kind: str, upload: Upload, answer: Answer, mask: npt.NDArray[np.uint8]) -> bytes:
        """A DICOM object (`seg` or `sr`) of an answer.

        Raises:
            Problem: 415, the upload is not DICOM, so there is no patient and study to write it for.
        """
        raise Problem(415, "not_dicom", f"a DICOM {kind.upper()} can be made of an uploaded DICOM picture only.")

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
        upload = self.read(data, 0, max_pixels)
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
            "method": self.method,
            "weights_sha256": self.sha256,
            "threshold": self.threshold,
        }
        try:
            write_json(start.with_name(f"{job.stem}.json"), record)
        except OSError as error:
            raise DataError(f"cannot write {job.stem}.json ({error.strerror}). Free some space.") from error
        return answer.warnings

    def _as_learnt(self, picture: Picture, question: Question) -> tuple[str, dict[str, Any]]:
        """The sentence in the convention of the model, and the record of how it got there."""
        said = question.laterality or ("image" if picture.format == "picture" else "patient")
        sided = _names_a_side(parse(question.sentence))
        orientation = _orientation(picture, question.view)
        record: dict[str, Any] = {"said": said, "model": self.laterality, "view": question.view, "assumed": False}
        record |= {"sentence": question.sentence, "conversion": "none"}
        if said == "unknown" and sided:
            if question.assume is None:
                raise LateralityError(
                    "the sentence names a side, and it is not known whose left is meant. Say image or patient."
                )
            said = question.assume
            record |= {"said": said, "assumed": True}
        if not sided or said == "unknown" or self.laterality == "unknown" or said == self.laterality:
            return question.sentence, record
        if orientation is None or orientation.patient_left not in ("left", "right"):
            raise LateralityError(
                f"the sentence means the {said} side and the model learnt the {self.laterality} side; to convert, the "
                "view must be known. Say which view the picture shows, e.g. pa."
            )
        if orientation.patient_left == "left":
            return question.sentence, record | {"conversion": "both lefts are the same in this view"}
        mirrored = mirror(question.sentence)
        if mirrored is None:
            raise LateralityError("the sentence cannot be rewritten for the other side. Use plain words of place.")
        return mirrored, record | {"sentence": mirrored, "conversion": "left and right exchanged for the model"}


def _too_many(got: str, max_pixels: int) -> Problem:
    return Problem(413, "too_many_pixels", f"the picture has {got} pixels, at most {max_pixels:,} are accepted.")


def _orientation(picture: Picture, view: str | None) -> Orientation | None:
    return Orientation.of_view(view) if view is not None else picture.orientation


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
    """The mask at another threshold, uint8 H W; an abstained answer stays empty."""
    if threshold is None or answer.abstained:
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
