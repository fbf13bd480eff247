"""Augmentation on the device gives the batches of the CPU path, but for the rounding of OpenCV."""

import numpy as np
import pytest
import torch

from textmask.config import Augment, Stage, Tiles
from textmask.data.cache import open_split
from textmask.data.loaders import Loader

# OpenCV rounds positions to 1/32 pixel and values to gray levels; phantoms are rough, their edges are one pixel wide
MEAN, LARGEST, MOVED = 1 / 255, 32 / 255, 0.01
STRONGEST = Augment(
    rotate_deg=25, flip=0.5, gamma=(0.7, 1.4), brightness=0.1, contrast=0.2, translate=0.1
)


@pytest.fixture(scope="module")
def data(phantom_manifest, tmp_path_factory):
    return open_split(phantom_manifest, "train", (64, 48), tmp_path_factory.mktemp("cache"))


def both_paths(data, stage, **options):
    found = []
    for on_device in (False, True):
        loader = Loader(data, stage, seed=3, train=True, on_device=on_device, **options)
        found.append([raw.to("cpu", torch.channels_last) for raw in loader.epoch(1)])
    return zip(*found, strict=True)


def assert_close(one, other):
    assert one.is_contiguous(memory_format=torch.channels_last)
    difference = (one - other).abs()
    assert difference.mean() <= MEAN
    assert difference.max() <= LARGEST


@pytest.mark.parametrize("tiles", [None, Tiles(size=(32, 32), overlap=0)], ids=["whole", "tiles"])
@pytest.mark.parametrize("augment", [None, Augment(), STRONGEST], ids=["none", "default", "strong"])
def test_image_mask_views_and_prompt_are_those_of_the_cpu(data, augment, tiles):
    stage = Stage(
        name="s", batch_size=8, augment=augment, views=("weak", "strong_blur"), weights={"a": 1.0}
    )
    for cpu, device in both_paths(data, stage, tiles=tiles):
        assert cpu.keys == device.keys
        assert cpu.text.prompts == device.text.prompts
        assert torch.equal(cpu.text.zones, device.text.zones)
        assert cpu.image.shape == device.image.shape
        assert_close(device.image, cpu.image)
        for name in stage.views:
            assert_close(device.views[name], cpu.views[name])
        assert set(device.mask.unique().tolist()) <= {0.0, 1.0}
        assert (device.mask != cpu.mask).float().mean() <= MOVED


def test_the_unlabelled_half_has_no_mask_to_send(data):
    stage = Stage(name="s", batch_size=4, unlabelled_batch_size=8, weights={"a": 1.0})
    rows = {"indices": np.arange(4), "unlabelled_indices": np.arange(4, 24)}
    raw = next(Loader(data, stage, seed=0, train=True, on_device=True, **rows).batches(0))
    assert raw.images.dtype == raw.masks.dtype == torch.uint8
    assert raw.images.shape[1] == 1
    assert raw.unlabelled.masks is None
    for cpu, device in both_paths(data, stage, **rows):
        assert device.unlabelled.mask is None
        assert device.unlabelled.keys == cpu.unlabelled.keys
        assert_close(device.unlabelled.image, cpu.unlabelled.image)


def test_nothing_but_bytes_and_numbers_crosses(data):
    stage = Stage(
        name="s", batch_size=8, augment=STRONGEST, views=("strong", "strong_blur"), weights={}
    )
    raw = next(Loader(data, stage, seed=0, train=True, on_device=True).batches(0))
    batch = raw.to("meta", torch.channels_last)  # reading would raise
    assert batch.image.shape == (8, 3, 64, 48)
    assert {x.device.type for x in (batch.image, batch.mask, *batch.views.values())} == {"meta"}
