"""DICOM files made in memory for the tests: small, synthetic, valid unless a test damages them."""

import io

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

PATIENT = "Doe^Jane"


def dataset(pixels: np.ndarray, sop_class: str, modality: str, **attributes: object) -> Dataset:
    """A data set around stored numbers, H W, N H W or (N) H W 3 of uint8, uint16 or int16."""
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    frames = pixels.ndim - (3 if colour else 2)
    bits = pixels.dtype.itemsize * 8
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.Modality = sop_class, modality
    # the same for the same numbers, so that tests and the fuzzer repeat
    own = (
        generate_uid(entropy_srcs=[what, sop_class, pixels.tobytes().hex()])
        for what in ("image", "study", "series")
    )
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = own
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        PATIENT,
        "1234",
        "19500101",
        "F",
    )
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.StudyDate, ds.StudyTime, ds.InstanceNumber, ds.SeriesNumber = "20240101", "120000", 1, 1
    ds.Manufacturer = "Nobody"
    ds.Rows, ds.Columns = pixels.shape[frames : frames + 2]
    if frames:
        ds.NumberOfFrames = pixels.shape[0]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    data = pixels.tobytes()
    ds.add_new(0x7FE00010, "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """The file of a data set."""
    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def film(rows: int = 40, columns: int = 30, seed: int = 0) -> np.ndarray:
    """12-bit numbers of a film that is the same neither mirrored nor turned."""
    noise = np.random.default_rng(seed).integers(0, 200, (rows, columns))
    return (np.add.outer(np.arange(rows) * 40, np.arange(columns) * 60) + noise).astype(np.uint16)


def cr(
    pixels: np.ndarray | None = None, orientation: str = "L\\F", **attributes: object
) -> Dataset:
    """A chest film: 12 bits of 16, no window."""
    given = {
        "BitsStored": 12,
        "HighBit": 11,
        "ImagerPixelSpacing": [0.2, 0.1],
        "ViewPosition": "PA",
    } | attributes
    if orientation:
        given["PatientOrientation"] = orientation.split("\\")
    return dataset(
        film() if pixels is None else pixels, ComputedRadiographyImageStorage, "CR", **given
    )


def dx(pixels: np.ndarray | None = None, **attributes: object) -> Dataset:
    """A digital film, bone dark."""
    given = {
        "PhotometricInterpretation": "MONOCHROME1",
        "PatientOrientation": ["L", "F"],
    } | attributes
    pixels = film() if pixels is None else pixels
    return dataset(
        pixels, DigitalXRayImageStorageForPresentation, "DX", BitsStored=12, HighBit=11, **given
    )


def ct(position: float = 0.0, seed: int = 0, **attributes: object) -> Dataset:
    """An axial slice in Hounsfield units with two windows, lung first."""
    given = {
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "WindowCenter": [-600, 40],
        "WindowWidth": [1500, 400],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-10, -10, position],
        "PixelSpacing": [0.7, 0.8],
        "SliceThickness": 2,
        "FrameOfReferenceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.5",
        "StudyInstanceUID": "1.2.3.6",
    } | attributes
    return dataset(film(seed=seed), CTImageStorage, "CT", **given)


def mr(frames: int = 3) -> Dataset:
    """An enhanced MR image: geometry and window of each frame in functional groups; coronal."""
    pixels = np.stack([film(seed=i) for i in range(frames)])
    ds = dataset(pixels, EnhancedMRImageStorage, "MR", FrameOfReferenceUID="1.2.3.4")
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.6], 3
    plane.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for i in range(frames):
        own, where, voi, scale = Dataset(), Dataset(), Dataset(), Dataset()
        where.ImagePositionPatient = [0, 3 * i, 0]
        voi.WindowCenter, voi.WindowWidth = 1000 + 500 * i, 2000
        scale.RescaleSlope, scale.RescaleIntercept = 2, 10
        own.PlanePositionSequence, own.FrameVOILUTSequence = [where], [voi]
        own.PixelValueTransformationSequence = [scale]
        ds.PerFrameFunctionalGroupsSequence.append(own)
    return ds


def sc(frames: int = 0, **attributes: object) -> Dataset:
    """A screenshot in color."""
    shape = (frames, 20, 31, 3) if frames else (20, 31, 3)
    pixels = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    storage = (
        MultiFrameTrueColorSecondaryCaptureImageStorage if frames else SecondaryCaptureImageStorage
    )
    return dataset(pixels, storage, "OT", ConversionType="WSD", **attributes)
