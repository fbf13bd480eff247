"""Several prompts per image: each with its own mask, in one geometry, the same in every process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from textmask.config import Augment, Stage, TextAugment
from textmask.data.cache import open_split
from textmask.data.label_maps import ClassNames, with_classes
from textmask.data.loaders import Loader
from textmask.data.manifest import Manifest, Row, image_of
from textmask.errors import ConfigError
from textmask.methods.registry import get_method
from textmask.statement import Laterality

NAMES = ClassNames({1: "left lung", 2: "right lung", 3: "heart"})
STAGE = Stage(name="s", batch_size=4, prompts=3, augment=None, weights={"a": 1.0})
SIZE = (32, 32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six images, each with three structures in other places."""
    root = tmp_path_factory.mktemp("structures")
    rows = []
    for i in range(6):
        labels = np.zeros(SIZE, np.uint8)
        labels[4 + i : 20, 2 : 8 + i] = 1
        labels[4 : 20 + i, 20:30] = 2
        labels[22 + i :, 10:18] = 3
        pixels = np.random.default_rng(i).integers(0, 256, SIZE, dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"i{i}.png")
        Image.fromarray(labels).save(root / f"m{i}.png")
        rows.append(Row(f"i{i}.png", f"m{i}.png", "", "train", f"p{i}", Laterality.IMAGE))
    manifest = with_classes(Manifest(root, tuple(rows), "own"), NAMES, cache_dir=root / "c")
    return open_split(manifest, "train", SIZE, root / "c")


def plain_image(data, key):
    """The image of a row as it is stored, in [0, 1]."""
    return torch.from_numpy(np.array(data.images[data.keys.index(key)])).float() / 255


def mask_of(data, key, prompt):
    """The mask of a structure of an image, found by its name."""
    image = image_of(key)
    rows = [i for i, row in enumerate(data.rows) if row.image == image and row.text == prompt]
    assert len(rows) == 1
    return np.asarray(data.masks[rows[0]], np.float32)


def test_each_further_prompt_is_another_structure_of_the_image_with_its_mask(data):
    seen = set()
    for batch in Loader(data, STAGE, seed=0, train=True).epoch(0):
        each = batch.by_prompt()
        assert len(each) == 3
        assert all(other.image is batch.image and not other.further for other in each)
        for i, key in enumerate(batch.keys):
            prompts = [other.text.prompts[i] for other in each]
            assert sorted(prompts) == sorted(NAMES.names.values())
            seen.add(tuple(prompts))
            for other in each:
                expected = mask_of(data, key, other.text.prompts[i])
                np.testing.assert_array_equal(other.mask[i, 0].numpy(), expected)
    assert len(seen) > 3


def test_more_prompts_than_structures_repeat_them(data):
    stage = STAGE.model_copy(update={"prompts": 5})
    for batch in Loader(data, stage, seed=0, train=True).epoch(0):
        for i in range(len(batch)):
            prompts = [each.text.prompts[i] for each in batch.by_prompt()]
            assert len(prompts) == 5
            assert set(prompts) == set(NAMES.names.values())


def test_the_images_and_the_first_prompt_are_those_of_one_prompt_per_image(data):
    augment = Augment(flip=0.0)
    one = STAGE.model_copy(update={"prompts": 1, "augment": augment})
    several = STAGE.model_copy(update={"augment": augment})
    loaders = [Loader(data, stage, seed=5, train=True).epoch(2) for stage in (one, several)]
    for a, b in zip(*loaders, strict=True):
        assert a.keys == b.keys
        assert a.text.prompts == b.text.prompts
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.mask, b.mask)
        assert not a.further


def test_a_flip_turns_all_masks_and_prompts_of_an_image(data):
    augment = Augment(rotate_deg=0, translate=0, scale=(1, 1), flip=0.5)
    stage = STAGE.model_copy(update={"augment": augment})
    turned = {"left lung": "right lung", "right lung": "left lung", "heart": "heart"}
    flips = 0
    for batch in Loader(data, stage, seed=0, train=True).epoch(0):
        for i, key in enumerate(batch.keys):
            plain = plain_image(data, key)
            is_flipped = not torch.equal(batch.image[i, :1], plain)
            flips += is_flipped
            for each in batch.by_prompt():
                prompt = each.text.prompts[i]
                source = turned[prompt] if is_flipped else prompt
                expected = mask_of(data, key, source)
                expected = expected[:, ::-1] if is_flipped else expected
                np.testing.assert_array_equal(each.mask[i, 0].numpy(), expected)
    assert 0 < flips < 16


def test_an_image_is_not_flipped_when_one_of_its_prompts_cannot_be_mirrored(data):
    # a lingula has no counterpart
    rows = tuple(replace(r, text="lingula") if r.text == "heart" else r for r in data.rows)
    odd = replace(data, rows=rows, prompts=tuple(row.text for row in rows))
    augment = Augment(rotate_deg=0, translate=0, scale=(1, 1), flip=1.0)
    stage = STAGE.model_copy(update={"augment": augment})
    for batch in Loader(odd, stage, seed=0, train=True).epoch(0):
        for i, key in enumerate(batch.keys):
            plain = plain_image(data, key)
            assert torch.equal(batch.image[i, :1], plain)


def test_two_processes_see_the_prompts_of_one(data):
    stage = STAGE.model_copy(update={"text": TextAugment(typo=0.5), "augment": Augment(flip=0.5)})
    whole = list(Loader(data, stage, seed=0, train=True).epoch(1))
    ranks = [list(Loader(data, stage, seed=0, train=True, process=(r, 2)).epoch(1)) for r in (0, 1)]
    for one, first, second in zip(whole, *ranks, strict=True):
        for a, b, c in zip(one.by_prompt(), first.by_prompt(), second.by_prompt(), strict=True):
            assert b.text.prompts + c.text.prompts == a.text.prompts
            assert torch.equal(torch.cat([b.mask, c.mask]), a.mask)


def test_the_device_makes_the_same_prompts_and_masks(data):
    stage = STAGE.model_copy(update={"augment": Augment(flip=0.5)})
    both = [Loader(data, stage, seed=0, train=True, on_device=on).epoch(0) for on in (False, True)]
    for a, b in zip(*both, strict=True):
        for one, other in zip(a.by_prompt(), b.to("cpu").by_prompt(), strict=True):
            assert one.text.prompts == other.text.prompts
            assert (one.mask != other.mask).float().mean() <= 0.02


def test_a_part_of_a_batch_has_its_part_of_all_prompts(data):
    batch = next(Loader(data, STAGE, seed=0, train=True).batches(0))
    parts = batch.parts(2)
    for j, whole in enumerate(batch.by_prompt()):
        pieces = [part.by_prompt()[j] for part in parts]
        assert torch.equal(torch.cat([piece.mask for piece in pieces]), whole.mask)
        assert sum((piece.text.prompts for piece in pieces), ()) == whole.text.prompts
    moved = batch.to("cpu", torch.channels_last)
    assert moved.by_prompt()[2].text.prompts == batch.by_prompt()[2].text.prompts


def test_validation_has_one_prompt_per_row(data):
    for batch in Loader(data, STAGE, seed=0, train=False).epoch(0):
        assert not batch.further


@pytest.mark.parametrize("wrong", ["0", "65", "1.5", "null"])
def test_a_number_of_prompts_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match="prompts"):
        get_method("unet").recipe().override(f"stages.*.prompts={wrong}")


def test_a_stage_with_an_unlabelled_stream_has_one_prompt():
    with pytest.raises(ConfigError, match="with an unlabelled stream, which sees one prompt"):
        get_method("semi_medref").recipe().override("stages.semi.prompts=2")
    with pytest.raises(ConfigError, match="with no optimizer, which sees one prompt"):
        get_method("text_prior").recipe().override("stages.0.prompts=2")
