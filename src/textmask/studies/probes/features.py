"""Do images with the same prompt lie together? Image vectors of runs in the plane, colored by prompt (C2Seg Fig. 6)."""

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
from textmask.studies.probes.tsne import tsne_plane

LETTERS = 90  # of a prompt in the legend
SHUFFLES = 20  # the floor is the mean of so many relabellings
TSNE_IMAGES = 1000  # its time grows with the square


@dataclass(frozen=True)
class Separation:
    """How well the images of different prompts are separated in the vectors of one run.

    Attributes:
        run: name of the run folder.
        n: images.
        silhouette: mean silhouette (cosine distance) over the whole vectors, -1 to 1.
        floor: the same with the prompts shuffled among the images, mean of `SHUFFLES` times.
        explained: share of the variance on the two axes drawn, 0 to 1.
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
    tsne: bool = False,
    cache_dir: Path | None = None,
    device: str = "auto",
) -> list[Separation]:
    """Draw the images of the most frequent prompts by their vectors, one panel per run, and write the figures.

    The plane is that of the two largest principal components of a run's unit vectors. The paper draws t-SNE, whose
    distances mean less: `tsne` adds it as a second panel. The separation is computed on the whole vectors. Source:
    C2Seg, Fig. 6.

    Args:
        runs: run folders of methods that implement `Method.embed_image`.
        manifest: the manifest that holds the split.
        out: PNG to write; a JSON file of the same name holds the figures and the prompts.
        split: its name.
        top: number of its most frequent prompts, at least 2.
        stage: use the weights chosen in this earlier stage, e.g. "pretrain"; None is the finished run.
        tsne: draw each run by t-SNE too, of at most `TSNE_IMAGES` images.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: `top` below 2 or more than there are colors; a method without an image vector; no run.
        DataError: fewer than 2 prompts that repeat.
        CheckpointError: not a run folder, or without weights of that stage.
    """
    if not runs or not 2 <= top <= len(PALETTE):
        raise ConfigError(
            f"got {len(runs)} runs and top {top}, expected at least one run and top 2 to {len(PALETTE)}."
        )
    prompts = frequent([row.text for row in manifest.rows_of(split)], top)
    panels, found = [], []
    for path in runs:
        run = load_run(path, device)
        if stage is not None:
            weights = stage_weights(run.path, stage)
            load_weights(run.method, *read_tensors(weights), run.recipe)

        # vectors of the images that have one of these prompts
        data = open_split(manifest, split, run.recipe.image_size, cache_dir)
        rows = np.array([i for i, prompt in enumerate(data.prompts) if prompt in prompts])
        labels = np.array([prompts.index(data.prompts[i]) for i in rows], np.int64)
        vectors = unit(embed(run, data, rows))

        places, explained = principal_plane(vectors)
        name, score, floor = (
            path.resolve().name,
            silhouette(vectors, labels),
            _floor(vectors, labels),
        )
        found.append(Separation(name, len(rows), score, floor, explained))
        panels.append((_panel_title(found[-1]), places, labels))
        if tsne:
            kept = np.random.default_rng(0).permutation(len(vectors))[:TSNE_IMAGES]
            title = f"{name}\nt-SNE, n = {len(kept)}"
            panels.append((title, tsne_plane(vectors[kept]), labels[kept]))

    of_stage = f", weights of stage {stage}" if stage else ""
    kind = "first two principal components" + (", and t-SNE" if tsne else "")
    caption = (
        f"{manifest.name}, split {split}, images of the {len(prompts)} most frequent prompts{of_stage}; {kind}.\n"
        "Silhouette: cosine, on the whole vectors; shuffled: prompts among images, mean of "
        f"{SHUFFLES} times."
    )
    write_whole(
        out, scatter_panels_png(panels, [_shorten_prompt(text) for text in prompts], caption)
    )
    write_json(
        out.with_suffix(".json"),
        {
            "data": manifest.name,
            "data_hash": manifest.hash(),
            "split": split,
            "stage": stage,
            "sentences": prompts,
            "runs": [asdict(entry) for entry in found],
        },
    )
    return found


def frequent(prompts: Sequence[str], top: int) -> list[str]:
    """The most frequent prompts, most frequent first; of equally frequent ones the first in the split.

    Raises:
        DataError: fewer than two prompts that occur at least twice.
    """
    repeated = [prompt for prompt, count in Counter(prompts).most_common(top) if count > 1]
    if len(repeated) < 2:
        raise DataError(
            f"{len(repeated)} of {len(set(prompts))} prompts occur more than once, expected at least 2: without "
            "images that share a prompt there is nothing to color. Use a larger split."
        )
    return repeated


def embed(run: Run, data: SplitData, rows: np.ndarray, batch_size: int = 32) -> Floats:
    """Image vectors N D of some rows of a split.

    Raises:
        ConfigError: the method of the run has no image vectors.
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
            f"{run.path}: image vectors are not finite. Check whether the training diverged, and train again."
        )
    return vectors


def unit(vectors: Floats) -> Floats:
    """N D vectors of length 1; a vector of length 0 stays."""
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

    # summed distance to each group, without the distances themselves
    totals = sizes - vectors @ sums.T  # N K, summed distance to each group
    images = np.arange(len(vectors))

    # a vector's distance to itself does not count
    own = totals[images, codes] - (1 - (vectors**2).sum(1))
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
    centered = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    kept = min(2, len(sizes))
    places[:, :kept] = left[:, :kept] * sizes[:kept]
    largest = places[np.abs(places).argmax(0), [0, 1]]
    variance = float((sizes**2).sum())
    explained = float((sizes[:2] ** 2).sum()) / variance if variance else 0.0
    return places * np.where(largest < 0, -1.0, 1.0), explained


def _floor(vectors: Floats, labels: Ints) -> float:
    """Mean silhouette of shuffled labels."""
    rng = np.random.default_rng(0)
    return float(np.mean([silhouette(vectors, rng.permutation(labels)) for _ in range(SHUFFLES)]))


def _panel_title(found: Separation) -> str:
    return f"{found.run}\nsilhouette {found.silhouette:.3f} (shuffled {found.floor:.3f}), n = {found.n}"


def _shorten_prompt(prompt: str) -> str:
    return prompt if len(prompt) <= LETTERS else prompt[: LETTERS - 2].rstrip() + " …"
