"""The source images of a result: their whitelisted attributes, and the checks that they are slices of one series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textmask.errors import DataError
from textmask.io.dicom.facts import slice_spacing_mm, whitelisted

# of slices that are one volume; numbers are equal up to the rounding of scanners
SAME = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "SOPClassUID", "Rows", "Columns")
SAME_PLACES = {"FrameOfReferenceUID": 0.0, "ImageOrientationPatient": 1e-3, "PixelSpacing": 1e-3}
PLACES = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
LOSSY_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91))


def source_facts(source: Sequence[Any]) -> list[dict[str, Any]]:
    """The whitelisted attributes of source images that belong to one series and have one size and geometry.

    A geometry that cannot be written as a volume is left out of a single image: without a thickness or a spacing, its
    result has no place in the patient and refers to the image only. In a series that has no thickness, the distance of
    its slices takes its place.

    Args:
        source: N pydicom data sets.

    Raises:
        DataError: there is none, they differ or are given twice, or their geometry is incomplete.
    """
    if not source:
        raise DataError("got no source image, expected at least one.")
    facts = [whitelisted(one) for one in source]
    if any(int(one.get("NumberOfFrames") or 1) > 1 for one in source):
        raise DataError(
            "the source is a multi-frame image; results are written for single-frame images only."
        )

    for keyword in SAME:
        if len({str(one.get(keyword)) for one in facts}) > 1:
            raise _difference(len(facts), keyword)
    for keyword, tolerance in SAME_PLACES.items():
        for one in facts[1:]:
            if not _close(facts[0].get(keyword), one.get(keyword), tolerance):
                raise _difference(len(facts), keyword)
            if keyword in one:
                one[keyword] = facts[0][keyword]
    if len({one["SOPInstanceUID"] for one in facts}) < len(facts):
        raise DataError("the same source image is given twice; expected each slice once.")

    # what the syntax says about the pixels, if the header does not
    for one, dataset in zip(facts, source, strict=True):
        syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "")
        if syntax in LOSSY_SYNTAXES:
            one["LossyImageCompression"] = "01"
    if any(one.get("LossyImageCompression") == "01" for one in facts):
        facts[0]["LossyImageCompression"] = "01"
    _complete_places(facts)
    return facts


def _complete_places(facts: list[dict[str, Any]]) -> None:
    """Make the geometry of the images complete, or leave it out of a single one."""
    if len(facts) == 1:
        (one,) = facts
        if not one.keys() >= {*PLACES, "SliceThickness"}:
            for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
                one.pop(keyword, None)
        return

    for keyword in PLACES:
        if any(keyword not in one for one in facts):
            raise DataError(
                f"several images have no position in the patient ({keyword} is missing); write the result of each "
                "image separately."
            )
    if any("SliceThickness" not in one for one in facts):
        thickness = slice_spacing_mm(facts)
        if thickness is None:
            raise DataError(
                "SliceThickness is empty and the slices are not evenly spaced; expected one of both. Export the series "
                "again, or write the result of each image separately."
            )
        for one in facts:
            one["SliceThickness"] = round(thickness, 6)


def _close(first: Any, other: Any, tolerance: float) -> bool:
    """Whether two values are the same; numbers up to a tolerance."""
    if not isinstance(first, list) or not isinstance(other, list) or len(first) != len(other):
        return bool(first == other)
    return all(abs(a - b) <= tolerance for a, b in zip(first, other, strict=True))


def _difference(count: int, keyword: str) -> DataError:
    return DataError(
        f"the {count} source images differ in {keyword}; expected images of one series. Write the results of each kind "
        "separately."
    )
