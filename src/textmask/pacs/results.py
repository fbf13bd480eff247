"""Make the DICOM results of a segmentation."""

from __future__ import annotations

from typing import Any

from textmask.io.dicom.facts import ResultUids
from textmask.io.dicom.results import capture, encode, measurement_report, segmentation
from textmask.pacs.answers import DicomSegmentation, DicomSegmenter


def results(
    found: DicomSegmentation,
    segmenter: DicomSegmenter,
    uids: ResultUids,
    *,
    with_capture: bool = False,
    fractional: bool = False,
) -> list[Any]:
    """Make SEG, SR and, if requested, the secondary capture of a segmentation, as pydicom data sets.

    Args:
        found: the segmentation.
        segmenter: names the model.
        uids: UIDs of the results, derived from image, prompt and model.
        with_capture: also make a secondary capture.
        fractional: the SEG holds probabilities instead of a binary mask.

    Raises:
        DataError: the source cannot be referenced.
    """
    model, request = segmenter.model, found.request
    stored = found.probability if fractional else found.mask
    segment = segmentation(found.sources, stored, request, model, uids)
    made = [segment, measurement_report(found.sources, found.mask, request, model, uids, segment)]
    if with_capture:
        made.append(
            capture(
                found.sources, found.pixels, found.mask, request, model, uids, found.orientation
            )
        )

    # an error in the middle of storing would leave only some of the results
    for dataset in made:
        encode(dataset)
    return made
