"""DICOM objects of an answer."""

from __future__ import annotations

import hashlib
from typing import Any

from textmask.io.dicom.facts import ResultUids
from textmask.io.dicom.results import capture, encode, measurement_report, segmentation
from textmask.pacs.answers import DicomSegmentation, DicomSegmenter


def results(
    found: DicomSegmentation,
    answerer: DicomSegmenter,
    uids: ResultUids,
    *,
    with_capture: bool = False,
    fractional: bool = False,
) -> list[Any]:
    """SEG, SR and, if requested, the secondary capture of an answer, as pydicom data sets.

    Args:
        found: the answer of a model.
        answerer: names the model.
        uids: UIDs of the results, derived from image, prompt and model.
        with_capture: also make a secondary capture.
        fractional: the SEG holds probabilities instead of a binary mask.

    Raises:
        DataError: the source cannot be referred to.
    """
    model, request = answerer.model, found.request
    segment = segmentation(
        found.sources, found.probability if fractional else found.mask, request, model, uids
    )
    made = [segment, measurement_report(found.sources, found.mask, request, model, uids, segment)]
    if with_capture:
        made.append(
            capture(
                found.sources, found.pixels, found.mask, request, model, uids, found.orientation
            )
        )
    for dataset in made:
        encode(dataset)  # refuses here what could not be written
    return made


def short_hash(text: str) -> str:
    """What a log calls an image or a sentence: the first twelve letters of its SHA-256."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
