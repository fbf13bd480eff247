"""A split is predicted, validated and scored batch by batch: the memory does not grow with it, the figures stay."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.cache import SplitData
from textmask.data.manifest import Manifest, Row
from textmask.evaluation.scoring import Scorer
from textmask.inference.predict_split import in_batches, predict_batches, predict_split
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.metrics.agreement import shown
from textmask.metrics.overlap import counts, overlap
from textmask.metrics.surface import surface_distances
from textmask.runs.checkpoint import Run
from textmask.text.grammar import parse
from textmask.training.validation import validate
from textmask.types import Output

SIZE = (48, 48)
RECIPE = get_method("unet").recipe().smoke().model_copy(update={"image_size": SIZE})


class Gray(Method):
    """Probability = brightness."""

    def forward(self, image, text):
        return Output(logits=torch.logit(image.mean(1, keepdim=True).clamp(0.01, 0.99)))


class Virtual:
    """Images that are made when they are asked for, so that only what is held by the code counts."""

    def __init__(self, n: int, channels: int | None) -> None:
        self.n = n
        self.shape = (n, *SIZE) if channels is None else (n, channels, *SIZE)

    def __len__(self):
        return self.n

    def __getitem__(self, rows):
        numbers = np.arange(self.n)[rows]
        single = np.ndim(numbers) == 0
        made = [np.random.default_rng([len(self.shape), int(i)]) for i in np.atleast_1d(numbers)]
        if len(self.shape) == 3:
            planes = np.stack([rng.integers(0, 2, SIZE, np.uint8) for rng in made])
        else:
            planes = np.stack([rng.integers(0, 256, self.shape[1:], np.uint8) for rng in made])
        return planes[0] if single else planes


def split(n: int) -> SplitData:
    texts = tuple(("left lung", "upper right lung", "")[i % 3] for i in range(n))
    rows = tuple(
        Row(f"{i}.png", f"m{i}.png", text, "test", f"p{i // 2}") for i, text in enumerate(texts)
    )
    return SplitData(
        rows=rows,
        images=Virtual(n, 1),
        masks=Virtual(n, None),
        has_mask=np.ones(n, bool),
        prompts=texts,
        statements=tuple(parse(text) for text in texts),
        keys=tuple(row.image for row in rows),
        native_sizes=np.full((n, 2), SIZE[0]),
    )


def whole(data: SplitData) -> SplitData:
    return replace(data, images=data.images[:], masks=data.masks[:])


def test_the_batches_are_the_whole_prediction():
    data, seen = split(70), []
    found = list(
        predict_batches(
            Gray(), data, RECIPE, batch_size=32, progress=lambda *step: seen.append(step)
        )
    )
    assert [len(batch) for batch in found] == [32, 32, 6]
    assert seen == [(32, 70), (64, 70), (70, 70)]
    assert {batch.dtype for batch in found} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(np.concatenate(found), predict_split(Gray(), data, RECIPE))
    assert [len(batch) for batch in in_batches(np.zeros((70, 2)), 32)] == [32, 32, 6]


def test_a_method_that_trains_goes_back_to_it_between_batches():
    method = Gray().train()
    for _ in predict_batches(method, split(5), RECIPE, batch_size=2):
        assert method.training
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_validation_equals_the_score_of_all_masks_at_once():
    data = split(70)
    masks = predict_split(Gray(), data, RECIPE) > RECIPE.threshold
    found = overlap(counts(masks, data.masks[:]), RECIPE.empty_policy)
    assert validate(Gray(), data, RECIPE) == {
        "dice_per_image": found.dice_per_image_mean,
        "dice_pooled": found.dice_pooled,
        "iou_per_image": found.iou_per_image_mean,
        "iou_pooled": found.iou_pooled,
    }


def test_scores_equal_those_of_all_masks_at_once(tmp_path):
    data = split(70)
    run = Run(tmp_path, RECIPE, Gray(), {}, {})
    scorer = Scorer(Manifest(tmp_path, data.rows), "test", data)
    scored = scorer.score("gray", run, scorer.predict("gray", run, data), data.prompts)

    masks = predict_split(Gray(), data, RECIPE) > RECIPE.threshold
    expected = counts(masks, data.masks[:])
    np.testing.assert_array_equal(scored.counts.intersection, expected.intersection)
    np.testing.assert_array_equal(scored.counts.predicted, expected.predicted)
    np.testing.assert_array_equal(scored.counts.true, expected.true)
    distances = surface_distances(masks, data.masks[:])
    np.testing.assert_array_equal(scored.surface.hd95_pooled, distances.hd95_pooled)
    np.testing.assert_array_equal(scored.surface.assd, distances.assd)
    zones = shown(masks, data.statements)
    np.testing.assert_array_equal(scored.shown.zones, zones.zones)
    np.testing.assert_array_equal(scored.shown.pieces, zones.pieces)
    np.testing.assert_array_equal(scored.shown.empty, zones.empty)


def test_masks_of_many_images_are_read_in_blocks_with_the_same_zones(monkeypatch):
    data = whole(split(50))
    statements = [parse(("left lung", "a polyp at the top left")[i % 2]) for i in range(50)]
    expected = shown(data.masks, statements)
    monkeypatch.setattr("textmask.metrics.agreement.BLOCK", 3)
    found = shown(data.masks, statements)
    np.testing.assert_array_equal(found.zones, expected.zones)
    np.testing.assert_array_equal(found.pieces, expected.pieces)


@pytest.mark.parametrize("work", ["validate", "score"])
def test_the_memory_does_not_grow_with_the_split(tmp_path, work):
    """Held for each image are a few numbers: far below the 4.6 kB of its probabilities at this small size."""
    run = Run(tmp_path, RECIPE, Gray(), {}, {})

    def peak(n: int) -> int:
        data = split(n)
        scorer = Scorer(Manifest(tmp_path, data.rows), "test", data, surface=False)
        tracemalloc.start()
        if work == "validate":
            validate(Gray(), data, RECIPE)
        else:
            scorer.score("gray", run, scorer.predict("gray", run, data), data.prompts)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(64)  # compiles
    assert peak(1024) - peak(64) < 960 * 700
