"""Cache, label fractions, streams: everything follows from (seed, epoch, step)."""

import itertools
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from textmask.config import Augment, Stage, Tiles
from textmask.data import cache
from textmask.data.cache import open_split
from textmask.data.loaders import Loader, to_image
from textmask.data.manifest import Manifest, Row
from textmask.errors import ConfigError, DataError
from textmask.statement import Laterality

STAGE = Stage(
    name="s", batch_size=6, augment=Augment(flip=0.5), views=("strong",), weights={"a": 1.0}
)


@pytest.fixture
def data(phantom_manifest, tmp_path):
    return open_split(phantom_manifest, "train", (32, 32), tmp_path)


def same(a, b):
    keys = a.keys == b.keys and a.text.prompts == b.text.prompts
    tensors = [(a.image, b.image), (a.mask, b.mask), (a.text.zones, b.text.zones)]
    tensors += [(a.views[name], b.views[name]) for name in a.views]
    return keys and all(torch.equal(x, y) for x, y in tensors)


def test_the_cache_holds_the_resized_images_and_is_made_once(
    phantom_manifest, tmp_path, monkeypatch
):
    calls = []
    first = open_split(
        phantom_manifest,
        "valid",
        (32, 32),
        tmp_path,
        lambda *step: calls.append(step),
    )
    assert calls[-1] == ("decoding", 8, 8)
    assert first.images.shape == (8, 1, 32, 32)
    assert set(np.unique(first.masks)) == {0, 1}
    monkeypatch.setattr(cache, "read_image", lambda path: pytest.fail("decoded twice"))
    again = open_split(phantom_manifest, "valid", (32, 32), tmp_path)
    np.testing.assert_array_equal(first.images, again.images)
    assert again.native_sizes.tolist() == [[64, 64]] * 8


def test_gray_and_color_images_share_a_cache(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"a": (8, 8), "b": (8, 8), "c": (8, 8, 3), "d": (8, 8)}
    pixels = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()}
    for name, picture in pixels.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    rows = tuple(
        Row(f"{n}.png", None, "left", "train", "", Laterality.IMAGE, False) for n in pixels
    )
    opened = open_split(Manifest(tmp_path, rows), "train", (8, 8), tmp_path / "cache")
    assert opened.images.shape == (4, 3, 8, 8)
    assert not opened.has_mask.any()
    for i, name in enumerate(pixels):
        picture = pixels[name] if pixels[name].ndim == 2 else pixels[name][:, :, ::-1]
        expected = (
            np.broadcast_to(picture, (3, 8, 8)) if picture.ndim == 2 else picture.transpose(2, 0, 1)
        )
        np.testing.assert_array_equal(opened.images[i], expected)


def test_a_mask_of_another_size_is_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((8, 9), np.uint8))
    rows = (Row("a.png", "m.png", "left", "train", "", Laterality.IMAGE, True),)
    with pytest.raises(DataError, match=r"8 x 8 pixels, its mask .* has 8 x 9"):
        open_split(Manifest(tmp_path, rows), "train", (8, 8), tmp_path / "cache")
    assert not [
        p for p in (tmp_path / "cache").iterdir() if p.suffix in (".part", ".memmap", ".json")
    ]


def test_a_full_disk_leaves_no_half_cache(phantom_manifest, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_json", full)
    with pytest.raises(DataError, match="cannot write the decoded cache"):
        open_split(phantom_manifest, "test", (32, 32), tmp_path)
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    assert len(open_split(phantom_manifest, "test", (32, 32), tmp_path)) == 8


def test_batches_depend_only_on_seed_epoch_and_step(data):
    def batches(seed, epoch):
        return list(Loader(data, STAGE, seed=seed, train=True).epoch(epoch))

    assert all(same(a, b) for a, b in zip(batches(0, 3), batches(0, 3), strict=True))
    assert not same(batches(0, 3)[0], batches(0, 4)[0])
    assert not same(batches(0, 3)[0], batches(1, 3)[0])


def test_an_epoch_sees_every_row_once_and_evaluation_keeps_the_order(data):
    loader = Loader(data, STAGE, seed=0, train=True)
    seen = [key for batch in loader.epoch(0) for key in batch.keys]
    assert sorted(seen) == sorted(data.keys)
    plain = list(
        Loader(data, STAGE.model_copy(update={"batch_size": 7}), seed=0, train=False).epoch(0)
    )
    assert [key for batch in plain for key in batch.keys] == list(data.keys)
    np.testing.assert_array_equal(torch.cat([b.mask for b in plain])[:, 0].numpy(), data.masks)


def test_two_ranks_share_the_global_batch_of_one_process(data):
    stage = STAGE.model_copy(update={"views": ()})
    one = list(Loader(data, stage, seed=0, train=True).epoch(1))
    ranks = [list(Loader(data, stage, seed=0, train=True, process=(r, 2)).epoch(1)) for r in (0, 1)]
    for whole, first, second in zip(one, *ranks, strict=True):
        torch.testing.assert_close(
            torch.cat([first.image, second.image]), whole.image, atol=0, rtol=0
        )
        assert first.text.prompts + second.text.prompts == whole.text.prompts
    with pytest.raises(ConfigError, match="must be divisible by the 4 processes"):
        Loader(data, stage, seed=0, train=True, process=(0, 4))


def test_flipped_samples_carry_a_mirrored_prompt(data):
    always = STAGE.model_copy(
        update={"augment": Augment(rotate_deg=0, translate=0, scale=(1, 1), flip=1.0), "views": ()}
    )
    truth = dict(zip(data.keys, zip(data.statements, data.masks, strict=True), strict=True))
    for batch in Loader(data, always, seed=0, train=True).epoch(0):
        for i, key in enumerate(batch.keys):
            statement, mask = truth[key]
            assert batch.text.statements[i].zones == statement.mirrored().zones
            assert batch.text.zones[i].tolist() == list(statement.mirrored().bits())
            np.testing.assert_array_equal(batch.mask[i, 0].numpy(), mask[:, ::-1])


def test_labelled_and_unlabelled_streams(data):
    stage = STAGE.model_copy(update={"batch_size": 2, "unlabelled_batch_size": 8})
    loader = Loader(
        data, stage, seed=0, train=True, indices=np.arange(4), unlabelled_indices=np.arange(24)
    )
    assert loader.steps_per_epoch == 3
    batches = list(loader.epoch(0))
    assert {key for b in batches for key in b.keys} <= set(data.keys[:4])
    assert sorted(key for b in batches for key in b.unlabelled.keys) == sorted(data.keys)
    assert all(b.unlabelled.mask is None and b.mask is not None for b in batches)


def test_rows_without_mask_or_label_are_never_trained_on(data):
    hidden = replace(
        data, rows=tuple(replace(row, labelled=i >= 20) for i, row in enumerate(data.rows))
    )
    loader = Loader(hidden, STAGE.model_copy(update={"batch_size": 2}), seed=0, train=True)
    assert {key for b in loader.epoch(0) for key in b.keys} == set(data.keys[20:])
    nothing = replace(data, has_mask=np.zeros(len(data), bool))
    with pytest.raises(DataError, match="no labelled row"):
        Loader(nothing, STAGE, seed=0, train=True)


def test_views_share_the_geometry_of_the_image(data):
    batch = next(Loader(data, STAGE, seed=0, train=True).batches(0))
    for i in range(len(batch)):
        pair = torch.stack([batch.image[i].flatten(), batch.views["strong"][i].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.8
    with pytest.raises(ConfigError, match="unknown view"):
        Loader(data, STAGE.model_copy(update={"views": ("stong",)}), seed=0, train=True)


def test_the_background_thread_ends_with_its_consumer_and_hands_errors_over(data, monkeypatch):
    before = threading.active_count()
    epoch = Loader(data, STAGE, seed=0, train=True).epoch(0)
    next(epoch)
    epoch.close()
    assert threading.active_count() == before

    def broken(*args, **kwargs):
        raise ValueError("no batch today")

    monkeypatch.setattr(Loader, "_batch", broken)
    with pytest.raises(ValueError, match="no batch today"):
        list(Loader(data, STAGE, seed=0, train=True).epoch(0))
    assert threading.active_count() == before


# --- tiles ------------------------------------------------------------------------------------------------------------
TILES = Tiles(size=(20, 12), overlap=4)
PLAIN = STAGE.model_copy(update={"augment": None, "views": ()})


def one_batch(data, stage, tiles=TILES, seed=0):
    return next(Loader(data, stage, seed=seed, train=True, tiles=tiles).batches(0))


def test_tiles_are_pieces_of_image_and_mask_at_one_place_which_the_seed_chooses(data):
    batch = one_batch(data, PLAIN)
    assert batch.image.shape == (6, 3, 20, 12)
    assert batch.mask.shape == (6, 1, 20, 12)
    places = []
    for i, key in enumerate(batch.keys):
        row = data.keys.index(key)
        tile, mask = (batch.image[i, 0] * 255).round().byte().numpy(), batch.mask[i, 0].numpy()
        found = [
            (y, x)
            for y in range(32 - 20 + 1)
            for x in range(32 - 12 + 1)
            if np.array_equal(data.images[row, 0, y : y + 20, x : x + 12], tile)
        ]
        assert len(found) == 1
        y, x = found[0]
        np.testing.assert_array_equal(data.masks[row, y : y + 20, x : x + 12], mask)
        places += found
    assert len(set(places)) > 3
    assert same(batch, one_batch(data, PLAIN))
    assert not torch.equal(batch.image, one_batch(data, PLAIN, seed=1).image)


def test_every_place_of_an_image_is_drawn_up_to_its_border(data):
    stage = PLAIN.model_copy(update={"steps_per_epoch": 200})
    tile = Tiles(size=(30, 32), overlap=0)
    tops = set()
    for batch in itertools.islice(
        Loader(data, stage, seed=0, train=True, tiles=tile).batches(0), 20
    ):
        for i, key in enumerate(batch.keys):
            whole = torch.from_numpy(data.images[data.keys.index(key), 0].copy()).float() / 255
            tops |= {y for y in range(3) if torch.equal(whole[y : y + 30], batch.image[i, 0])}
    assert tops == {0, 1, 2}


def test_tiles_are_augmented_with_image_from_around_them(data):
    white = replace(data, images=np.full_like(data.images, 255), masks=np.ones_like(data.masks))
    turned = STAGE.model_copy(
        update={"augment": Augment(rotate_deg=45, translate=0, scale=(1, 1)), "views": ()}
    )
    small = Tiles(size=(8, 8), overlap=0)
    inside = [
        bool((image == 1).all()) and bool((mask == 1).all())
        for batch in Loader(white, turned, seed=0, train=True, tiles=small).batches(0)
        for image, mask in zip(batch.image, batch.mask, strict=True)
    ]
    assert np.mean(inside) > 0.5  # a tile turned by itself would have black corners
    assert (
        one_batch(white, turned)
        .mask.eq(one_batch(white, turned).image[:, :1].ge(0.5))
        .float()
        .mean()
        > 0.99
    )


def test_tiles_keep_the_prompt_of_their_image_and_a_flip_mirrors_both(data):
    always = PLAIN.model_copy(
        update={"augment": Augment(rotate_deg=0, translate=0, scale=(1, 1), flip=1.0)}
    )
    upright, flipped = one_batch(data, PLAIN), one_batch(data, always)
    statements = dict(zip(data.keys, data.statements, strict=True))
    for key, statement in zip(upright.keys, upright.text.statements, strict=True):
        assert statement == statements[key]
    for i, (key, statement) in enumerate(zip(flipped.keys, flipped.text.statements, strict=True)):
        assert statement.zones == statements[key].mirrored().zones
        whole = data.images[data.keys.index(key), 0][:, ::-1]
        tile = (flipped.image[i, 0] * 255).round().byte().numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole, (20, 12))
        assert (windows == tile).all((2, 3)).any()


def test_tiles_can_be_told_no_places(data):
    batch = one_batch(data, PLAIN, TILES.model_copy(update={"places": "dropped"}))
    assert batch.text.zones.sum() == 0
    assert not any("left" in prompt or "right" in prompt for prompt in batch.text.prompts)


def test_views_and_the_unlabelled_stream_are_tiles_too_and_ranks_share_them(data):
    stage = STAGE.model_copy(update={"batch_size": 4, "unlabelled_batch_size": 4})
    options = {
        "seed": 0,
        "train": True,
        "indices": np.arange(8),
        "unlabelled_indices": np.arange(8, 24),
        "tiles": TILES,
    }
    batch = next(Loader(data, stage, **options).batches(0))
    for half in (batch, batch.unlabelled):
        assert half.image.shape == half.views["strong"].shape == (4, 3, 20, 12)
    pair = torch.stack([batch.image.flatten(), batch.views["strong"].flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.8
    stage = stage.model_copy(update={"views": ()})
    whole = next(Loader(data, stage, **options).batches(0))
    parts = [next(Loader(data, stage, **options, process=(rank, 2)).batches(0)) for rank in (0, 1)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)


@pytest.mark.parametrize("size", [(40, 12), (12, 40), (40, 48)])
def test_a_tile_larger_than_the_image_is_black_beyond_it(data, size):
    batch = one_batch(data, PLAIN, Tiles(size=size, overlap=0))
    assert batch.image.shape[2:] == batch.mask.shape[2:] == size
    assert batch.image[:, :, 32:].sum() == batch.image[..., 32:].sum() == 0
    assert batch.mask[:, :, 32:].sum() == batch.mask[..., 32:].sum() == 0
    assert batch.image[:, :, :32, :32].mean() > 0.1


def test_an_image_has_the_same_layout_in_memory_wherever_it_came_from():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 5), dtype=np.uint8)
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(
        0, 3, 1, 2
    )  # as read from a file
    assert torch.equal(to_image(pixels), to_image(turned))
    assert to_image(pixels).stride() == to_image(turned).stride() == (90, 1, 15, 3)


def test_only_training_cuts(data):
    plain = next(Loader(data, PLAIN, seed=0, train=False, tiles=TILES).batches(0))
    assert plain.image.shape == (6, 3, 32, 32)
