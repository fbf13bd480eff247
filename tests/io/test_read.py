import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from dicom_files import cr, ct, mr, to_bytes
from PIL import Image
from test_nifti import to_bytes as nifti_bytes

from textmask.errors import DataError, DataWarning
from textmask.io import read
from textmask.io.images import read_image
from textmask.io.read import is_medical_file, load_image, load_images, read_bytes, read_series

GREY = np.random.default_rng(0).integers(0, 256, (37, 51), dtype=np.uint8)


def flat(form: str, array: np.ndarray = GREY) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


FILES = {
    "a.png": flat("PNG"),
    "deep.png": flat("PNG", np.linspace(900, 5000, 400).astype(np.uint16).reshape(20, 20)),
    "a.jpg": flat("JPEG"),
    "a.tif": flat("TIFF", np.stack([GREY, GREY.T.reshape(37, 51), GREY], -1)),
    "deep.tif": flat("TIFF", np.linspace(900, 5000, 400).astype(np.uint16).reshape(20, 20)),
    "a.bmp": flat("BMP"),
    "film.dcm": to_bytes(cr()),
    "film": to_bytes(cr()),
    "a.nii": nifti_bytes(),
    "a.nii.gz": gzip.compress(nifti_bytes()),
    "frames.dcm": to_bytes(mr()),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_its_bytes_are_the_same_images(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    from_file, from_bytes = load_images(path), read_bytes(FILES[name], name)
    assert len(from_file) == len(from_bytes)
    for a, b in zip(from_file, from_bytes, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert (a.orientation, a.spacing_mm, a.index, a.format) == (
            b.orientation,
            b.spacing_mm,
            b.index,
            b.format,
        )
        assert a.source == path
        assert b.source is None
    assert is_medical_file(path) == (from_file[0].format != "picture")
    if not is_medical_file(path):
        assert np.array_equal(from_file[0].pixels, read_image(path))
        assert from_file[0].orientation is from_file[0].index is from_file[0].header is None


def test_16_bit_color_from_bytes():
    import cv2

    deep = np.random.default_rng(1).integers(0, 700, (20, 30, 3)).astype(np.uint16)
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    assert np.abs(read_bytes(data, "a.png")[0].pixels / 255 - deep / 700).max() < 0.02


def test_medical_by_content_or_name(tmp_path):
    for name, content in (("x.png", FILES["film.dcm"]), ("noname", FILES["a.nii.gz"])):
        (tmp_path / name).write_bytes(content)
        assert is_medical_file(tmp_path / name)
    for name in ("gone.dcm", "gone.nii.gz", "gone.NII"):
        assert is_medical_file(tmp_path / name)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "x.txt").write_text("text")
    for name in ("x.gz", "x.txt", "gone.png"):
        assert not is_medical_file(tmp_path / name)


def test_one_image_or_an_index(tmp_path):
    path = tmp_path / "frames.dcm"
    path.write_bytes(FILES["frames.dcm"])
    with pytest.raises(
        DataError, match=r"frames\.dcm: contains 3 images, expected one. Give the index .*0 to 2"
    ):
        load_image(path)
    assert load_image(path, 1).index == 1
    assert np.array_equal(load_image(path, 1).pixels, load_images(path)[1].pixels)
    (tmp_path / "a.png").write_bytes(FILES["a.png"])
    assert load_image(tmp_path / "a.png", 0).index is None
    with pytest.raises(DataError, match="single image"):
        load_image(tmp_path / "a.png", 1)


@pytest.mark.parametrize("name", ["text.dcm", "text.nii", "text.nii.gz", "text.png", "text"])
def test_text_by_any_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("dear colleague")
    for call in (lambda: load_images(path), lambda: read_bytes(path.read_bytes(), name)):
        with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
            call()
        assert " at 0x" not in str(caught.value)


def test_bytes_beyond_the_limit_and_odd_names():
    with pytest.raises(DataError, match=r"a\.png: has [\d,]+ bytes; the limit is 100"):
        read_bytes(FILES["a.png"], "a.png", limit=100)
    with pytest.raises(DataError, match="is empty"):
        read_bytes(b"", "a.png")
    for name, shown in (
        ("../../etc/a.png", "a.png: "),
        ("C:\\scans\\a.png", "a.png: "),
        ("", "the upload: "),
    ):
        with pytest.raises(DataError) as caught:
            read_bytes(b"text", name)
        assert str(caught.value).startswith(shown)


def series(folder: Path, places: list[float], **attributes: object) -> Path:
    folder.mkdir(exist_ok=True)
    for i, place in enumerate(places):
        (folder / f"{(i * 7) % 5}-{i}.dcm").write_bytes(to_bytes(ct(place, seed=i, **attributes)))
    return folder


def test_a_series_is_sorted_along_its_normal(tmp_path):
    folder = series(tmp_path / "ct", [4, -2, 0, 2, -4])
    (folder / "notes.txt").write_text("no slice")
    (folder / ".hidden").write_bytes(b"\0" * 128 + b"DICM")
    pictures = read_series(folder)
    assert [float(p.header.ImagePositionPatient[2]) for p in pictures] == [-4, -2, 0, 2, 4]
    assert np.array_equal(pictures[0].pixels, read_bytes(to_bytes(ct(seed=4)), "x")[0].pixels)
    back = series(tmp_path / "sagittal", [0, 0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    for i, path in enumerate(sorted(back.iterdir())):
        path.write_bytes(
            to_bytes(
                ct(ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[3 * i, 0, 0])
            )
        )
    assert [float(p.header.ImagePositionPatient[0]) for p in read_series(back)] == [
        3,
        0,
    ]  # the normal runs right


def test_what_is_no_series(tmp_path):
    with pytest.warns(DataWarning, match="2 to 4 mm; a slice may be missing"):
        assert len(read_series(series(tmp_path / "gap", [0, 2, 6]))) == 3
    with pytest.raises(DataError, match="two slices have the same position"):
        read_series(series(tmp_path / "twice", [0, 2, 2]))
    mixed = series(tmp_path / "mixed", [0, 2])
    (mixed / "z.dcm").write_bytes(to_bytes(ct(4, SeriesInstanceUID="1.2.3.99")))
    with pytest.raises(DataError, match=r"mixed: z\.dcm differs from 0-0\.dcm in series"):
        read_series(mixed)
    with pytest.raises(DataError, match="has no ImagePositionPatient"):
        read_series(series(tmp_path / "nowhere", [0], ImagePositionPatient=None))
    (mixed / "z.dcm").write_bytes(FILES["frames.dcm"])
    with pytest.raises(DataError, match=r"z\.dcm: contains 3 images"):
        read_series(mixed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: contains no DICOM file"):
        read_series(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a directory"):
        read_series(tmp_path / "gone")


def test_a_series_beyond_the_caps(tmp_path, monkeypatch):
    folder = series(tmp_path / "ct", [0, 2, 4])
    monkeypatch.setattr(read, "MAX_PIXEL_BYTES", 2000)
    with pytest.raises(DataError, match="more than 2,000 pixels"):
        read_series(folder)
    monkeypatch.setattr(read, "MAX_FRAMES", 2)
    with pytest.raises(DataError, match="3 DICOM files; the limit is 2"):
        read_series(folder)
