"""How unlike the training images an image is: what is far, what is near, and what is stored."""

import json

import numpy as np
import pytest

from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.errors import CheckpointError
from textmask.inference.likeness import KnownImages, image_numbers


def radiographs(seeds, size=(48, 48)):
    return [make_phantom(PhantomConfig(size=size), seed).image[None] for seed in seeds]


@pytest.fixture(scope="module")
def known():
    return KnownImages.of_images(radiographs(range(120)), radiographs(range(200, 260)))


def unlike():
    rng = np.random.default_rng(0)
    stripes = ((np.arange(48) // 4 % 2) * 255).astype(np.uint8)
    photograph = rng.integers(0, 255, (3, 6, 6), np.uint8).repeat(8, 1).repeat(8, 2)
    return {
        "noise": rng.integers(0, 255, (1, 48, 48), np.uint8),
        "black": np.zeros((1, 48, 48), np.uint8),
        "white": np.full((1, 48, 48), 255, np.uint8),
        "stripes": np.broadcast_to(stripes, (1, 48, 48)).copy(),
        "photograph": photograph,
        "turned": np.rot90(radiographs([7])[0], axes=(1, 2)).copy(),
    }


@pytest.mark.parametrize("name", unlike())
def test_what_is_no_radiograph_is_far(known, name):
    assert known.rank(unlike()[name]) < 0.01


def test_further_radiographs_are_near(known):
    ranks = [known.rank(image) for image in radiographs(range(300, 340))]
    assert np.mean(np.array(ranks) < 0.01) <= 0.1
    assert 0.3 < np.median(ranks) < 0.7
    assert all(0 <= rank <= 1 for rank in ranks)


def test_size_and_channels_do_not_matter(known):
    image = radiographs([301])[0]
    large = image.repeat(20, 1).repeat(20, 2)  # reduced before it is compared
    colored = np.broadcast_to(image, (3, 48, 48))
    near = known.distance(*image_numbers(image))
    assert known.distance(*image_numbers(colored)) == pytest.approx(near, rel=1e-3)
    assert known.distance(*image_numbers(large)) == pytest.approx(near, rel=0.3)


def test_it_is_stored_small_and_read_back(known):
    text = json.dumps(known.as_json())
    assert len(text) < 40_000
    again = KnownImages.from_json(json.loads(text))
    for image in radiographs(range(300, 305)):
        assert again.rank(image) == known.rank(image)


def test_too_few_images_say_nothing():
    few = radiographs(range(5))
    assert KnownImages.of_images(few, radiographs(range(30))) is None
    assert KnownImages.of_images(radiographs(range(30)), few) is None


@pytest.mark.parametrize(
    "change", [{"layout": {}}, {"tones": None}, {"distance_quantiles": [2, 1]}, {"layout": 3}]
)
def test_a_damaged_file_is_refused(known, change):
    with pytest.raises(CheckpointError, match="Run textmask calibrate again"):
        KnownImages.from_json({**known.as_json(), **change})
