"""The kind of a DICOM image by its header: what a model of chest radiographs knows, and what it does not."""

import dicom_files
import pytest
from pydicom.dataset import Dataset

from textmask.errors import DataError
from textmask.io.dicom.domain import CHEST_CT, CHEST_RADIOGRAPH, Domain
from textmask.io.orientation import Orientation
from textmask.io.read import read_bytes


def loaded(dataset):
    (image,) = read_bytes(dicom_files.to_bytes(dataset), "x.dcm")
    return image


def mismatch(dataset, domain=CHEST_RADIOGRAPH):
    image = loaded(dataset)
    return domain.mismatch(image.header, image.orientation)


def coded(meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "SCT", meaning
    return [item]


@pytest.mark.parametrize(
    "dataset",
    [
        dicom_files.cr(BodyPartExamined="CHEST"),
        dicom_files.cr(BodyPartExamined="PORT CHEST", ViewPosition="AP"),
        dicom_files.cr(BodyPartExamined="", ViewPosition=""),
        dicom_files.cr(orientation=""),
        dicom_files.dx(BodyPartExamined="THORAX", PresentationIntentType="FOR PRESENTATION"),
        dicom_files.dx(ViewCodeSequence=coded("postero-anterior")),
        dicom_files.dx(AnatomicRegionSequence=coded("Chest")),
    ],
)
def test_chest_radiographs_are_known(dataset):
    assert mismatch(dataset) == ""


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (dicom_files.ct(), "Modality is CT, expected CR or DX"),
        (dicom_files.sc(), "Modality is OT"),
        (dicom_files.cr(BodyPartExamined="ABDOMEN"), "BodyPartExamined is ABDOMEN, expected CHEST"),
        (dicom_files.cr(BodyPartExamined="WRIST"), "BodyPartExamined is WRIST"),
        (dicom_files.dx(AnatomicRegionSequence=coded("Knee")), "BodyPartExamined is KNEE"),
        (
            dicom_files.cr(ViewPosition="LL", orientation=""),
            "ViewPosition is LL, expected AP or PA",
        ),
        (dicom_files.cr(ViewPosition="LATERAL", orientation=""), "ViewPosition is LATERAL"),
        (dicom_files.cr(orientation="A\\F", ViewPosition=""), "not that of a frontal view"),
        (dicom_files.dx(ViewCodeSequence=coded("left lateral")), "ViewCodeSequence"),
        (dicom_files.dx(PresentationIntentType="FOR PROCESSING"), "FOR PROCESSING"),
        (dicom_files.dx(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"), "FOR PROCESSING"),
    ],
)
def test_other_images_are_not(dataset, said):
    assert said in mismatch(dataset)


@pytest.mark.parametrize("domain", [CHEST_CT, Domain()])
def test_localizers_are_outside_of_every_domain(domain):
    assert mismatch(dicom_files.ct(BodyPartExamined="CHEST"), domain) == ""
    scout = dicom_files.ct(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert "localizer" in mismatch(scout, domain)


def test_planes_of_ct_other_than_axial_are_outside():
    coronal = dicom_files.ct(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert "not axial" in mismatch(coronal, CHEST_CT)


def test_what_a_header_says_is_quoted_only_if_it_is_a_term_of_the_standard():
    said = mismatch(dicom_files.cr(BodyPartExamined="DOE JANE"))
    assert "DOE" not in said
    assert "another value" in said


def test_what_it_does_not_say_is_listed():
    header = loaded(dicom_files.cr(BodyPartExamined="", ViewPosition="")).header
    assert CHEST_RADIOGRAPH.unknown(header) == ["body part", "view"]
    header = loaded(dicom_files.cr(BodyPartExamined="CHEST")).header
    assert CHEST_RADIOGRAPH.unknown(header) == []


def test_a_view_that_the_user_names_replaces_that_of_the_header():
    image = loaded(dicom_files.cr(ViewPosition="LL", orientation="A\\F"))
    view = Orientation.of_view("pa")
    assert CHEST_RADIOGRAPH.mismatch(image.header, view, named=True) == ""
    view = Orientation.of_view("lateral")
    assert CHEST_RADIOGRAPH.mismatch(image.header, view, named=True)


def test_it_is_stored_and_read_back():
    assert Domain.from_json(CHEST_RADIOGRAPH.as_json()) == CHEST_RADIOGRAPH
    assert Domain.from_json({}) == Domain()
    for wrong in ("x", {"modality": [1]}, {"view": "oblique"}, {"organ": "x"}, {"modality": "CR"}):
        with pytest.raises(DataError, match="domain"):
            Domain.from_json(wrong)
