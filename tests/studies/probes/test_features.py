"""Image vectors by sentence: the silhouette against a slow literal one, the plane, the picture, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.loaders import open_split
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import load_run
from textmask.studies.probes.features import (
    draw_features,
    embed,
    frequent,
    principal_plane,
    silhouette,
    unit,
)
from textmask.training.loop import train


def literal_silhouette(vectors, labels):
    """As defined: pair by pair."""
    scores = []
    for i, x in enumerate(vectors):
        distances = {}
        for j, y in enumerate(vectors):
            if i != j:
                cosine = (x @ y) / np.sqrt((x @ x) * (y @ y))
                distances.setdefault(labels[j], []).append(1 - cosine)
        own = distances.pop(labels[i], None)
        if own is None:
            scores.append(0.0)
            continue
        a, b = np.mean(own), min(np.mean(d) for d in distances.values())
        scores.append((b - a) / max(a, b))
    return float(np.mean(scores))


@pytest.mark.parametrize(("n", "groups", "apart"), [(12, 2, 0.0), (40, 5, 1.0), (7, 3, 3.0)])
def test_silhouette_equals_the_literal_one(n, groups, apart):
    rng = np.random.default_rng(n)
    labels = np.array(
        [*rng.integers(0, groups - 1, n - 1), groups - 1]
    )  # the last group has one image
    vectors = rng.normal(size=(n, 6)) + apart * rng.normal(size=(groups, 6))[labels]
    assert silhouette(unit(vectors), labels) == pytest.approx(
        literal_silhouette(vectors, labels), abs=1e-12
    )


def test_silhouette_of_perfect_and_of_one_group():
    vectors = np.repeat(np.eye(3), 4, axis=0)
    labels = np.repeat(np.arange(3), 4)
    assert silhouette(vectors, labels) == pytest.approx(1.0)
    assert silhouette(np.ones((6, 2)) / np.sqrt(2), np.arange(6) % 2) == 0.0  # all in one place
    with pytest.raises(DataError, match="1 groups"):
        silhouette(vectors, np.zeros(12, np.int64))


def test_unit_vectors_and_the_principal_plane():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 8)) * np.array([9.0, 5, 1, 1, 0.5, 0.5, 0.1, 0.1])
    assert np.linalg.norm(unit(vectors), axis=1) == pytest.approx(np.ones(30))
    assert (unit(np.zeros((1, 3))) == 0).all()
    places, explained = principal_plane(vectors)
    spread = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert places.var(0, ddof=1) == pytest.approx(spread[:2])
    assert explained == pytest.approx(spread[:2].sum() / spread.sum())
    assert principal_plane(-vectors)[0] == pytest.approx(places)  # a sign of its own
    assert principal_plane(np.ones((4, 1)))[0].shape == (4, 2)


def test_the_most_frequent_prompts_come_first():
    assert frequent(["b", "a", "c", "a", "b", "b", "d", "d"], 3) == ["b", "a", "d"]
    with pytest.raises(DataError, match="1 of 3 prompts occur more than once"):
        frequent(["a", "a", "b", "c"], 5)


@pytest.fixture(scope="module")
def films(phantom_manifest):
    """The phantoms with two sentences in the test split, so that images share one."""
    sentences, rows = ("upper left lung", "lower right lung"), list(phantom_manifest.rows)
    test = [i for i, row in enumerate(rows) if row.split == "test"]
    for k, i in enumerate(test):
        rows[i] = replace(rows[i], text=sentences[k % 3 > 0])
    return replace(phantom_manifest, rows=tuple(rows))


@pytest.fixture(scope="module")
def runs(films, tmp_path_factory):
    """A run that publishes an image vector, and one that does not."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("c2seg", "unet"):
        train(get_method(name).recipe().smoke(), films, root / name, cache_dir=root, progress=False)
    return root


def test_the_picture_and_its_figures(runs, films, tmp_path):
    found = draw_features(
        [runs / "c2seg", runs / "c2seg"], films, tmp_path / "f.png", cache_dir=runs
    )
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert found[0] == found[1]
    data = open_split(films, "test", (32, 32), runs)
    run = load_run(runs / "c2seg")
    images = torch.from_numpy(np.array(data.images)).float().div(255).expand(-1, 3, -1, -1)
    with torch.no_grad():
        vectors = run.method.embed_image(images).numpy()
    labels = np.array([prompt == "upper left lung" for prompt in data.prompts])
    assert found[0].silhouette == pytest.approx(
        literal_silhouette(vectors.astype(np.float64), labels), abs=1e-4
    )
    assert (found[0].run, found[0].n) == ("c2seg", 8)
    kept = json.loads((tmp_path / "f.json").read_text())
    assert kept["sentences"] == ["lower right lung", "upper left lung"]
    assert kept["runs"][0]["silhouette"] == found[0].silhouette
    before = draw_features(
        [runs / "c2seg"], films, tmp_path / "g.png", stage="pretrain", cache_dir=runs
    )
    assert before[0].silhouette != found[0].silhouette  # the encoder moved while segmenting


def test_what_cannot_be_drawn_is_refused(runs, films, tmp_path, monkeypatch):
    out = tmp_path / "f.png"
    with pytest.raises(ConfigError, match=r"unet: .* has no image embedding"):
        draw_features([runs / "unet"], films, out, cache_dir=runs)
    with pytest.raises(ConfigError, match="top 1, expected"):
        draw_features([runs / "c2seg"], films, out, top=1)
    with pytest.raises(ConfigError, match="0 runs"):
        draw_features([], films, out)
    with pytest.raises(CheckpointError, match="weights-warmup"):
        draw_features([runs / "c2seg"], films, out, stage="warmup", cache_dir=runs)
    with pytest.raises(CheckpointError, match="run folder"):
        draw_features([tmp_path / "gone"], films, out, cache_dir=runs)
    run = load_run(runs / "c2seg")
    monkeypatch.setattr(
        run.method, "embed_image", lambda image: torch.full((len(image), 2), torch.nan)
    )
    with pytest.raises(DataError, match="not finite"):
        embed(run, open_split(films, "test", (32, 32), runs), np.arange(3))
    assert not out.exists()
