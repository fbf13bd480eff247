"""Write a mask as DICOM: segmentation (SEG), measurement report (SR TID 1500) and secondary capture.

Results contain the whole prompt, the model and the laterality convention. This is the only file that uses highdicom.
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
from textmask.io.dicom import codes
from textmask.io.dicom.capture import capture_image
from textmask.io.dicom.codes import Code
from textmask.io.dicom.facts import (
    LOSSY,
    RESEARCH,
    SOFTWARE,
    ModelFacts,
    RequestFacts,
    ResultUids,
    algorithm_parameters,
    common_attributes,
    derived_uid,
    long_string,
    one_line,
    segment_label,
    short_text,
    slice_spacing_mm,
    spacing_mm,
    tracking_id,
)
from textmask.io.dicom.sources import source_facts
from textmask.io.orientation import Orientation

try:
    import highdicom as hd
    from highdicom.base import Dataset  # pydicom's class; the reader alone imports pydicom
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import CodedConcept
except ModuleNotFoundError as error:
    raise ConfigError(
        f"DICOM results need highdicom: pip install 'textmask[dicom]' ({error})."
    ) from error

NOTHING = "no region was found for the prompt"


def segmentation(
    source: Sequence[Any],
    mask: npt.NDArray[Any],
    request: RequestFacts,
    model: ModelFacts,
    uids: ResultUids,
) -> Any:
    """Build a DICOM SEG with one segment over all slices; an empty mask is written too, with a note that it is empty.

    Args:
        source: N pydicom data sets of one series, in the order of the mask; pixels are not needed.
        mask: N H W as the images are stored: uint8 0 or 1 gives BINARY, float in [0, 1] FRACTIONAL (probability).
        request: the prompt, and the patient's side and site if known.
        model: the model that made the mask.
        uids: UIDs of the results.

    Returns:
        A pydicom data set.

    Raises:
        DataError: shapes or values do not fit, or the source cannot be referenced.
    """
    slim = _slim(source)
    fractional = np.issubdtype(mask.dtype, np.floating)
    _check_mask(mask, slim, fractional)

    algorithm = hd.AlgorithmIdentificationSequence(
        name=long_string(model.name),
        family=_code(codes.INTELLIGENCE),
        version=long_string(model.version),
        source=SOFTWARE,
        parameters=dict(line.split("=", 1) for line in algorithm_parameters(model, request)),
    )
    empty = not (mask > 0).any()
    described = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=segment_label(request.prompt),
        segmented_property_category=_code(codes.ABNORMAL),
        segmented_property_type=_code(codes.LESION),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=uids.tracking,
        tracking_id=tracking_id(request),
        anatomic_regions=[_region(request)] if request.site in codes.SITES else None,
    )
    described.SegmentDescription = short_text(
        f"({NOTHING}) {request.prompt}" if empty else request.prompt
    )

    # without a region, the side is a property of what the segment shows
    if request.site not in codes.SITES and request.side is not None:
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
                f"{NOTHING}: {request.prompt}" if empty else request.prompt
            ),
            **common_attributes("SEG", request, model),
        )

    # highdicom writes a spacing without a thickness, and does not read it; the source has it
    shared = made.SharedFunctionalGroupsSequence[0]
    if "SliceThickness" not in slim[0] and "PixelMeasuresSequence" in shared:
        del shared.PixelMeasuresSequence

    # highdicom draws this UID by chance; the same request must give the same file
    dimension = derived_uid("dimension", uids.seg)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimension
    for item in made.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimension
    if "ImageOrientationPatient" not in slim[0]:  # radiographs: nothing else gives it
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
    """Build an SR (TID 1500): the prompt, finding, site and side, size, and references to the SEG and its images.

    The size is an area in mm2 (over several slices a volume in mm3), or a number of pixels if the source does not
    give its spacing. The tracking UID is that of the SEG.

    Args:
        source: as for `segmentation`.
        mask: uint8 N H W.
        request: as for `segmentation`.
        model: as for `segmentation`.
        uids: as for `segmentation`.
        segment: the SEG that `segmentation` returned.

    Raises:
        DataError: as `segmentation`.
    """
    slim = _slim(source)
    _check_mask(mask, slim, fractional=False)

    size, notes = _size(mask, slim)
    shared: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=uids.tracking, identifier=tracking_id(request)
        ),
        "finding_category": _code(codes.ABNORMAL),
        "finding_type": _code(codes.LESION),
        "algorithm_id": hd.sr.AlgorithmIdentification(
            name=long_string(model.name),
            version=long_string(model.version),
            parameters=algorithm_parameters(model, request),
        ),
        "measurements": [size],
    }
    if request.site in codes.SITES:
        side = None if request.side is None else _side(request.side)
        site = _code(codes.SITES[request.site])
        shared["finding_sites"] = [hd.sr.FindingSite(site, laterality=side)]
    elif request.side is not None:
        shared["qualitative_evaluations"] = [
            hd.sr.QualitativeEvaluation(_code(codes.LATERALITY_NAME), _side(request.side))
        ]

    # one slice is a planar region, several are a volume
    images = [hd.sr.SourceImageForSegmentation(one.SOPClassUID, one.SOPInstanceUID) for one in slim]
    group: Any
    if len(slim) == 1:
        frame = hd.sr.ReferencedSegmentationFrame(
            segment.SOPClassUID, segment.SOPInstanceUID, 1, 1, images[0]
        )
        # the standard allows either a segment or a frame
        del frame[0].ReferencedSOPSequence[0].ReferencedFrameNumber
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

    # the prompt and the remarks follow the measurements as text
    lines = [(codes.PROMPT, request.prompt)]
    if not mask.any():
        lines.append((codes.COMMENT, f"{NOTHING}."))
    for remark in (*notes, *request.notes, f"{RESEARCH}."):
        lines.append((codes.COMMENT, remark))
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    for code, line in lines:
        text = one_line(line) or "(no words)"
        group[0].ContentSequence.append(hd.sr.TextContentItem(_code(code), text, contains))

    report = hd.sr.MeasurementReport(
        _observer(model), _code(codes.IMAGING), [group], title=_code(codes.REPORT)
    )
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
            **common_attributes("SR", request, model),
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
    """Build a secondary capture for viewers without SEG support: image, mask, prompt and the patient's sides.

    Of several slices the one with the largest part of the mask is shown. The capture is scaled and has no spacing, so
    nothing can be measured on it.

    Args:
        source: as for `segmentation`.
        pixels: uint8 N H W or N H W 3, gray levels as they are shown.
        mask: uint8 N H W.
        request: as for `segmentation`.
        model: as for `segmentation`.
        uids: as for `segmentation`.
        orientation: of the images; None if unknown, which is written on the capture.

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
    lines = [one_line(request.prompt) or "(no words)", f"{SOFTWARE} {model.name}. {RESEARCH}."]
    if len(slim) > 1:
        lines[1] += f" Slice {shown + 1} of {len(slim)}."
    if not mask.any():
        lines.insert(1, f"{NOTHING}.")
    drawn = capture_image(pixels[shown], mask[shown], lines, orientation)

    with _refusals("secondary capture"):
        made = hd.sc.SCImage(
            pixel_array=drawn,
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
            **common_attributes("OT", request, model),
        )

    # empty means unknown
    if orientation is None:
        made.PatientOrientation = None
    made.Laterality = None  # of a paired body part that was examined
    if "IssuerOfPatientID" in slim[shown]:
        made.IssuerOfPatientID = slim[shown].IssuerOfPatientID
    made.DerivationDescription = short_text(f"{SOFTWARE} {model.name}: {request.prompt}")
    for keyword in LOSSY:
        if keyword in slim[shown]:
            setattr(made, keyword, slim[shown][keyword].value)
    reference = Dataset()
    reference.ReferencedSOPClassUID = slim[shown].SOPClassUID
    reference.ReferencedSOPInstanceUID = slim[shown].SOPInstanceUID
    made.SourceImageSequence = [reference]
    return made


def encode(dataset: Any) -> bytes:
    """Encode a complete DICOM file (Part 10) with an empty preamble.

    Without the preamble Orthanc stores a file that it cannot return.

    Raises:
        DataError: the data set cannot be encoded.
    """
    dataset.preamble = bytes(128)
    buffer = io.BytesIO()
    with _refusals("file"):
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _slim(source: Sequence[Any]) -> list[Any]:
    """Data sets with the whitelisted attributes of the sources, which belong to one series."""
    made = []
    for one in source_facts(source):
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
            f"got a mask of type {mask.dtype}, expected uint8 of 0 and 1, or floats in [0, 1]."
        )
    low, high = float(mask.min()), float(mask.max())
    if not (low >= 0 and high <= 1):
        raise DataError(f"got a mask with values {low} to {high}, expected 0 to 1.")


def _code(code: Code) -> Any:
    """A new item each time, because items are changed after they are set."""
    return CodedConcept(*code)


def _side(side: str) -> Any:
    return _code(codes.LATERALITY[side])


def _region(request: RequestFacts) -> Any:
    """The anatomic region, with the patient's side as its modifier if it is known."""
    region = _code(codes.SITES[str(request.site)])
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
        observer_device_context=hd.sr.ObserverContext(_code(codes.DEVICE), device)
    )


def _size(mask: npt.NDArray[np.uint8], slim: Sequence[Any]) -> tuple[Any, list[str]]:
    """The area or volume of a mask as a measurement, and remarks about it."""
    count = int(np.count_nonzero(mask))
    spacing, attribute = spacing_mm(_values_of(slim[0], ("PixelSpacing", "ImagerPixelSpacing")))
    if spacing is not None and len(slim) == 1:
        notes = []
        if attribute == "ImagerPixelSpacing":
            notes.append("The area is measured at the detector, not corrected for magnification.")
        return _measurement(codes.AREA, count * spacing[0] * spacing[1], codes.MM2), notes

    places = ("ImagePositionPatient", "ImageOrientationPatient")
    step = slice_spacing_mm([_values_of(one, places) for one in slim])
    if spacing is not None and step is not None:
        return _measurement(codes.VOLUME, count * spacing[0] * spacing[1] * step, codes.MM3), []

    kind = codes.AREA if len(slim) == 1 else codes.VOLUME
    note = "The size is in pixels: the image does not give its spacing."
    return _measurement(kind, count, codes.PIXELS), [note]


def _values_of(dataset: Any, keywords: Sequence[str]) -> dict[str, Any]:
    return {keyword: dataset.get(keyword) for keyword in keywords if keyword in dataset}


def _measurement(kind: Code, value: float, unit: Code) -> Any:
    """A measurement; a decimal string of 16 characters stores integers exactly and rounds the rest."""
    stored = float(value) if isinstance(value, int) else float(f"{value:.8g}")
    return hd.sr.Measurement(_code(kind), stored, _code(unit))


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Convert errors of highdicom to `DataError`, and silence its log of empty masks, which the results record."""
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except KeyError as error:
        raise DataError(
            f"the {what} cannot be written: the SOPClassUID of the source image is private or retired; results refer "
            "to images of standard classes only. Export it as one of them, such as Secondary Capture."
        ) from error
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise DataError(
            f"the {what} cannot be written ({type(error).__name__}): the source image is malformed."
        ) from error
    finally:
        log.setLevel(level)
