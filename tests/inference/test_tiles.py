"""Tiles: seamless, in batches, equal to a loop over single tiles, for pictures of any size."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from textmask.config import Tiles
from textmask.data.cache import open_split
from textmask.data.loaders import build_text, to_image
from textmask.errors import PromptWarning
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import read_jobs
from textmask.inference.predict_split import predict_split
from textmask.inference.predictor import Predictor
from textmask.inference.tiles import blend_weights, predict_tiles, tile_starts
from textmask.methods.base import Method
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import load_run
from textmask.text.grammar import parse
from textmask.training.loop import train
from textmask.types import Output

SENTENCE = "The nuclei density in the upper left is high."
TILES = Tiles(size=(32, 24), overlap=8, batch=5)


class Pixelwise(Method):
    """Answers pixel by pixel, so that tiles must give exactly what the whole picture gives; keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image, text):
        self.seen.append((image, text))
        logits = 3 * image.mean(1, keepdim=True) - 1
        return Output(logits, {"attention": nn.functional.avg_pool2d(image[:, :1], 4)})


def picture(rows, columns, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (channels, rows, columns), dtype=np.uint8)


@torch.inference_mode()
def tiled(method, pixels, tiles=TILES, sentence=SENTENCE, **options):
    return predict_tiles(method, pixels, sentence, parse(sentence), tiles, **options)


def one_by_one(method, pixels, tiles, sentence=SENTENCE):
    """Literal: every tile alone, weights by the formula, divided by their sum at the end."""
    _, rows, columns = pixels.shape
    (h, w), statement = tiles.size, parse(sentence)
    total, weight = (
        np.zeros((max(rows, h), max(columns, w))),
        np.zeros((max(rows, h), max(columns, w))),
    )
    black = np.zeros((len(pixels), *total.shape), np.uint8)
    black[:, :rows, :columns] = pixels
    for top in tile_starts(rows, h, tiles.overlap):
        for left in tile_starts(columns, w, tiles.overlap):
            text = build_text([sentence], [statement])
            tile = to_image(black[None, :, top : top + h, left : left + w])
            with torch.inference_mode():
                probability = method(tile, text).probability[0, 0].numpy()
            for y in range(h):
                for x in range(w):
                    here = np.sin(np.pi * (y + 0.5) / h) ** 2 * np.sin(np.pi * (x + 0.5) / w) ** 2
                    total[top + y, left + x] += here * probability[y, x]
                    weight[top + y, left + x] += here
    return (total / weight)[:rows, :columns]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 56, 57, 100, 1000, 1001])
@pytest.mark.parametrize(("size", "overlap"), [(32, 8), (32, 0), (32, 31), (1, 0), (97, 40)])
def test_tiles_cover_every_pixel_with_the_overlap_asked_for(length, size, overlap):
    starts = tile_starts(length, size, overlap)
    if length <= size:
        assert starts == [0]
        return
    assert (starts[0], starts[-1]) == (0, length - size)
    assert all(0 < b - a <= size - overlap for a, b in pairwise(starts))
    assert len(starts) == int(
        np.ceil((length - overlap) / (size - overlap))
    )  # not one more than needed
    total = np.zeros(length)
    for start, weights in zip(starts, blend_weights(starts, size), strict=True):
        assert (weights > 0).all()
        total[start : start + size] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_weights_rise_and_fall_smoothly_where_tiles_overlap():
    first, second = blend_weights([0, 24], 32)
    assert np.allclose(first[:24], 1)
    assert first[24] > 0.99 > 0.6 > first[28] > 0.1 > first[31]
    assert (np.diff(first[24:]) < 0).all()
    np.testing.assert_allclose(first[24:] + second[:8], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "columns", "channels"),
    [(64, 48, 3), (61, 53, 3), (20, 70, 3), (70, 20, 1), (10, 11, 3), (32, 24, 1)],
)
def test_the_answer_to_a_picture_is_that_of_its_pixels(rows, columns, channels):
    pixels = picture(rows, columns, channels)
    found = tiled(Pixelwise(), pixels)["probability"]
    assert found.shape == (rows, columns)
    assert found.dtype == np.float32
    whole = Pixelwise()(to_image(pixels[None]), None).probability[0, 0].numpy()
    np.testing.assert_allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("name", ["unet", "mean_teacher", "dusss", "biclip"])
@pytest.mark.parametrize("shape", [(61, 45), (20, 50)])
def test_batches_equal_a_loop_over_single_tiles(name, shape):
    recipe = get_method(name).recipe().smoke()
    method = build_method(recipe).eval()
    pixels = picture(*shape)
    many = tiled(method, pixels)["probability"]
    np.testing.assert_allclose(many, one_by_one(method, pixels, TILES), atol=1e-5)
    np.testing.assert_allclose(
        many, tiled(method, pixels, TILES.model_copy(update={"batch": 1}))["probability"], atol=1e-5
    )


def test_batches_are_bounded_and_even_and_every_tile_has_the_sentence_of_its_picture():
    method = Pixelwise()
    tiled(method, picture(96, 56))  # 4 x 3 tiles of at most 5 at a time
    assert [len(image) for image, _ in method.seen] == [4, 4, 4]
    for image, text in method.seen:
        assert image.shape[1:] == (3, 32, 24)
        assert text.prompts == (SENTENCE,) * 4
        assert text.zones.tolist() == [list(parse(SENTENCE).bits())] * 4


def test_places_can_be_dropped_from_what_tiles_are_told():
    method = Pixelwise()
    tiled(method, picture(32, 24), TILES.model_copy(update={"places": "dropped"}))
    _, text = method.seen[0]
    assert text.prompts == ("The nuclei density is high.",)
    assert text.zones.sum() == 0
    assert not text.statements[0].has_location


def test_the_rim_beyond_a_small_picture_is_black_and_cut_off():
    method = Pixelwise()
    tiled(method, picture(10, 11))
    image, _ = method.seen[0]
    assert image[0, :, :10, :11].mean() > 0.4
    assert image[0, :, 10:].sum() == image[0, :, :, 11:].sum() == 0


def test_published_maps_are_blended_too():
    flat = np.full((3, 64, 48), 51, np.uint8)
    found = tiled(Pixelwise(), flat, maps=("attention", "prior"))
    assert set(found) == {"probability", "attention"}
    np.testing.assert_allclose(found["attention"], 0.2, atol=1e-6)


@pytest.fixture(scope="module")
def run(phantom_manifest, tmp_path_factory):
    """Trained on tiles of 32 x 32 of films of 64 x 64."""
    out = tmp_path_factory.mktemp("tiles")
    recipe = get_method("mean_teacher").recipe().smoke()
    recipe = recipe.override(
        "image_size=[64,64]", 'tiles={"size":[32,32],"overlap":8}', "stages.*.labelled_fraction=0.5"
    )
    # a few steps, so that what the network sees makes a difference
    recipe = recipe.override("stages.*.optim.lr=0.01", "stages.*.steps_per_epoch=8")
    train(recipe, phantom_manifest, out / "run", cache_dir=out, progress=False)
    return load_run(out / "run")


def test_a_split_is_predicted_tile_by_tile(run, phantom_manifest, tmp_path):
    data = open_split(phantom_manifest, "test", (64, 64), tmp_path)
    steps = []
    found = predict_split(
        run.method, data, run.recipe, progress=lambda done, total: steps.append((done, total))
    )
    assert found.shape == (8, 64, 64)
    assert steps == [(i + 1, 8) for i in range(8)]
    expected = one_by_one(run.method, data.images[3], run.recipe.tiles, data.prompts[3])
    np.testing.assert_allclose(found[3], expected, atol=1e-3)  # stored in float16
    whole = predict_split(run.method, data, run.recipe.model_copy(update={"tiles": None}))
    assert np.abs(found - whole).max() > 1e-3  # the network saw something else


def test_a_picture_is_damaged_whole_before_it_is_cut(run, phantom_manifest, tmp_path):
    data = open_split(phantom_manifest, "test", (64, 64), tmp_path)
    shapes = []

    def damage(image, keys):
        shapes.append((tuple(image.shape), keys))
        return image.flip(-1)

    found = predict_split(run.method, data, run.recipe, damage=damage)
    assert shapes == [((1, 1, 64, 64), (key,)) for key in data.keys]
    flipped = replace(data, images=np.ascontiguousarray(data.images[..., ::-1]))
    np.testing.assert_allclose(found, predict_split(run.method, flipped, run.recipe), atol=1e-3)


def test_a_run_on_tiles_is_evaluated_at_the_size_of_the_picture(run, phantom_manifest, tmp_path):
    options = EvaluationOptions(
        out=tmp_path / "e", cache_dir=tmp_path, n_bootstrap=20, surface=False
    )
    summary = evaluate(run.path, phantom_manifest, "test", options)
    assert summary.protocol.size == (64, 64)
    assert summary.rows["mean_teacher"].sentences_cut == 0


def test_predict_answers_in_the_size_of_the_picture_resized_or_as_it_is(run, tmp_path):
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), picture(50, 90, 1)[0])
    resized = Predictor(run).set_image(path).segment("lower left lung")
    assert resized.probability.shape == (50, 90)
    native = run.recipe.tiles.model_copy(update={"native": True})
    own = replace(run, recipe=run.recipe.model_copy(update={"tiles": native}))
    found = Predictor(own).set_image(path).segment("lower left lung")
    expected = one_by_one(run.method, cv2.imread(str(path), 0)[None], native, "lower left lung")
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert np.abs(found.probability - resized.probability).max() > 1e-3
    assert [
        r.status for r in predict_folder(run, read_jobs(path, "lower left lung"), tmp_path / "out")
    ] == ["done"]


def test_sentences_longer_than_the_window_are_named_in_results(run, tmp_path):
    long = "lower left lung, " * 40
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), picture(64, 64, 1)[0])
    result = predict_folder(run, read_jobs(path, long), tmp_path / "out")[0]
    assert "longer_than_window" in result.warnings
    with pytest.warns(PromptWarning, match="1 of 1 prompts are longer than the 64 tokens"):
        Predictor(load_run(run.path)).set_image(path).segment(long)
    assert (
        "longer_than_window"
        not in Predictor(run).set_image(path).segment("lower left lung").warnings
    )
