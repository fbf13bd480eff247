"""Synthetic DICOM images, with all the attributes that a result must not carry on."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CR, DX, CT = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("1", "1.1", "2"))
SECRETS = (
    "Secretname",
    "SECRET-OTHER-ID",
    "secret comment",
    "secret street",
    "SECRETPRIVATE",
    "Dr^Secret",
    "secret site",
)


def study_of(patient="P1", accession="A1", **more):
    """What the images of a study share."""
    return {
        "StudyInstanceUID": generate_uid(), "PatientID": patient, "PatientName": "Doe^Jane", "PatientSex": "F",
        "PatientBirthDate": "19700101", "AccessionNumber": accession, "StudyID": "S1", "StudyDate": "20240102",
        "StudyTime": "101112", **more,
    }  # fmt: skip


def _image(study, modality, sop_class, pixels, **more):
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.preamble = bytes(128)
    found.SpecificCharacterSet = "ISO_IR 192"
    values = {
        "SOPClassUID": sop_class, "SOPInstanceUID": generate_uid(), "Modality": modality, "SeriesNumber": 1,
        "InstanceNumber": 1, "Rows": pixels.shape[0], "Columns": pixels.shape[1], "BitsAllocated": 16, "BitsStored": 12,
        "HighBit": 11, "PixelRepresentation": 0, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "Manufacturer": "scanner maker", "OtherPatientIDs": SECRETS[1], "OtherPatientNames": f"{SECRETS[0]}^A",
        "PatientComments": SECRETS[2], "PatientAddress": SECRETS[3], "ReferringPhysicianName": SECRETS[5],
        "InstitutionName": SECRETS[6], "PatientAge": "054Y", "PatientWeight": 77.5, "ImageComments": SECRETS[2],
        "StudyDescription": SECRETS[2], "StationName": "SECRETSTATION", **study, **more,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(found, keyword, value)
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = SECRETS[1], "TEXT"
    found.OtherPatientIDsSequence = Sequence([other])
    found.private_block(0x0011, "SECRET MAKER", create=True).add_new(1, "LO", SECRETS[4])
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    found.PixelData = pixels.astype(np.uint16).tobytes()
    return found


def film(study=None, rows=60, columns=50, orientation="L\\F", modality="CR", **more):
    """A CR or DX image; a bright square lies at its upper left."""
    pixels = np.full((rows, columns), 200)
    pixels[rows // 6 : rows // 3, columns // 10 : columns // 3] = 3000
    values = {
        "SeriesInstanceUID": generate_uid(),
        "ImagerPixelSpacing": [0.2, 0.2],
        "PatientOrientation": orientation,
    }
    return _image(
        study or study_of(), modality, CR if modality == "CR" else DX, pixels, **values | more
    )


def slices(study=None, n=4, rows=32, columns=40, **more):
    """A CT series of n slices 2.5 mm apart."""
    study, series, frame = study or study_of(), generate_uid(), generate_uid()
    made = []
    for i in range(n):
        pixels = np.full((rows, columns), 100)
        pixels[8:16, 10 : 20 + i] = 3000
        values = {
            "SeriesInstanceUID": series, "FrameOfReferenceUID": frame, "InstanceNumber": i + 1,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0.0, 0.0, 2.5 * i],
            "PixelSpacing": [0.5, 0.8], "SliceThickness": 2.5, "RescaleIntercept": -1024, "RescaleSlope": 1,
            "PositionReferenceIndicator": "",
        }  # fmt: skip
        made.append(_image(study, "CT", CT, pixels, **values | more))
    return made


def corpus():
    """One source of each class of image, with what its headers lack or hold in practice: name to data sets."""
    photo, sc, us, mg, mr, pt = (
        f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("77.1.4", "7", "6.1", "1.2", "4", "128")
    )
    return {
        "CR": [film()],
        "CR of unknown orientation": [film(orientation=None)],
        "CR with spacing, no thickness": [film(PixelSpacing=[0.15, 0.15])],
        "CR with spacing and thickness": [film(PixelSpacing=[0.15, 0.15], SliceThickness=1)],
        "CR with an empty thickness": [film(PixelSpacing=[0.15, 0.15], SliceThickness=None)],
        "CR with a frame of reference": [film(FrameOfReferenceUID=generate_uid())],
        "CR after lossy compression": [
            film(
                LossyImageCompression="01",
                LossyImageCompressionRatio=[10, 2.5],
                LossyImageCompressionMethod=["ISO_10918_1", "ISO_15444_1"],
            )
        ],
        "DX": [film(modality="DX")],
        "MG": [film(modality="MG", SOPClassUID=mg, ImageLaterality="L")],
        "US": [film(modality="US", SOPClassUID=us, PatientOrientation=None)],
        "SC": [film(modality="OT", SOPClassUID=sc, PatientOrientation=None)],
        "photograph": [film(modality="XC", SOPClassUID=photo, PatientOrientation=None)],
        "CT": slices(),
        "CT of one slice": slices(n=1),
        "CT without thickness": slices(SliceThickness=None),
        "CT of one slice without thickness": slices(n=1, SliceThickness=None),
        "CT of one slice without spacing": slices(n=1, PixelSpacing=None),
        "CT, oblique": slices(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6]),
        "CT after lossy compression": slices(
            LossyImageCompression="01", LossyImageCompressionRatio=8
        ),
        "MR": slices(Modality="MR", SOPClassUID=mr),
        "PT": slices(Modality="PT", SOPClassUID=pt),
    }


def report(study, texts, images=(), manufacturer="report maker"):
    """A basic text SR with findings as text, which may refer to images."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.preamble = bytes(128)
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "SOPInstanceUID": generate_uid(), "Modality": "SR",
        "SeriesInstanceUID": generate_uid(), "SpecificCharacterSet": "ISO_IR 192", "Manufacturer": manufacturer,
        "ValueType": "CONTAINER", "ContinuityOfContent": "SEPARATE", "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED", "SeriesNumber": 1, "InstanceNumber": 1, **study,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(found, keyword, value)
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    inner = _item("CONTAINER", ("121070", "Findings"))
    inner.ContentSequence = Sequence([_text(text) for text in texts])
    items = [_item("PNAME", ("121008", "Person Observer Name"))]
    items[0].PersonName = SECRETS[5]
    for image in images:
        item = _item("IMAGE", ("121112", "Source of Measurement"))
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
            image.SOPClassUID,
            image.SOPInstanceUID,
        )
        item.ReferencedSOPSequence = Sequence([reference])
        items.append(item)
    found.ContentSequence = Sequence([*items, inner])
    return found


def _item(kind, name):
    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = name[0], "DCM", name[1]
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = (
        "CONTAINS",
        kind,
        Sequence([code]),
    )
    return item


def _text(text):
    item = _item("TEXT", ("121071", "Finding"))
    item.TextValue = text
    return item


def encoded(dataset):
    """As the bytes of a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
