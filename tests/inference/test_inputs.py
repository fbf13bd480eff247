"""Images as people have them in Python, and what a result can do in a notebook."""

import io
import json
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import textmask
from textmask.errors import ConfigError, DataError
from textmask.inference.inputs import as_loaded_image
from textmask.inference.segmentation import Segmentations

GRAY = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return textmask.load(device="cpu")


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_every_type_gives_the_same_pixels(pixels, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels))
    tensor = torch.from_numpy(pixels)
    channels_first = tensor[None] if pixels.ndim == 2 else tensor.permute(2, 0, 1)
    given = [
        *(path, str(path), png(pixels), Image.fromarray(pixels), pixels, tensor, channels_first),
        *(channels_first[None], channels_first.float() / 255, pixels / 255, pixels.astype(float)),
        *((pixels / 255).astype(np.float16), (pixels / 255).astype(np.float32)),
        np.asfortranarray(pixels),
    ]
    for image in given:
        np.testing.assert_array_equal(as_loaded_image(image).pixels, pixels)
    deep = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(as_loaded_image(deep, window=(0, 65535)).pixels, pixels)
    ct = pixels.astype(np.int16) - 128
    np.testing.assert_array_equal(as_loaded_image(ct, window=(-128, 127)).pixels, pixels)


def test_a_pillow_photograph_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(COLOR).save(tmp_path / "a.png", exif=exif)
    opened = as_loaded_image(Image.open(tmp_path / "a.png")).pixels
    assert opened.shape == (56, 40, 3)
    np.testing.assert_array_equal(opened, as_loaded_image(tmp_path / "a.png").pixels)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (GRAY.astype(np.uint16), "window="),
        (GRAY.astype(np.int64), "window="),
        (GRAY.astype(float) - 300, "window="),
        (GRAY.astype(float) * 9, "window="),
        (GRAY > 9, "expected a path"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((3, 40, 56), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 40, 56, 3), np.uint8), "shape"),
        (np.zeros((40, 56, 2), np.uint8), "shape"),
        (np.zeros((0, 5), np.uint8), "shape"),
        (np.array([["a"]]), "expected a path"),
        (None, "NoneType, expected a path"),
        ({"image": 1}, "dict, expected a path"),
        (3.0, "float, expected a path"),
        (b"", "empty"),
        (b"no image", "cannot be decoded|unknown format"),
    ],
)
def test_what_is_not_accepted_is_a_clear_error(image, words):
    with pytest.raises(DataError, match=words):
        as_loaded_image(image)


@pytest.mark.parametrize("window", [(5, 5), (9, 1), (0, np.inf), 7, "ab", (1, 2, 3)])
def test_a_window_is_two_numbers(window):
    with pytest.raises(ConfigError, match="window"):
        as_loaded_image(GRAY, window=window)


def test_a_window_or_an_index_that_does_not_apply_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(GRAY))
    with pytest.raises(ConfigError, match="arrays and tensors only"):
        as_loaded_image(path, window=(0, 1))
    with pytest.raises(ConfigError, match="files only"):
        as_loaded_image(GRAY, index=1)


def test_segment_takes_image_and_prompt_and_the_old_form_still_works(model, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(GRAY))
    expected = model.open(GRAY).segment("lower left lung", "image").probability
    for image in (GRAY, path, str(path), png(GRAY)):
        found = model.segment(image, "lower left lung", laterality="image")
        np.testing.assert_array_equal(found.probability, expected)
        assert found.prompt == "lower left lung"
    model.set_image(GRAY)
    for found in (
        model.segment("lower left lung"),
        model.segment("lower left lung", "image"),
        model.segment("lower left lung", laterality="image"),
    ):
        np.testing.assert_array_equal(found.probability, expected)
    # another image in between does not replace the current one
    model.segment(np.zeros_like(GRAY), "left lung")
    np.testing.assert_array_equal(model.segment("lower left lung").probability, expected)


def test_lists_of_images_and_prompts(model):
    images, prompts = [GRAY, np.flip(GRAY, 1)], ["left lung", "right lung"]
    one_by_one = [
        model.segment(image, prompt).probability
        for image, prompt in zip(images, prompts, strict=True)
    ]
    for found, expected in zip(model.segment(images, prompts), one_by_one, strict=True):
        np.testing.assert_array_equal(found.probability, expected)
    several = model.segment(GRAY, prompts)
    assert isinstance(several, Segmentations)
    assert [found.prompt for found in several] == prompts
    assert len(model.segment(images, "left lung")) == 2
    assert model.segment([], "left lung") == []
    with pytest.raises(DataError, match="2 images and 3 prompts"):
        model.segment(images, ["a", "b", "c"])
    for wrong in (None, 3, ["left", None]):
        with pytest.raises(DataError, match="expected a text"):
            model.segment(GRAY, wrong)


def test_a_result_draws_and_describes_itself(model):
    found = model.segment(GRAY, "left lung")
    mask = np.zeros_like(GRAY)
    mask[10:20, 5:30] = 1
    mask[12:14, 8:10] = 0
    object.__setattr__(found, "mask", mask)
    outlines = found.contour()
    assert len(outlines) == 2  # and that of the hole
    assert outlines[0].min(0).tolist() == [5, 10] or outlines[1].min(0).tolist() == [5, 10]
    picture = found.overlay()
    assert picture.shape == (40, 56, 3)
    np.testing.assert_array_equal(picture[30:, 40:], np.repeat(GRAY[30:, 40:, None], 3, 2))
    shown = np.asarray(Image.open(io.BytesIO(found._repr_png_())))
    np.testing.assert_array_equal(shown, picture)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["foreground_px"] == 246
    assert record["box"] == [5, 10, 25, 10]
    assert record["prompt"] == "left lung"


def test_an_empty_mask_draws_and_describes_itself(model):
    found = model.segment(GRAY, "Hello World")
    assert found.abstained
    assert found.contour() == []
    assert found.to_dict()["box"] is None
    assert found._repr_png_().startswith(b"\x89PNG")


def test_results_as_a_data_frame(model, monkeypatch):
    found = model.segment(GRAY, ["left lung", "right lung"])
    pandas = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["prompt"].tolist() == ["left lung", "right lung"]
    assert len(found[0].to_pandas()) == 1


def test_without_pandas_a_result_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install"):
        model.segment(GRAY, ["left lung"]).to_pandas()
