"""Near copies across splits: the pairs of the quadratic search, found without comparing all pairs."""

from itertools import combinations

import cv2
import numpy as np
import pytest

from textmask.data import near_identical as module
from textmask.data.facts import Facts
from textmask.data.manifest import Row
from textmask.data.near_identical import MIN_CORRELATION, PARTNERS, near_identical


def facts_of(thumbnails, splits):
    pairs = zip(thumbnails, splits, strict=True)
    return [Facts(Row(str(i), None, "", str(s)), thumbnail=t) for i, (t, s) in enumerate(pairs)]


def quadratic(facts):
    """Every pair of every two splits, in the order of the rows."""
    splits = {}
    for fact in facts:
        if fact.thumbnail is not None and fact.thumbnail.std() > 1:
            splits.setdefault(fact.row.split, []).append(fact)
    found = []
    for one, two in combinations(splits.values(), 2):
        standard = []
        for group in (one, two):
            flat = np.stack([fact.thumbnail for fact in group]).reshape(len(group), -1)
            flat = flat.astype(np.float32) - flat.mean(axis=1, keepdims=True, dtype=np.float32)
            standard.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
        for i, j in np.argwhere(standard[0] @ standard[1].T >= MIN_CORRELATION):
            found.append((one[i].row, two[j].row))
    return found


def radiographs(n, rng):
    """Thumbnails with a common body, so that strangers correlate with 0.4 and more, as radiographs do."""
    body = cv2.GaussianBlur(np.random.default_rng(7).normal(size=(32, 32)), (0, 0), 6) * 5
    made = []
    for _ in range(n):
        coarse = cv2.resize(rng.normal(size=(6, 6)), (32, 32), interpolation=cv2.INTER_CUBIC)
        made.append(np.clip(128 + 30 * (0.7 * coarse + body), 0, 255))
    return np.array(made)


@pytest.mark.parametrize("seed", range(6))
def test_the_pairs_are_those_of_the_quadratic_search(seed):
    rng = np.random.default_rng(seed)
    n = (3, 60, 400, 800, 1200, 1600)[seed]
    thumbnails = radiographs(n, rng)

    # copies with a smooth or a fine error, many of them close to the limit on either side
    for _ in range(n // 5):
        source, target = rng.integers(n, size=2)
        error = rng.normal(size=(32, 32))
        if rng.random() < 0.5:
            error = cv2.GaussianBlur(error, (0, 0), 3) * 6
        strength = thumbnails[source].std() * rng.uniform(0.0, 0.25)
        thumbnails[target] = 0.8 * (thumbnails[source] + strength * error) + 20
    thumbnails = np.clip(thumbnails, 0, 255).astype(np.uint8)
    thumbnails[rng.integers(n, size=n // 20)] = 77  # flat: nothing to compare

    facts = facts_of(thumbnails, rng.choice(["train", "valid", "test"], n, p=[0.6, 0.1, 0.3]))
    expected = quadratic(facts)
    assert near_identical(facts) == expected
    assert n < 400 or len(expected) > 20


def test_one_split_or_nothing_readable_has_no_pairs():
    images = radiographs(3, np.random.default_rng(0)).astype(np.uint8)
    assert near_identical([]) == []
    assert near_identical(facts_of(images[[0, 0, 0]], ["train"] * 3)) == []
    assert near_identical([Facts(Row("a", None, "", s)) for s in ("train", "test")]) == []
    assert len(near_identical(facts_of(images[[0, 0]], ["train", "test"]))) == 1


def video(frames, noise=1.0):
    """Frames of one video that all look the same, in two splits."""
    rng = np.random.default_rng(3)
    image = radiographs(1, rng)[0]
    thumbnails = image + noise * rng.normal(size=(frames, 32, 32))
    thumbnails = np.clip(thumbnails, 0, 255).astype(np.uint8)
    return facts_of(thumbnails, rng.choice(["train", "test"], frames))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_pairs_of_a_video_grow_with_its_length_and_name_every_frame(monkeypatch, noise):
    work = []
    correlate = module._correlate
    monkeypatch.setattr(
        module, "_correlate", lambda images, i, j: (work.append(len(i)), correlate(images, i, j))[1]
    )
    counts = {}
    for frames in (30, 400, 1600):
        work.clear()
        facts = video(frames, noise)
        pairs = near_identical(facts)
        assert {row.image for pair in pairs for row in pair} == {fact.row.image for fact in facts}
        assert len(pairs) <= 2 * frames * PARTNERS
        assert set(pairs) <= set(quadratic(facts))
        counts[frames] = len(pairs), sum(work)
    assert counts[30][0] == len(quadratic(video(30, noise)))  # a short one is listed completely
    assert counts[1600][0] < 5 * counts[400][0]
    assert counts[1600][1] < 5 * counts[400][1]


def test_strangers_are_hardly_ever_compared_pixel_by_pixel(monkeypatch):
    work = []
    monkeypatch.setattr(
        module, "_correlate", lambda _, i, j: (work.append(len(i)), np.zeros(len(i), bool))[1]
    )
    rng = np.random.default_rng(0)
    thumbnails = radiographs(2000, rng).astype(np.uint8)
    near_identical(facts_of(thumbnails, rng.choice(["train", "test"], 2000)))
    assert sum(work) < 2000 * 20
