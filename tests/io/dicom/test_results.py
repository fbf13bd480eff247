"""Masks as DICOM: what is in the results, what is not, and whether a validator of the standard accepts them."""

import io
import os
import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_sources import SECRETS, corpus, film, slices, study_of
from hypothesis import given, settings
from hypothesis import strategies as st

from textmask.errors import ConfigError, DataError
from textmask.io.dicom import facts
from textmask.io.dicom.capture import capture_image
from textmask.io.dicom.facts import ModelFacts, RequestFacts, ResultUids
from textmask.io.dicom.results import capture, encode, measurement_report, segmentation
from textmask.io.orientation import Orientation

MODEL = ModelFacts("biclip", "0.1.0", "ab" * 32, 0.5)
UIDS = ResultUids.of("image", "sentence", "model")
SENTENCE = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung, and more of it."
FILM = Orientation("L", "F")


def request_of(sentence=SENTENCE, **more):
    return RequestFacts(
        sentence,
        **({"side": "left", "site": "lung", "notes": ("Left is the patient's left.",)} | more),
    )


def square(source, value=1):
    mask = np.zeros((len(source), source[0].Rows, source[0].Columns), np.uint8)
    mask[:, 5:15, 10:22] = value
    return mask


def written(dataset):
    return pydicom.dcmread(io.BytesIO(encode(dataset)))


def sources(kind):
    return [film()] if kind == "CR" else slices()


@pytest.mark.parametrize("kind", ["CR", "CT"])
def test_a_binary_segmentation_comes_back_with_every_pixel(kind):
    source = sources(kind)
    mask = square(source)
    mask[0, 0, 0] = 1
    found = written(segmentation(source, mask, request_of(), MODEL, UIDS))
    again = hd.seg.Segmentation.from_dataset(found)
    back = again.get_pixels_by_source_instance([one.SOPInstanceUID for one in source])
    assert (back[..., 0] == mask).all()
    assert found.SegmentationType == "BINARY"
    assert found.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    refs = found.ReferencedSeriesSequence[0]
    assert refs.SeriesInstanceUID == source[0].SeriesInstanceUID
    assert len(refs.ReferencedInstanceSequence) == len(source)
    assert (found.SOPInstanceUID, found.SeriesInstanceUID) == (UIDS.seg, UIDS.seg_series)


@pytest.mark.parametrize("kind", corpus())
def test_what_is_written_of_each_class_of_source_is_read_back_with_highdicom(kind):
    source = corpus()[kind]
    mask = square(source)
    made = results(source)
    segment = hd.seg.segread(io.BytesIO(encode(made["binary"])))
    back = segment.get_pixels_by_source_instance([one.SOPInstanceUID for one in source])
    assert (back[..., 0] == mask).all()
    hd.seg.segread(io.BytesIO(encode(made["fractional"])))
    document = hd.sr.srread(io.BytesIO(encode(made["report"])))
    assert document.content.get_observer_contexts()
    shown = written(made["capture"])
    assert shown.pixel_array.any()
    flags = [one.get("LossyImageCompression") or "00" for one in (source[0], segment, shown)]
    assert flags[1:] == flags[:1] * 2
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        assert segment.get(keyword) == source[0].get(keyword)
    if len(source) > 1:
        assert segment.FrameOfReferenceUID == source[0].FrameOfReferenceUID


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", [0.5, 0.9]),
        ("ImageOrientationPatient", [0.9, 0.435889894354, 0, 0, 0, -1]),
        ("FrameOfReferenceUID", "1.2.3"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        ("Rows", 33),
    ],
)
def test_slices_that_differ_are_not_merged(keyword, value):
    source = slices()
    setattr(source[2], keyword, value)
    with pytest.raises(DataError, match=f"differ in {keyword}"):
        segmentation(source, square(source), request_of(), MODEL, UIDS)


@pytest.mark.parametrize("one", [film, lambda **given: slices(**given)[0]])
def test_private_classes_are_refused_by_name(one):
    source = [one(SOPClassUID="1.3.46.670589.11.0.0.12.1")]
    with pytest.raises(DataError, match="SOPClassUID of the source image is private"):
        segmentation(source, square(source), request_of(), MODEL, UIDS)


def test_slices_whose_numbers_were_rounded_are_one_series():
    source = slices()
    source[2].ImageOrientationPatient = [1, 1e-8, 0, 0, 0.9999999, 0]
    source[3].PixelSpacing = [0.5000001, 0.8]
    assert segmentation(source, square(source), request_of(), MODEL, UIDS).NumberOfFrames == 4


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImageOrientationPatient"])
def test_a_series_without_what_its_geometry_needs_is_refused_by_name(keyword):
    source = slices(**{keyword: None})
    with pytest.raises(DataError, match=keyword):
        segmentation(source, square(source), request_of(), MODEL, UIDS)


def test_the_syntax_of_a_file_tells_that_it_is_lossy_where_its_header_does_not():
    source = film()
    source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    found = segmentation([source], square([source]), request_of(), MODEL, UIDS)
    assert found.LossyImageCompression == "01"


def test_a_probability_comes_back_to_a_255th():
    source = slices()
    probability = np.random.default_rng(0).random((4, 32, 40), np.float32)
    found = written(segmentation(source, probability, request_of(), MODEL, UIDS))
    back = hd.seg.Segmentation.from_dataset(found).get_pixels_by_source_instance(
        [s.SOPInstanceUID for s in source]
    )
    assert found.SegmentationFractionalType == "PROBABILITY"
    assert np.abs(back[..., 0] - probability).max() <= 0.5 / 255 + 1e-6


def test_who_made_it_and_of_which_side_is_coded():
    segment = written(
        segmentation([film()], square([film()]), request_of(), MODEL, UIDS)
    ).SegmentSequence[0]
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("biclip", "0.1.0")
    assert f"weights_sha256={MODEL.weights_sha256}" in algorithm.AlgorithmParameters
    region = segment.AnatomicRegionSequence[0]
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeValue) == (
        "39607008",
        "7771000",
    )
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.TrackingUID == UIDS.tracking


@pytest.mark.parametrize(
    ("side", "code"), [("left", "7771000"), ("right", "24028007"), ("both", "51440002")]
)
def test_sides_without_a_known_region_modify_the_finding(side, code):
    source = [film()]
    seg = segmentation(source, square(source), request_of(side=side, site=None), MODEL, UIDS)
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == code
    sr = measurement_report(
        source, square(source), request_of(side=side, site=None), MODEL, UIDS, seg
    )
    assert code in {
        item.ConceptCodeSequence[0].CodeValue for item in tree(sr) if item.ValueType == "CODE"
    }


def test_a_side_that_is_not_known_is_not_coded():
    source = [film(orientation=None)]
    seg = written(segmentation(source, square(source), request_of(side=None), MODEL, UIDS))
    coded = {element.value for element in seg.iterall() if element.keyword == "CodeValue"}
    assert not {"7771000", "24028007", "51440002"} & coded
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert "side=unknown" in algorithm.AlgorithmParameters
    assert not seg.PatientOrientation
    with pytest.raises(ConfigError, match="expected one of left, right, both"):
        RequestFacts("x", side="port")


@pytest.mark.parametrize(
    "sentence",
    [
        SENTENCE * 30,
        "瞳の下、左肺下葉 é ü ß",
        "<img src=x onerror=alert(1)>\\two\\values",
        '=HYPERLINK("http://x") ; \'OR 1=1',
        "\r\n--0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1\r\nContent-Type: x\r\n\r\n\0\u202egnip\u200b",
        "",
    ],
    ids=["long", "letters", "markup", "formula", "control", "empty"],
)
def test_any_sentence_is_kept_within_the_lengths_of_dicom(sentence):
    source = [film()]
    request = request_of(sentence)
    seg = segmentation(source, square(source), request, MODEL, UIDS)
    found = written(seg)
    segment = found.SegmentSequence[0]
    assert found.SpecificCharacterSet == "ISO_IR 192"
    for value in (segment.SegmentLabel, found.ContentDescription, found.SeriesDescription):
        assert isinstance(value, str) or value is None  # a backslash would make two values of it
        assert len(value or "") <= 64
    assert len(segment.SegmentDescription) <= 1024
    line = facts.one_line(sentence)
    if len(line) <= 1024:
        assert segment.SegmentDescription.strip() == line
    else:
        kept, left = segment.SegmentDescription.split(" [cut: ")
        assert line.startswith(kept)
        assert len(line) - len(kept) == int(left.split()[0])
    sr = written(measurement_report(source, square(source), request, MODEL, UIDS, seg))
    texts = {
        item.ConceptNameCodeSequence[0].CodeValue: item.TextValue
        for item in tree(sr)
        if item.ValueType == "TEXT"
    }
    assert texts["sentence"] == (line or "(no words)")
    assert not set("\r\n\0\u202e\u200b") & set(texts["sentence"])


@given(st.text(max_size=2000))
@settings(max_examples=60, deadline=None)
def test_the_texts_of_results_are_legal_whatever_is_asked(sentence):
    assert len(facts.segment_label(sentence)) <= 64
    assert "\\" not in facts.segment_label(sentence)
    assert len(facts.short_text(sentence)) <= 1024
    assert facts.one_line(facts.one_line(sentence)) == facts.one_line(sentence)
    facts.one_line(sentence).encode()
    assert facts.is_uid(facts.derived_uid(sentence))


def test_two_long_sentences_with_the_same_start_have_different_labels():
    assert facts.segment_label(SENTENCE + " a") != facts.segment_label(SENTENCE + " b")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("1.2.3", True),
        ("1.02.3", False),
        ("../../x", False),
        ("1", False),
        ("1.2" * 40, False),
        (None, False),
    ],
)
def test_only_well_formed_uids_are_used(text, good):
    assert facts.is_uid(text) is good


def tree(dataset):
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from tree(item)


@pytest.mark.parametrize(
    ("kind", "value", "unit", "sop_class"),
    [("CR", 120 * 0.2 * 0.2, "mm2", "1.2.840.10008.5.1.4.1.1.88.33"),
     ("CT", 480 * 0.5 * 0.8 * 2.5, "mm3", "1.2.840.10008.5.1.4.1.1.88.34")],
)  # fmt: skip
def test_the_report_measures_and_refers_to_segment_and_image(kind, value, unit, sop_class):
    source = sources(kind)
    seg = segmentation(source, square(source), request_of(), MODEL, UIDS)
    found = written(measurement_report(source, square(source), request_of(), MODEL, UIDS, seg))
    items = list(tree(found))
    measured = next(item for item in items if item.ValueType == "NUM").MeasuredValueSequence[0]
    assert float(measured.NumericValue) == pytest.approx(value)
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == unit
    assert found.SOPClassUID == sop_class
    referred = {
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in items if i.ValueType == "IMAGE"
    }
    assert referred == {UIDS.seg, *(one.SOPInstanceUID for one in source)}
    assert UIDS.tracking in {item.UID for item in items if item.ValueType == "UIDREF"}
    site = next(
        i
        for i in items
        if i.ValueType == "CODE" and i.ConceptCodeSequence[0].CodeValue == "39607008"
    )
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "7771000"
    comments = [item.TextValue for item in items if item.ValueType == "TEXT"]
    assert "Left is the patient's left." in comments
    assert "Research use only." in comments
    assert ("not corrected for magnification" in str(comments)) is (kind == "CR")
    content = hd.sr.srread(io.BytesIO(encode(found))).content
    groups = (
        content.get_planar_roi_measurement_groups
        if kind == "CR"
        else content.get_volumetric_roi_measurement_groups
    )
    assert len(groups(tracking_uid=UIDS.tracking)) == 1


def test_without_spacing_the_report_counts_pixels():
    source = [film(ImagerPixelSpacing=None)]
    seg = segmentation(source, square(source), request_of(), MODEL, UIDS)
    found = measurement_report(source, square(source), request_of(), MODEL, UIDS, seg)
    measured = next(item for item in tree(found) if item.ValueType == "NUM").MeasuredValueSequence[
        0
    ]
    assert (float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue) == (
        120,
        "{pixels}",
    )


def test_slices_unevenly_spaced_have_no_volume():
    source = slices()
    source[3].ImagePositionPatient = [0, 0, 20]
    seg = segmentation(source, square(source), request_of(), MODEL, UIDS)
    found = measurement_report(source, square(source), request_of(), MODEL, UIDS, seg)
    measured = next(item for item in tree(found) if item.ValueType == "NUM").MeasuredValueSequence[
        0
    ]
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "{pixels}"


@pytest.mark.parametrize("kind", ["CR", "CT"])
def test_an_empty_mask_is_written_and_said_so(kind):
    source = sources(kind)
    mask = square(source, 0)
    seg = segmentation(source, mask, request_of(), MODEL, UIDS)
    found = written(seg)
    assert found.pixel_array.sum() == 0
    assert "no region was found" in found.SegmentSequence[0].SegmentDescription
    assert found.ContentDescription.startswith("no region was found")
    sr = written(measurement_report(source, mask, request_of(), MODEL, UIDS, seg))
    assert "no region was found for the prompt." in [
        i.TextValue for i in tree(sr) if i.ValueType == "TEXT"
    ]


def results(source, request=None):
    request = request or request_of()
    mask = square(source)
    pixels = np.full(mask.shape, 90, np.uint8)
    binary = segmentation(source, mask, request, MODEL, UIDS)
    orientation = FILM if source[0].get("PatientOrientation") else None
    return {
        "binary": binary,
        "fractional": segmentation(source, mask * np.float32(0.7), request, MODEL, UIDS),
        "report": measurement_report(source, mask, request, MODEL, UIDS, binary),
        "capture": capture(source, pixels, mask, request, MODEL, UIDS, orientation),
    }


@pytest.mark.parametrize("kind", ["CR", "CT"])
def test_nothing_but_the_whitelist_of_the_source_is_in_a_result(kind):
    source = sources(kind)
    for name, result in results(source).items():
        data = encode(result)
        leaked = [
            secret
            for secret in (*SECRETS, "SECRETSTATION", "054Y", "SECRET MAKER")
            if secret.encode() in data
        ]
        assert leaked == [], name
        found = pydicom.dcmread(io.BytesIO(data))
        assert (found.PatientID, str(found.PatientName), found.AccessionNumber) == (
            "P1",
            "Doe^Jane",
            "A1",
        )
        assert found.StudyInstanceUID == source[0].StudyInstanceUID
        assert not any(element.tag.is_private for element in found.iterall())
        assert {
            "PatientWeight",
            "PatientComments",
            "StudyDescription",
            "ReferringPhysicianName",
        } & {element.keyword for element in found if not element.is_empty} == set()
        assert data[:128] == bytes(128)
        assert data[128:132] == b"DICM"


def test_a_name_in_another_character_set_survives():
    study = study_of(PatientName="Müller^Jörg")
    source = film(study)
    source.SpecificCharacterSet = "ISO_IR 100"
    buffer = io.BytesIO()
    source.save_as(buffer)
    again = pydicom.dcmread(io.BytesIO(buffer.getvalue()))
    for result in results([again]).values():
        assert str(written(result).PatientName) == "Müller^Jörg"


def test_malformed_attributes_of_the_source_are_left_empty_or_refused():
    with pytest.warns(UserWarning, match="Invalid value"):
        source = film(study_of(PatientSex="hostile", PatientBirthDate="yesterday"))
    source.PatientName = "A\r\n--0f3cf5c0^B"
    found = written(segmentation([source], square([source]), request_of(), MODEL, UIDS))
    assert (found.PatientSex, found.PatientBirthDate, str(found.PatientName)) == (
        "",
        "",
        "A --0f3cf5c0^B",
    )
    del source.StudyInstanceUID
    with pytest.raises(DataError, match="no well-formed StudyInstanceUID"):
        segmentation([source], square([source]), request_of(), MODEL, UIDS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: (s, np.zeros((1, 60, 51), np.uint8)), "shape"),
        (lambda s: (s, np.full((1, 60, 50), 2, np.uint8)), "values 0.0 to 2.0|values 2.0 to 2.0"),
        (lambda s: (s, np.full((1, 60, 50), np.nan, np.float32)), "values nan"),
        (lambda s: (s, np.zeros((1, 60, 50), np.int64)), "int64"),
        (lambda s: ([], np.zeros((0, 60, 50), np.uint8)), "no source image"),
        (lambda s: ([s[0], s[0]], np.zeros((2, 60, 50), np.uint8)), "twice"),
        (lambda s: ([s[0], film()], np.zeros((2, 60, 50), np.uint8)), "differ in StudyInstanceUID"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    source, mask = change([film()])
    with pytest.raises(DataError, match=said):
        segmentation(source, mask, request_of(), MODEL, UIDS)


def test_several_films_and_multi_frame_images_are_refused():
    study, series = study_of(), "1.2.3.4"
    films = [film(study, SeriesInstanceUID=series), film(study, SeriesInstanceUID=series)]
    with pytest.raises(DataError, match="each image separately"):
        segmentation(films, square(films), request_of(), MODEL, UIDS)
    many = film(NumberOfFrames=3)
    with pytest.raises(DataError, match="multi-frame"):
        segmentation([many], square([many]), request_of(), MODEL, UIDS)


def test_the_same_key_gives_the_same_uids_and_another_key_others():
    assert ResultUids.of("a", "b") == ResultUids.of("a", "b")
    assert not set(vars(ResultUids.of("a", "b")).values()) & set(vars(ResultUids.of("ab")).values())
    assert len(set(vars(UIDS).values())) == 7


def test_a_capture_shows_the_slice_with_most_of_the_mask():
    source = slices()
    mask, pixels = square(source, 0), np.full((4, 32, 40), 90, np.uint8)
    mask[2, 5:15, 5:15] = 1
    found = written(capture(source, pixels, mask, request_of(), MODEL, UIDS, Orientation("L", "P")))
    assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == source[2].SOPInstanceUID
    assert list(found.PatientOrientation) == ["L", "P"]
    assert found.DerivationDescription.endswith(SENTENCE)
    assert found.pixel_array.shape[2] == 3
    assert "PixelSpacing" not in found  # it is scaled


def test_the_letters_stand_where_the_patients_sides_are():
    image, mask = np.zeros((512, 512), np.uint8), np.zeros((512, 512), np.uint8)
    film, mirrored = (capture_image(image, mask, ["x"], Orientation(c, "F")) for c in "LR")
    unknown = capture_image(image, mask, ["x"], None)
    row = film.shape[0] - 512 + 256
    ends = [
        (p[row - 20 : row + 8, 2:40].copy(), p[row - 20 : row + 8, -24:-4].copy())
        for p in (film, mirrored)
    ]
    assert all(part.any() for pair in ends for part in pair)
    assert not np.array_equal(
        ends[0][1], ends[1][1]
    )  # L on the right of a film, R on that of a mirrored one
    assert not unknown[-512:].any()
    assert unknown.shape[0] > film.shape[0]  # the legend says so instead


def test_a_long_legend_is_wrapped_and_keeps_its_last_line():
    image = np.zeros((40, 2000), np.uint8)
    short = capture_image(image, image, ["one", "research"], Orientation("L", "F"))
    long = capture_image(
        image, image, ["word " * 500 + "x" * 4000, "research"], Orientation("L", "F")
    )
    assert short.shape[1] == long.shape[1] == 1024
    assert short.shape[0] < long.shape[0] <= 20 + 16 + 20 * 6 + 20


@pytest.fixture(scope="module")
def dciodvfy():
    found = shutil.which("dciodvfy")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("dciodvfy is missing; install dicom3tools")
        pytest.skip("dciodvfy is missing; install dicom3tools")
    return found


@pytest.mark.parametrize("kind", ["CR", "CT", "CR of unknown orientation"])
def test_a_validator_finds_no_error(kind, dciodvfy, tmp_path):
    source = slices() if kind == "CT" else [film(orientation="L\\F" if kind == "CR" else None)]
    for side in ("left", None):
        for name, result in results(source, request_of(SENTENCE * 20, side=side)).items():
            path = tmp_path / f"{name}.dcm"
            path.write_bytes(encode(result))
            done = subprocess.run(
                [dciodvfy, path], capture_output=True, text=True, check=False, errors="replace"
            )
            errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
            assert errors == [], f"{kind} {name}"
