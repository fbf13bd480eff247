import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from dicom_files import PATIENT, cr, ct, dataset, dx, film, mr, sc, to_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from textmask.errors import ConfigError, DataError, DataWarning
from textmask.io.dicom import reader as dicom
from textmask.io.dicom.reader import read_dicom
from textmask.io.loaded import LoadedImage

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def one(ds: Dataset | bytes, index: int | None = None) -> LoadedImage:
    found = read_dicom(ds if isinstance(ds, bytes) else to_bytes(ds), index, "x.dcm")
    assert len(found) == 1
    return found[0]


def theirs(ds: Dataset, frame: int | None = None) -> np.ndarray:
    """pydicom's rescaling and windowing, in gray levels 0..255 before rounding."""
    ds = pydicom.dcmread(io.BytesIO(to_bytes(ds)))
    stored = ds.pixel_array if frame is None else ds.pixel_array[frame]
    with np.errstate(over="ignore"):
        values = apply_voi_lut(apply_modality_lut(stored, ds), ds, index=0)
    low, high = (
        (-(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1)
        if ds.PixelRepresentation
        else (
            0,
            2**ds.BitsStored - 1,
        )
    )
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    greys = (values - low) / (high - low) * 255
    return 255 - greys if ds.PhotometricInterpretation == "MONOCHROME1" else greys


@pytest.mark.parametrize("function", ["", "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("center", "width"), [(-600, 1500), ([40, -600], [400, 1500]), (0.5, 1.5), (-20, 3)]
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_rescale_and_window_are_pydicoms(function, center, width, photometric):
    ds = ct(WindowCenter=center, WindowWidth=width, PhotometricInterpretation=photometric)
    if function:
        ds.VOILUTFunction = function
    assert np.abs(one(ds).pixels - theirs(ds)).max() <= 0.502  # half a gray is rounding


@settings(deadline=None, max_examples=50)
@given(
    slope=st.sampled_from(["1", "0.25", "2.5", "-1"]),
    intercept=st.integers(-2000, 2000),
    center=st.integers(-3000, 3000),
    width=st.integers(2, 9000),
    bits=st.sampled_from([8, 10, 12, 16]),
    signed=st.booleans(),
)
def test_fast_path_is_the_general_path(slope, intercept, center, width, bits, signed):
    numbers = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (11, 7)) + (
        0 if signed else 2 ** (bits - 1)
    )
    ds = dataset(
        numbers.astype(np.int16 if signed else np.uint16),
        CT_STORAGE,
        "CT",
        BitsStored=bits,
        HighBit=bits - 1,
    )
    ds.RescaleSlope, ds.RescaleIntercept = slope, str(intercept)
    ds.WindowCenter, ds.WindowWidth = center, width
    got = one(ds).pixels
    if float(slope) > 0:  # pydicom orders the ends of the range otherwise
        assert np.abs(got - theirs(ds)).max() <= 0.52
    values = numbers * float(slope) + intercept
    expected = np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    assert np.abs(got - expected).max() <= 0.52
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian  # which pydicom decodes
    big = numbers.astype(">i2" if signed else ">u2").tobytes()
    ds["PixelData"].value = big
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, implicit_vr=False, little_endian=False, enforce_file_format=True)
    assert np.array_equal(one(stream.getvalue()).pixels, got)


def test_a_narrow_window_does_not_overflow():
    assert set(np.unique(one(ct(WindowCenter=0, WindowWidth=1.0000001)).pixels)) <= {0, 128, 255}
    assert set(np.unique(one(ct(WindowCenter=0, WindowWidth=1)).pixels)) == {0, 255}
    wide = one(
        ct(WindowCenter=0, WindowWidth=1.001, RescaleSlope="30000", RescaleIntercept="-5e7")
    ).pixels
    assert wide[-1, -1] == 255
    assert wide[0, 0] == 0


def test_without_a_window_the_range_of_the_pixels_counts():
    ds = cr()
    got, (low, high) = one(ds).pixels, np.percentile(film(), (0.1, 99.9))
    assert np.abs(got - np.clip((film() - low) / (high - low) * 255, 0, 255)).max() <= 0.51
    ds.WindowCenter, ds.WindowWidth = 100, 0  # a width of 0 is none
    assert np.array_equal(one(ds).pixels, got)
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(one(ds).pixels, 255 - got)


def test_a_digital_film_has_bright_bone():
    picture = one(dx())
    assert picture.pixels[0, 0] > 200 > 50 > picture.pixels[-1, -1]
    assert picture.orientation.patient_left == "right"


def test_8_bit_gray_stays_as_it_is():
    grey = np.random.default_rng(0).integers(50, 90, (9, 8), dtype=np.uint8)
    assert np.array_equal(one(dataset(grey, "1.2.840.10008.5.1.4.1.1.7", "OT")).pixels, grey)


def test_bits_above_the_stored_ones_and_signs():
    overlay = film() | np.uint16(0xA000)
    assert np.array_equal(one(cr(overlay)).pixels, one(cr()).pixels)
    signed = (film().astype(np.int32) - 2048).astype(np.int16)
    assert np.array_equal(one(cr(signed)).pixels, one(cr()).pixels)
    unextended = (signed.view(np.uint16) & 0x0FFF).view(np.int16)
    assert np.array_equal(one(cr(unextended, PixelRepresentation=1)).pixels, one(cr()).pixels)


def test_padding_is_black_and_out_of_the_range():
    padded = film()
    padded[:5] = 4095
    got = one(cr(padded, PixelPaddingValue=4095)).pixels
    assert not got[:5].any()
    assert np.array_equal(got[5:], one(cr(film()[5:])).pixels)
    got = one(cr(padded, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")).pixels
    assert not got[:5].any()
    assert got[5, 0] > 200
    assert not one(
        cr(np.full((5, 5), 7, np.uint16), PixelPaddingValue=0, PixelPaddingRangeLimit=9)
    ).pixels.any()


def test_lookup_tables():
    # pydicom reads a table of more than 256 entries of 8 bits wrongly
    table = Dataset()
    table.LUTDescriptor, table.LUTData = (
        [1000, 100, 8],
        np.linspace(0, 255, 1000).astype("<u2").tobytes(),
    )
    ds = cr(VOILUTSequence=[table])
    expected = np.linspace(0, 255, 1000).astype(int)[np.clip(film().astype(int) - 100, 0, 999)]
    assert np.abs(one(ds).pixels - expected.astype(int)).max() <= 1
    halved = Dataset()
    halved.LUTDescriptor, halved.LUTData, halved.ModalityLUTType = (
        [4096, 0, 16],
        np.arange(0, 40960, 10, "<u2").tobytes(),
        "US",
    )
    ds = cr(ModalityLUTSequence=[halved], WindowCenter=20000, WindowWidth=10001)
    assert (
        np.abs(
            one(ds).pixels - np.clip(((film() * 10.0 - 19999.5) / 10000 + 0.5) * 255, 0, 255)
        ).max()
        <= 0.51
    )


@pytest.mark.parametrize("planar", [0, 1])
def test_color(planar):
    pixels = np.random.default_rng(5).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    ds = sc(PlanarConfiguration=planar)
    if planar:
        ds.PixelData = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    picture = one(ds)
    assert np.array_equal(picture.pixels, pixels)
    assert picture.orientation is picture.spacing_mm is picture.index is None
    ds.PhotometricInterpretation = "YBR_FULL"
    expected = pydicom.pixels.convert_color_space(pixels, "YBR_FULL", "RGB")
    assert np.array_equal(one(ds).pixels, expected)


def test_gray_saved_as_color_is_gray():
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    assert np.array_equal(one(dataset(np.stack([grey] * 3, -1), CT_STORAGE, "OT")).pixels, grey)


def test_palette():
    index = np.random.default_rng(0).integers(0, 256, (8, 9), dtype=np.uint8)
    ds = dataset(index, CT_STORAGE, "OT", PhotometricInterpretation="PALETTE COLOR")
    for i, colour in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        data = np.roll(np.arange(256), 20 * i).astype("<u2") * 257
        setattr(ds, f"{colour}PaletteColorLookupTableData", data.tobytes())
    expected = apply_color_lut(index, ds) >> 8
    assert np.array_equal(one(ds).pixels, expected)


def test_frames_have_their_own_window_and_the_shared_geometry():
    ds = mr(3)
    pictures = read_dicom(to_bytes(ds))
    assert [p.index for p in pictures] == [0, 1, 2]
    assert pictures[0].spacing_mm == (0.5, 0.6)
    assert (pictures[0].orientation.columns, pictures[0].orientation.rows) == ("L", "F")
    for i, picture in enumerate(pictures):
        values = film(seed=i) * 2.0 + 10
        expected = np.clip(((values - (1000 + 500 * i - 0.5)) / 1999 + 0.5) * 255, 0, 255)
        assert np.abs(picture.pixels - expected).max() <= 0.51
        assert np.array_equal(one(ds, i).pixels, picture.pixels)
    assert len(read_dicom(to_bytes(sc(2)))) == 2
    for wrong in (3, -1):
        with pytest.raises(DataError, match=rf"x\.dcm: has no frame {wrong}; it has 3"):
            one(ds, wrong)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("L\\F", "LF"), ("R\\F", "RF"), ("L\\FP", "LF"), ("P\\F", "PF"), ("A\\H", "AH")],
)
def test_stated_orientation(stated, expected):
    found = one(cr(orientation=stated, ViewPosition="")).orientation
    assert found.columns + found.rows == expected
    assert found.source == "PatientOrientation"


def test_mirrored_films_are_the_same_in_the_usual_view():
    straight, mirrored = (
        one(cr(orientation="L\\F")),
        one(cr(film()[:, ::-1].copy(), orientation="R\\F")),
    )
    assert straight.orientation.patient_left == "right"
    assert mirrored.orientation.patient_left == "left"
    assert np.array_equal(
        straight.orientation.to_usual(straight.pixels),
        mirrored.orientation.to_usual(mirrored.pixels),
    )


@pytest.mark.parametrize("empty", [None, "", ["", ""]])
def test_no_stated_orientation_is_unknown(empty):
    ds = cr(orientation="")
    if empty is not None:
        ds.PatientOrientation = empty
    assert one(ds).orientation is None


@pytest.mark.parametrize(
    "garbage", [["L"], ["L", "R"], ["left", "feet"], ["X", "F"], ["L", "F", "H"], [PATIENT, "F"]]
)
def test_garbage_orientation_is_unknown_and_said(garbage):
    data = to_bytes(cr(orientation="L\\F"))
    value = "\\".join(garbage).encode()
    value += b" " * (len(value) % 2)
    old = b"\x20\x00\x20\x00CS\x04\x00L\\F "
    assert data.count(old) == 1
    data = data.replace(old, b"\x20\x00\x20\x00CS" + struct.pack("<H", len(value)) + value)
    with pytest.warns(DataWarning, match="does not name two directions") as caught:
        assert one(data).orientation is None
    assert PATIENT not in str(caught[0].message)


def test_two_orientations_that_disagree_are_unknown():
    assert one(ct(PatientOrientation=["L", "P"])).orientation.source == "PatientOrientation"
    with pytest.warns(
        DataWarning, match=r"PatientOrientation is R\\P, but ImageOrientationPatient says L\\P"
    ):
        assert one(ct(PatientOrientation=["R", "P"])).orientation is None


@pytest.mark.parametrize("cosines", [[0] * 6, [1, 0, 0, 1, 0, 0], [1, 0, 0]])
def test_impossible_cosines_are_unknown(cosines):
    assert one(ct(ImageOrientationPatient=cosines)).orientation is None


@pytest.mark.parametrize("spacing", [[0, 0.5], [-1, 1], None])
def test_impossible_spacing_is_unknown(spacing):
    assert one(ct(PixelSpacing=spacing)).spacing_mm is None


def test_header_has_what_results_need_and_nothing_else(tmp_path):
    ds = ct(PatientComments="a secret", OtherPatientIDs="77")
    ds.add_new(0x00091001, "LO", "private")
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(ds))
    picture = read_dicom(path)[0]
    header = picture.header
    assert picture.source == path
    assert picture.format == "dicom"
    for keyword in (
        "SOPInstanceUID",
        "SOPClassUID",
        "StudyInstanceUID",
        "PatientName",
        "FrameOfReferenceUID",
        "Rows",
    ):
        assert header[keyword].value == ds[keyword].value
    assert header.ImagePositionPatient == [-10, -10, 0]
    assert header.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    for left_out in ("PixelData", "PatientComments", "OtherPatientIDs", 0x00091001):
        assert left_out not in header
    assert len(header) < 50


@pytest.mark.parametrize(
    "syntax", ["ImplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian", "RLELossless"]
)
def test_transfer_syntaxes(syntax):
    for ds in (cr(), ct(), sc(), mr()):
        expected = [picture.pixels for picture in read_dicom(to_bytes(ds))]
        if syntax == "RLELossless":
            ds.compress(pydicom.uid.RLELossless)
        ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
        got = [picture.pixels for picture in read_dicom(to_bytes(ds))]
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def encapsulated(ds: Dataset, frame: bytes, syntax: str) -> bytes:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = pydicom.encaps.encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return to_bytes(ds)


def jpeg(rows: int, columns: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    ramp = np.add.outer(np.arange(rows), np.arange(columns)).astype(np.uint8)
    Image.fromarray(ramp).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_jpeg_and_a_jpeg_of_another_size():
    grey = np.zeros((20, 30), np.uint8)
    data = encapsulated(dataset(grey, CT_STORAGE, "OT"), jpeg(20, 30), "1.2.840.10008.1.2.4.50")
    assert np.abs(one(data).pixels - np.add.outer(np.arange(20.0), np.arange(30))).max() <= 3
    data = encapsulated(dataset(grey, CT_STORAGE, "OT"), jpeg(200, 300), "1.2.840.10008.1.2.4.50")
    with pytest.raises(DataError, match=r"has size \(200, 300\), the header says \(20, 30\)"):
        one(data)


def test_an_rle_frame_that_inflates_to_more_is_refused():
    body = b"\x81\x00" * 500_000  # 128 bytes each
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + body
    data = encapsulated(
        dataset(np.zeros((20, 30), np.uint8), CT_STORAGE, "OT"), frame, "1.2.840.10008.1.2.5"
    )
    with pytest.raises(DataError, match="inflates to more"):
        one(data)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.102", "1.2.3.4"])
def test_a_coding_without_a_decoder_is_named(syntax):
    ds = dataset(np.zeros((20, 30), np.uint8), CT_STORAGE, "OT")
    data = encapsulated(
        ds, b"\0" * 100, "1.2.840.10008.1.2.4.80" if syntax == "1.2.3.4" else syntax
    )
    data = data.replace(b"1.2.840.10008.1.2.4.80", b"1.2.3.4".ljust(22, b"\0"))
    with pytest.raises(
        DataError, match=r"x\.dcm: is compressed as .*no decoder is installed.*dcmdjpeg"
    ):
        one(data)


# damage and abuse


def peak(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(data: bytes, match: str, most: int = 20_000_000) -> None:
    def call() -> None:
        with pytest.raises(DataError, match=match) as caught:
            read_dicom(data, name="x.dcm")
        assert str(caught.value).startswith("x.dcm: ")
        assert PATIENT not in str(caught.value)

    assert peak(call) < most


def test_a_deflate_bomb_is_refused_while_it_inflates(monkeypatch):
    monkeypatch.setattr(dicom, "MAX_FILE_BYTES", 5_000_000)
    ds = ct()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    head = to_bytes(ds)
    stream = io.BytesIO(head)
    stream.seek(132)
    pydicom.filereader.read_dataset(
        stream, False, True, stop_when=lambda tag, vr, length: int(tag) >> 16 != 2
    )
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = b"\0" * 1_000_000
    bomb = b"".join(engine.compress(zeros) for _ in range(40)) + engine.flush()
    assert len(bomb) < 200_000
    refused(head[: stream.tell()] + bomb, "inflates to more than 5,000,000 bytes")
    refused(head[:-20], "compressed data end too early")
    refused(head[: stream.tell()] + b"\xff" * 50, "compressed data are damaged")


def test_sizes_beyond_the_caps():
    ds = ct()
    ds.Rows = ds.Columns = 65535
    refused(to_bytes(ds), "65535 x 65535 pixels")
    for frames, match in (
        (2**31 - 1, "NumberOfFrames"),
        (0, "NumberOfFrames"),
        (4000, "truncated"),
        (-1, "NumberOf"),
    ):
        ds = ct()
        ds.NumberOfFrames = frames
        refused(to_bytes(ds), match)
    ds = ct(NumberOfFrames=4000)
    ds.Rows = ds.Columns = 9000
    refused(to_bytes(ds), "more than 1,073,741,824 bytes")


def test_a_declared_length_of_4_gigabytes():
    data = to_bytes(ct())
    at = data.index(b"\xe0\x7f\x10\x00OW")
    refused(data[: at + 8] + b"\xfe\xff\xff\xff" + data[at + 12 :], "truncated")
    name = data.index(b"\x10\x00\x10\x00PN")
    refused(data[: name + 4] + b"UT\0\0" + b"\xfe\xff\xff\xff" + data[name + 8 :], "truncated")
    comments = (
        data[:name] + b"\x10\x00\x00\x40UT\0\0\xfe\xff\xff\xff" + data[name:]
    )  # an element that is skipped
    refused(comments, "contains no pixels")


def test_truncation_anywhere():
    data = to_bytes(cr())
    for length in [*range(0, 800, 7), len(data) - 100, len(data) - 1]:
        refused(data[:length], r"x\.dcm")


def test_a_preamble_that_is_a_program_is_read_and_not_passed_on():
    data = to_bytes(ct())
    polyglot = b"MZ" + b"\x90" * 126 + data[128:]
    picture = one(polyglot)
    assert np.array_equal(picture.pixels, one(data).pixels)
    assert b"\x90" * 16 not in to_bytes(picture.header)[:128]
    assert not hasattr(picture.header, "preamble")


def nested(depth: int) -> list[Dataset]:
    inner = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.DimensionIndexSequence = [inner]
        inner = outer
    return inner.DimensionIndexSequence


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_nested_sequences(undefined, kept):
    depth = 900
    body = b""
    tag = b"\x20\x00\x22\x92" if kept else b"\x40\x00\x75\x02"
    for _ in range(depth):
        if undefined:
            body = tag + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + body
            body += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            body = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body
            body = tag + b"SQ\0\0" + struct.pack("<I", len(body)) + body
    data = to_bytes(ct())
    at = data.index(b"\x28\x00\x02\x00US") if kept else data.index(b"\xe0\x7f\x10\x00OW")
    data = data[:at] + body + data[at:]
    if not kept and not undefined:
        assert one(data).pixels.size  # skipped without a look
    else:
        refused(data, "nests sequences|RecursionError")


def test_nested_sequences_of_implicit_vr():
    body = b""
    for _ in range(dicom.MAX_DEPTH + 1):
        body = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body
        body = b"\x20\x00\x22\x92" + struct.pack("<I", len(body)) + body
    ds = ct()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    data = to_bytes(ds)
    at = data.index(b"\x28\x00\x02\x00\x02\x00\x00\x00")
    refused(data[:at] + body + data[at:], "nests sequences")


def test_wrong_samples_and_bits_and_words():
    for attributes, match in (
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3, expected 1"),
        ({"SamplesPerPixel": 65535}, "SamplesPerPixel is 65535"),
        ({"BitsAllocated": 12}, "12 bits per sample"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "1 bits per sample"),
        ({"BitsStored": 17}, "17 of 16 bits"),
        ({"PhotometricInterpretation": "HSV"}, "PhotometricInterpretation is unsupported"),
        ({"Rows": 0}, "Rows is 0"),
        ({"Rows": None}, "Rows is None"),
        ({"RescaleSlope": "0"}, "RescaleSlope is 0"),
        ({"VOILUTFunction": "CUBIC"}, "VOILUTFunction is unsupported"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "is a segmentation"),
    ):
        ds = ct()
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        refused(to_bytes(ds), match)


@pytest.mark.parametrize("value", [b"NaN ", b"1e99", b"Doe^Jane", b"\xff\xfe"])
def test_numbers_that_are_none(value):
    data = to_bytes(ct())
    old = b"\x28\x00\x53\x10DS\x02\x001 "
    assert data.count(old) == 1
    new = b"\x28\x00\x53\x10DS" + struct.pack("<H", len(value)) + value
    refused(data.replace(old, new), "RescaleSlope contains")


def test_no_image_no_dicom_and_float_pixels(tmp_path):
    ds = ct()
    del ds.PixelData
    refused(to_bytes(ds), "contains no pixels")
    ds.add_new(0x7FE00008, "OF", b"\0" * 4800)
    refused(to_bytes(ds), "floating point")
    refused(b"dear colleague, please find the film below" * 9, "is not DICOM")
    refused(b"", "is empty")
    text = tmp_path / "secret-folder" / "text.dcm"
    text.parent.mkdir()
    text.write_text("no film")
    with pytest.raises(DataError, match=r"^text\.dcm: is not DICOM"):
        read_dicom(text)
    with pytest.raises(DataError, match=r"^gone\.dcm: no such file"):
        read_dicom(tmp_path / "gone.dcm")


def test_pydicom_is_imported_when_needed_only():
    code = (
        "import sys, textmask.io.read, textmask.cli.app; "
        "sys.exit('pydicom' in sys.modules or 'nibabel' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_pydicom_names_the_extra(monkeypatch):
    dicom._pydicom.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"textmask\[dicom\]"):
        read_dicom(to_bytes(ct()))
    dicom._pydicom.cache_clear()


@pytest.mark.parametrize("shape", [(20, 30), (7, 9), (20, 30, 3)])
def test_big_endian_words_of_two_pixels_are_not_swapped(shape):
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    ds = dataset(pixels, pydicom.uid.SecondaryCaptureImageStorage, "OT", ConversionType="WSD")
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    data = ds.PixelData
    ds.add_new(0x7FE00010, "OB", data)
    assert (one(big_endian(ds)).pixels == pixels).all()
    # as words, the first pixel is the lower byte, which big endian stores second
    ds.add_new(0x7FE00010, "OW", np.frombuffer(data, "<u2").astype(">u2").tobytes())
    assert (one(big_endian(ds)).pixels == pixels).all()


def big_endian(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, implicit_vr=False, little_endian=False, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("orientation", "given"),
    [
        ("L\\F", {"ViewPosition": "LL"}),
        ("R\\F", {"ViewPosition": "LATERAL"}),
        ("A\\F", {"ViewPosition": "PA"}),
        ("A\\F", {"ViewPosition": "LL", "ImageLaterality": "R"}),
        ("A\\F", {"ViewPosition": "RL", "ImageLaterality": "L"}),
    ],
)
def test_an_orientation_that_the_view_contradicts_is_unknown(orientation, given):
    with pytest.warns(DataWarning, match="treated as unknown"):
        assert one(cr(orientation=orientation, **given)).orientation is None


@pytest.mark.parametrize(
    ("orientation", "given"),
    [
        ("L\\F", {"ViewPosition": "AP", "ImageLaterality": "U"}),
        ("R\\F", {"ViewPosition": "PA", "ImageLaterality": "L"}),
        ("A\\F", {"ViewPosition": "LL", "ImageLaterality": "L"}),
        ("A\\F", {"ViewPosition": ""}),
        ("P\\F", {"ViewPosition": "LATERAL", "ImageLaterality": "R"}),
    ],
)
def test_an_orientation_that_the_view_allows_is_kept(orientation, given):
    found = one(cr(orientation=orientation, **given)).orientation
    assert f"{found.columns}\\{found.rows}" == orientation
