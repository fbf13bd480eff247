"""A mask as DICOM: segmentation (SEG), measurement report (SR TID 1500) and secondary capture.

The whole sentence, the model and whose left was meant are in the results. The only file that uses highdicom.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask.errors import ConfigError, DataError
from textmask.io.dicom.capture import capture_picture
from textmask.io.dicom.facts import (
    LO_MOST,
    RESEARCH,
    SOFTWARE,
    ModelFacts,
    RequestFacts,
    ResultUids,
    derived_uid,
    long_string,
    one_line,
    segment_label,
    short_text,
    slice_spacing_mm,
    spacing_mm,
    whitelisted,
)
from textmask.io.orientation import Orientation

try:
    import highdicom as hd
    from highdicom.base import (
        Dataset,  # pydicom's own class; pydicom itself is imported where DICOM is read
    )
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import CodedConcept
except ModuleNotFoundError as error:
    raise ConfigError(
        f"DICOM results need highdicom: pip install 'textmask[dicom]' ({error})."
    ) from error

CHARACTERS = "ISO_IR 192"  # UTF-8
SERIES = {"SEG": 9001, "SR": 9002, "OT": 9003}
# value, scheme, meaning; each use makes its own item, because items are changed after they are set
Code = tuple[str, str, str]
LESION: Code = ("52988006", "SCT", "Lesion")
ABNORMAL: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
SITES: dict[str, Code] = {"lung": ("39607008", "SCT", "Lung")}
LATERALITY: dict[str, Code] = {
    "left": ("7771000", "SCT", "Left"),
    "right": ("24028007", "SCT", "Right"),
    "both": ("51440002", "SCT", "Right and left"),
}
LATERALITY_NAME: Code = ("272741003", "SCT", "Laterality")
IMAGING: Code = ("363679005", "SCT", "Imaging")
INTELLIGENCE: Code = ("123110", "DCM", "Artificial Intelligence")
REPORT: Code = ("126000", "DCM", "Imaging Measurement Report")
COMMENT: Code = ("121106", "DCM", "Comment")
DEVICE: Code = ("121007", "DCM", "Device")
AREA: Code = ("42798000", "SCT", "Area")
VOLUME: Code = ("118565006", "SCT", "Volume")
SENTENCE: Code = ("sentence", "99TEXTMASK", "Sentence that was segmented")
PIXELS: Code = ("{pixels}", "UCUM", "pixels")
MM2: Code = ("mm2", "UCUM", "square millimeter")
MM3: Code = ("mm3", "UCUM", "cubic millimeter")
NOTHING = "no region was found for the sentence"


def segmentation(
    source: Sequence[Any],
    mask: npt.NDArray[Any],
    request: RequestFacts,
    model: ModelFacts,
    uids: ResultUids,
) -> Any:
    """DICOM SEG with one segment over all slices; an empty mask is written too, and says so.

    Args:
        source: N pydicom data sets of one series, pixels not needed, in the order of the mask.
        mask: N H W as the images are stored: uint8 0 or 1 gives BINARY, float in [0, 1] FRACTIONAL (probability).
        request: the sentence, and the patient's side and site where known.
        model: what answered.
        uids: of the results.

    Returns:
        A pydicom data set.

    Raises:
        DataError: shapes or values that do not fit, or a source that cannot be referred to.
    """
    slim = _slim(source)
    fractional = np.issubdtype(mask.dtype, np.floating)
    _check_mask(mask, slim, fractional)
    described = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=segment_label(request.sentence),
        segmented_property_category=_code(ABNORMAL),
        segmented_property_type=_code(LESION),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(model, request),
        tracking_uid=uids.tracking,
        tracking_id=_tracking_id(request),
        anatomic_regions=[_region(request)] if request.site in SITES else None,
    )
    empty = not (mask > 0).any()
    described.SegmentDescription = short_text(
        f"({NOTHING}) {request.sentence}" if empty else request.sentence
    )
    if (
        request.site not in SITES and request.side is not None
    ):  # a side of no region: of what the segment shows
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_side(request.side)]
    with _refusals("SEG"):
        made = hd.seg.Segmentation(
            source_images=slim,
            pixel_array=mask,
            segmentation_type="FRACTIONAL" if fractional else "BINARY",
            segment_descriptions=[described],
            series_instance_uid=uids.seg_series,
            sop_instance_uid=uids.seg,
            content_label="TEXTMASK",
            content_description=long_string(
                f"{NOTHING}: {request.sentence}" if empty else request.sentence
            ),
            **_common("SEG", request, model),
        )
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimension = derived_uid(
        "dimension", uids.seg
    )
    for item in made.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimension
    if "ImageOrientationPatient" not in slim[0]:  # of a film: nothing else says where its left is
        made.PatientOrientation = slim[0].get("PatientOrientation") or None
    return made


def measurement_report(
    source: Sequence[Any],
    mask: npt.NDArray[np.uint8],
    request: RequestFacts,
    model: ModelFacts,
    uids: ResultUids,
    segment: Any,
) -> Any:
    """SR TID 1500: the sentence, finding, site and side, size, and references to the SEG and its images.

    The size is an area in mm2 (a volume in mm3 over several slices), or a number of pixels where the source does not
    tell its spacing. The tracking UID is the one in the SEG.

    Args:
        source: as for `segmentation`.
        mask: uint8 N H W.
        request: as for `segmentation`.
        model: as for `segmentation`.
        uids: as for `segmentation`.
        segment: what `segmentation` returned.

    Raises:
        DataError: as `segmentation`.
    """
    slim = _slim(source)
    _check_mask(mask, slim, fractional=False)
    size, notes = _size(mask, slim)
    shared: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=uids.tracking, identifier=_tracking_id(request)
        ),
        "finding_category": _code(ABNORMAL),
        "finding_type": _code(LESION),
        "algorithm_id": hd.sr.AlgorithmIdentification(
            name=long_string(model.name),
            version=long_string(model.version),
            parameters=_parameters(model, request),
        ),
        "measurements": [size],
    }
    if request.site in SITES:
        side = None if request.side is None else _side(request.side)
        shared["finding_sites"] = [hd.sr.FindingSite(_code(SITES[request.site]), laterality=side)]
    elif request.side is not None:
        shared["qualitative_evaluations"] = [
            hd.sr.QualitativeEvaluation(_code(LATERALITY_NAME), _side(request.side))
        ]
    images = [hd.sr.SourceImageForSegmentation(one.SOPClassUID, one.SOPInstanceUID) for one in slim]
    group: Any
    if len(slim) == 1:
        frame = hd.sr.ReferencedSegmentationFrame(
            segment.SOPClassUID, segment.SOPInstanceUID, 1, 1, images[0]
        )
        del (
            frame[0].ReferencedSOPSequence[0].ReferencedFrameNumber
        )  # the standard allows one: a segment or a frame
        group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=frame, **shared
        )
    else:
        whole = hd.sr.ReferencedSegment(
            segment.SOPClassUID, segment.SOPInstanceUID, 1, source_images=images
        )
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=whole, **shared
        )
    lines = [*([] if mask.any() else [f"{NOTHING}."]), *notes, *request.notes, f"{RESEARCH}."]
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    texts = [
        hd.sr.TextContentItem(_code(SENTENCE), one_line(request.sentence) or "(no words)", contains)
    ]
    texts += [hd.sr.TextContentItem(_code(COMMENT), one_line(line), contains) for line in lines]
    group[0].ContentSequence.extend(texts)
    report = hd.sr.MeasurementReport(_observer(model), _code(IMAGING), [group], title=_code(REPORT))
    kind = hd.sr.ComprehensiveSR if len(slim) == 1 else hd.sr.Comprehensive3DSR
    with _refusals("SR"):
        return kind(
            evidence=[*slim, segment],
            content=report,
            series_instance_uid=uids.sr_series,
            sop_instance_uid=uids.sr,
            is_complete=True,
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    "99TEXTMASK", name=SOFTWARE, responsible_organization=SOFTWARE
                )
            ],
            **_common("SR", request, model),
        )


def capture(
    source: Sequence[Any],
    pixels: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    request: RequestFacts,
    model: ModelFacts,
    uids: ResultUids,
    orientation: Orientation | None = None,
) -> Any:
    """Secondary capture for viewers that show no SEG: the picture with the mask, the sentence, and the patient's sides.

    Of several slices the one with most of the mask is shown. Not for measuring: it is scaled and has no spacing.

    Args:
        source: as for `segmentation`.
        pixels: uint8 N H W or N H W 3, grey levels as they are shown.
        mask: uint8 N H W.
        request: as for `segmentation`.
        model: as for `segmentation`.
        uids: as for `segmentation`.
        orientation: of the pictures; None where it is not known, which is written on it.

    Raises:
        DataError: as `segmentation`.
    """
    slim = _slim(source)
    _check_mask(mask, slim, fractional=False)
    if pixels.shape[:3] != mask.shape or pixels.dtype != np.uint8:
        raise DataError(
            f"capture: got pixels {pixels.dtype} {pixels.shape} for a mask of {mask.shape}."
        )
    shown = int(mask.reshape(len(mask), -1).sum(1).argmax())
    lines = [one_line(request.sentence) or "(no words)", f"{SOFTWARE} {model.name}. {RESEARCH}."]
    if len(slim) > 1:
        lines[1] += f" Slice {shown + 1} of {len(slim)}."
    if not mask.any():
        lines.insert(1, f"{NOTHING}.")
    picture = capture_picture(pixels[shown], mask[shown], lines, orientation)
    with _refusals("secondary capture"):
        made = hd.sc.SCImage(
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F")
            if orientation is None
            else (orientation.columns, orientation.rows),
            study_instance_uid=slim[shown].StudyInstanceUID,
            series_instance_uid=uids.capture_series,
            sop_instance_uid=uids.capture,
            patient_name=slim[shown].PatientName,
            patient_birth_date=slim[shown].PatientBirthDate,
            patient_sex=slim[shown].PatientSex,
            patient_id=slim[shown].PatientID,
            accession_number=slim[shown].AccessionNumber,
            study_id=slim[shown].StudyID,
            study_date=slim[shown].StudyDate or None,
            study_time=slim[shown].StudyTime or None,
            **_common("OT", request, model),
        )
    if orientation is None:
        made.PatientOrientation = None  # unknown, and said so by being empty
    made.Laterality = None  # of a paired body part that was examined: not known here
    if "IssuerOfPatientID" in slim[shown]:
        made.IssuerOfPatientID = slim[shown].IssuerOfPatientID
    made.DerivationDescription = short_text(f"{SOFTWARE} {model.name}: {request.sentence}")
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
        slim[shown].SOPClassUID,
        slim[shown].SOPInstanceUID,
    )
    made.SourceImageSequence = [reference]
    return made


def encode(dataset: Any) -> bytes:
    """A complete DICOM file (Part 10) whose preamble is empty.

    Without the preamble Orthanc stores a file that it cannot give back.

    Raises:
        DataError: it cannot be encoded.
    """
    dataset.preamble = bytes(128)
    buffer = io.BytesIO()
    with _refusals("file"):
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _slim(source: Sequence[Any]) -> list[Any]:
    """The sources with whitelisted attributes only, all of one series and size."""
    if not source:
        raise DataError("got no source image, expected at least one.")
    facts = [whitelisted(one) for one in source]
    if any(int(one.get("NumberOfFrames") or 1) > 1 for one in source):
        raise DataError(
            "the source is a multi-frame image; results are written for single-frame images only."
        )
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Rows", "Columns"):
        if len({str(one[keyword]) for one in facts}) > 1:
            raise DataError(
                f"the {len(facts)} source images differ in {keyword}; expected images of one series."
            )
    if len({one["SOPInstanceUID"] for one in facts}) < len(facts):
        raise DataError("a source image is there twice; expected each slice once.")
    if len(facts) > 1 and not all(
        {"FrameOfReferenceUID", "ImagePositionPatient"} <= one.keys() for one in facts
    ):
        raise DataError(
            "several images without positions in the patient; write the result of each film by itself."
        )
    made = []
    for one in facts:
        dataset = Dataset()
        for keyword, value in one.items():
            setattr(dataset, keyword, value)
        made.append(dataset)
    return made


def _check_mask(mask: npt.NDArray[Any], slim: Sequence[Any], fractional: bool) -> None:
    expected = (len(slim), slim[0].Rows, slim[0].Columns)
    if mask.shape != expected:
        raise DataError(
            f"got a mask of shape {mask.shape}, expected N H W {expected} as the images are stored."
        )
    if not fractional and mask.dtype != np.uint8:
        raise DataError(
            f"got a mask of {mask.dtype}, expected uint8 of 0 and 1, or floats in [0, 1]."
        )
    low, high = float(mask.min()), float(mask.max())
    if not (low >= 0 and high <= 1):
        raise DataError(f"got a mask with values {low} to {high}, expected 0 to 1.")


def _common(modality: str, request: RequestFacts, model: ModelFacts) -> dict[str, Any]:
    return {
        "series_number": SERIES[modality],
        "instance_number": 1,
        "manufacturer": SOFTWARE,
        "manufacturer_model_name": long_string(model.name),
        "software_versions": long_string(model.version),
        "device_serial_number": model.weights_sha256[:32],
        "series_description": long_string(f"{SOFTWARE}: {request.sentence}"),
        "specific_character_set": CHARACTERS,
    }


def _parameters(model: ModelFacts, request: RequestFacts) -> list[str]:
    side = (
        "the patient's, converted where needed"
        if request.side
        else "not known in terms of the patient"
    )
    return [
        f"weights_sha256={model.weights_sha256}",
        f"threshold={model.threshold:g}",
        f"side={side}",
    ]


def _algorithm(model: ModelFacts, request: RequestFacts) -> Any:
    pairs = dict(line.split("=", 1) for line in _parameters(model, request))
    return hd.AlgorithmIdentificationSequence(
        name=long_string(model.name),
        family=_code(INTELLIGENCE),
        version=long_string(model.version),
        source=SOFTWARE,
        parameters=pairs,
    )


def _tracking_id(request: RequestFacts) -> str:
    return long_string(f"{SOFTWARE} {segment_label(request.sentence)}", LO_MOST)


def _code(code: Code) -> Any:
    return CodedConcept(*code)


def _side(side: str) -> Any:
    return _code(LATERALITY[side])


def _region(request: RequestFacts) -> Any:
    """The anatomic region, with the patient's side as its modifier where that is known."""
    region = _code(SITES[str(request.site)])
    if request.side is not None:
        region.AnatomicRegionModifierSequence = [_side(request.side)]
    return region


def _observer(model: ModelFacts) -> Any:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", model.weights_sha256),
        name=SOFTWARE,
        manufacturer_name=SOFTWARE,
        model_name=long_string(model.name),
        serial_number=model.weights_sha256[:32],
    )
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(_code(DEVICE), device)
    )


def _size(mask: npt.NDArray[np.uint8], slim: Sequence[Any]) -> tuple[Any, list[str]]:
    """The measurement, and in words what is to be known of it."""
    facts = [
        {k: one.get(k) for k in ("PixelSpacing", "ImagerPixelSpacing") if k in one} for one in slim
    ]
    spacing, known = spacing_mm(facts[0])
    count = int(np.count_nonzero(mask))
    if spacing is not None and len(slim) == 1:
        note = (
            "The area is that at the detector, not corrected for magnification."
            if known[0] == "I"
            else ""
        )
        return hd.sr.Measurement(
            _code(AREA), _as_decimal_string(count * spacing[0] * spacing[1]), _code(MM2)
        ), [note] if note else []
    step = slice_spacing_mm([{k: one[k].value for k in _PLACES if k in one} for one in slim])
    if spacing is not None and step is not None:
        return hd.sr.Measurement(
            _code(VOLUME), _as_decimal_string(count * spacing[0] * spacing[1] * step), _code(MM3)
        ), []
    note = "The size is in pixels: the image does not tell its spacing."
    return hd.sr.Measurement(
        _code(AREA) if len(slim) == 1 else _code(VOLUME), float(count), _code(PIXELS)
    ), [note]


_PLACES = ("ImagePositionPatient", "ImageOrientationPatient")


def _as_decimal_string(value: float) -> float:
    """To what a decimal string of 16 characters holds."""
    return float(f"{value:.8g}")


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Errors of the writing library as ours; it logs an empty mask, which the results say themselves."""
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"the {what} cannot be written ({type(error).__name__}): the source image is malformed."
        ) from error
    finally:
        log.setLevel(level)
