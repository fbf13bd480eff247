"""Do images of one sentence lie together? Image vectors of runs in the plane, coloured by sentence (C2Seg Fig. 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from textmask.data.loaders import SplitData, open_split, to_image
from textmask.data.manifest import Manifest
from textmask.errors import ConfigError, DataError
from textmask.io.files import write_json, write_whole
from textmask.metrics.overlap import Floats, Ints
from textmask.plots.charts import scatter_panels_png
from textmask.plots.overlays import PALETTE
from textmask.runs.checkpoint import Run, load_run, load_weights, read_tensors
from textmask.runs.layout import stage_weights

LETTERS = 90  # of a sentence in the legend
SHUFFLES = 20  # relabellings that the floor is the mean of


@dataclass(frozen=True)
class Separation:
    """How far the images of different sentences lie apart in the vectors of one run.

    Attributes:
        run: name of the run folder.
        n: images.
        silhouette: mean silhouette (cosine distance) over the whole vectors, -1 to 1.
        floor: the same with the sentences shuffled among the images, mean of `SHUFFLES` times.
        explained: share of the variance that the two axes drawn hold.
    """

    run: str
    n: int
    silhouette: float
    floor: float
    explained: float


def draw_features(
    runs: Sequence[Path],
    manifest: Manifest,
    out: Path,
    *,
    split: str = "test",
    top: int = 5,
    stage: str | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
) -> list[Separation]:
    """Draw the images of the most frequent sentences by their vectors, a panel a run, and write the figures beside.

    The plane is that of the two largest principal components of a run's unit vectors (the paper draws t-SNE, whose
    distances mean less); the separation is computed on the whole vectors. Source: C2Seg, Fig. 6.

    Args:
        runs: run folders of methods that implement `Method.embed_image`.
        manifest: the table that holds the split.
        out: PNG to write; a JSON file of the same name holds the figures and the sentences.
        split: its name.
        top: how many of its most frequent sentences.
        stage: use the weights chosen in this earlier stage, e.g. "pretrain"; None is the finished run.
        cache_dir: of the decoded pictures.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: `top` below 2 or more than there are colours; a method without an image vector; no run.
        DataError: fewer than 2 sentences, or none that repeats.
        CheckpointError: not a run folder, or without weights of that stage.
    """
    if not runs or not 2 <= top <= len(PALETTE):
        raise ConfigError(
            f"got {len(runs)} runs and top {top}, expected at least one run and top 2 to {len(PALETTE)}."
        )
    sentences = frequent([row.text for row in manifest.rows_of(split)], top)
    panels, found = [], []
    for path in runs:
        run = load_run(path, device)
        if stage is not None:
            load_weights(run.method, *read_tensors(stage_weights(run.path, stage)), run.recipe)
        data = open_split(manifest, split, run.recipe.image_size, cache_dir)
        rows = np.array([i for i, prompt in enumerate(data.prompts) if prompt in sentences])
        labels = np.array([sentences.index(data.prompts[i]) for i in rows], np.int64)
        vectors = unit(embed(run, data, rows))
        places, explained = principal_plane(vectors)
        floor = float(np.mean([silhouette(vectors, shuffled) for shuffled in _shuffles(labels)]))
        found.append(
            Separation(
                path.resolve().name, len(rows), silhouette(vectors, labels), floor, explained
            )
        )
        panels.append((_panel_title(found[-1]), places, labels))
    caption = (
        f"{manifest.name}, split {split}, images of the {len(sentences)} most frequent sentences"
        f"{f', weights of stage {stage}' if stage else ''}; first two principal components.\n"
        f"Silhouette: cosine, on the whole vectors; shuffled: sentences among images, mean of {SHUFFLES} times."
    )
    write_whole(
        out,
        scatter_panels_png(panels, [_shorten_prompt(sentence) for sentence in sentences], caption),
    )
    figures = {"data": manifest.name, "data_hash": manifest.hash(), "split": split, "stage": stage}
    runs_found = [asdict(entry) for entry in found]
    write_json(out.with_suffix(".json"), {**figures, "sentences": sentences, "runs": runs_found})
    return found


def frequent(prompts: Sequence[str], top: int) -> list[str]:
    """The most frequent sentences, most frequent first; of equal ones the first in the split.

    Raises:
        DataError: fewer than two sentences that occur at least twice.
    """
    repeated = [sentence for sentence, count in Counter(prompts).most_common(top) if count > 1]
    if len(repeated) < 2:
        raise DataError(
            f"{len(repeated)} of {len(set(prompts))} sentences occur more than once, expected at least 2: without "
            "images that share a sentence there is nothing to colour. Use a larger split."
        )
    return repeated


def embed(run: Run, data: SplitData, rows: np.ndarray, batch_size: int = 32) -> Floats:
    """Image vectors N D of some rows of a split.

    Raises:
        ConfigError: the method of the run publishes none.
        DataError: a vector is not finite.
    """
    session = run.session()
    parts = []
    with session.running() as method:
        for begin in range(0, len(rows), batch_size):
            image = to_image(data.images[rows[begin : begin + batch_size]]).to(session.device)
            try:
                parts.append(method.embed_image(image).cpu().double().numpy())
            except ConfigError as error:
                raise ConfigError(f"{run.path}: {error}") from error
    vectors: Floats = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        raise DataError(
            f"{run.path}: image vectors are not finite. Was the training stopped by a loss that was not?"
        )
    return vectors


def unit(vectors: Floats) -> Floats:
    """N D vectors of length 1; one of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def silhouette(vectors: Floats, labels: Ints) -> float:
    """Mean silhouette under cosine distance: exact, without the N x N matrix of distances.

    The distances of unit vectors to all members of a group add up to its size minus the product with their sum.

    Args:
        vectors: N D, of length 1.
        labels: N group numbers; a group of one image scores 0.

    Raises:
        DataError: fewer than two groups.
    """
    names, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"silhouette: got {len(names)} groups of {len(vectors)} images, expected at least 2."
        )
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, codes, vectors)
    totals = sizes - vectors @ sums.T  # N K, summed distance to each group
    images = np.arange(len(vectors))
    own = totals[images, codes] - (
        1 - (vectors**2).sum(1)
    )  # a vector's distance to itself does not count
    within = own / np.maximum(sizes[codes] - 1, 1)
    means = totals / sizes
    means[images, codes] = np.inf
    nearest = means.min(axis=1)
    larger = np.maximum(within, nearest)
    score = np.divide(nearest - within, larger, out=np.zeros_like(larger), where=larger > 1e-12)
    return float(np.where(sizes[codes] > 1, score, 0.0).mean())


def principal_plane(vectors: Floats) -> tuple[Floats, float]:
    """N 2 coordinates along the two largest principal components, and the share of the variance they hold.

    The sign of a component, which means nothing, is such that its largest coordinate is positive.
    """
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    kept = min(2, len(sizes))
    places[:, :kept] = left[:, :kept] * sizes[:kept]
    largest = places[np.abs(places).argmax(0), [0, 1]]
    variance = float((sizes**2).sum())
    return places * np.where(largest < 0, -1.0, 1.0), float(
        (sizes[:2] ** 2).sum()
    ) / variance if variance else 0.0


def _shuffles(labels: Ints) -> list[Ints]:
    rng = np.random.default_rng(0)
    return [rng.permutation(labels) for _ in range(SHUFFLES)]


def _panel_title(found: Separation) -> str:
    return f"{found.run}\nsilhouette {found.silhouette:.3f} (shuffled {found.floor:.3f}), n = {found.n}"


def _shorten_prompt(sentence: str) -> str:
    return sentence if len(sentence) <= LETTERS else sentence[: LETTERS - 2].rstrip() + " …"
