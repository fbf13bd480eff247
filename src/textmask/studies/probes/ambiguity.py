"""Does a model look at the same place if a prompt is reworded, vague, or false (DuSSS, Fig. 5)?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textmask.data.loaders import SplitData, build_text, open_split, to_image
from textmask.data.manifest import Manifest, interval_groups
from textmask.errors import ConfigError, DataError
from textmask.evaluation.bootstrap import Bootstrap
from textmask.evaluation.records import Record, Value
from textmask.evaluation.summary import write_typed
from textmask.inference.predict_split import resize_probability
from textmask.io.files import file_sha256
from textmask.io.images import write_png
from textmask.metrics.overlap import Floats
from textmask.plots.overlays import contour, heat, side_by_side
from textmask.runs.checkpoint import Run, load_run
from textmask.text.edit import blur_position, drop_position, mirror, paraphrase, reorder_clauses
from textmask.text.grammar import parse

OWN = "own sentence"
WORDINGS = (OWN, "reworded", "no place", "vague place", "other side")
FIGURES = ("cosine", "overlap", "inside")


@dataclass(frozen=True)
class Looks:
    """Where a model looks in N images for each of K wordings.

    Attributes:
        rows: N row numbers of the split.
        prompts: N times K.
        maps: the first images' maps, K H W each, to draw.
        figures: name -> N K, see `compare_wordings`.
        share: N, share of the image that the true mask covers, 0 to 1.
    """

    rows: list[int]
    prompts: list[tuple[str, ...]]
    maps: list[Floats]
    figures: dict[str, Floats]
    share: Floats


class WordingFigures(Record):
    """Means over images of the figures of one wording, see `compare_wordings`."""

    cosine: Value
    overlap: Value
    inside: Value
    inside_minus_own: Value


class DrawnImage(Record):
    """An image of the figure, and its prompts by the name of the wording."""

    image: str
    sentences: dict[str, str]


class AmbiguitySummary(Record):
    """What the JSON file of `measure_ambiguity` holds.

    Attributes:
        n, usable: images measured, and images that allow every wording.
        mask_share: mean share of the image that the true mask covers; a flat map has as much inside.
    """

    version: int = 1
    run: str
    method: str
    weights_sha256: str
    data: str
    data_hash: str
    split: str
    n: int
    usable: int
    seed: int
    mask_share: float
    wordings: dict[str, WordingFigures]
    drawn: tuple[DrawnImage, ...]


@dataclass(frozen=True)
class AmbiguityOptions:
    """What is measured and drawn.

    Attributes:
        split: name of the split.
        images: number of images to draw.
        count: number of images to measure on, if as many allow every wording.
        seed: random seed of the choice of images and of the wording.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: called with (done, total).
    """

    split: str = "test"
    images: int = 4
    count: int = 64
    seed: int = 0
    cache_dir: Path | None = None
    device: str = "auto"
    progress: Callable[[int, int], None] | None = None


def measure_ambiguity(
    run: Path, manifest: Manifest, out: Path, options: AmbiguityOptions | None = None
) -> AmbiguitySummary:
    """Draw the activation maps of a few images for similar prompts, and measure on more images how the maps move.

    Per wording: the cosine and the overlap (`compare_wordings`) of its map with that of the original prompt, and the
    share of the map inside the true mask. A map that follows the meaning of a prompt stays for `reworded`, and leaves
    the mask for `other side`, which is false. A map that hardly moves for that either does not follow the prompt.

    The images and their wordings depend on the data and the seed alone, so the figures of two runs can be compared.
    Source: DuSSS, "Uncertainty Analysis" and Fig. 5, which show maps for a few prompts and give no figures.

    Args:
        run: run folder of a method that publishes `Output.aux["attention"]`.
        manifest: the manifest that holds the split.
        out: PNG to write; a JSON file of the same name holds the figures and the prompts.
        options: the rest.

    Returns:
        What the JSON file holds.

    Raises:
        ConfigError: the method publishes no attention map, or a number below 1.
        DataError: no image has a mask and a prompt that can be worded in every way.
        CheckpointError: not a run folder.
    """
    options = options or AmbiguityOptions()
    if min(options.images, options.count) < 1:
        raise ConfigError(
            f"ambiguity: got {options.images} images to draw and count {options.count}, expected at least 1 each."
        )
    loaded = load_run(run, options.device)
    data = open_split(manifest, options.split, loaded.recipe.image_size, options.cache_dir)
    chosen, usable = choose_rows(data, max(options.images, options.count), options.seed)
    looks = look(loaded, data, chosen, options.images, options.progress)

    # the first images are drawn, all are measured
    drawn = []
    for i, prompts in zip(looks.rows[: options.images], looks.prompts, strict=False):
        named = dict(zip(WORDINGS, prompts, strict=True))
        drawn.append(DrawnImage(image=data.keys[i], sentences=named))
    bootstrap = Bootstrap(interval_groups([data.rows[i] for i in looks.rows]), seed=options.seed)
    summary = AmbiguitySummary(
        run=loaded.path.resolve().name,
        method=loaded.recipe.method,
        weights_sha256=file_sha256(loaded.weights),
        data=manifest.name,
        data_hash=manifest.hash(),
        split=options.split,
        n=len(looks.rows),
        usable=usable,
        seed=options.seed,
        mask_share=float(looks.share.mean()),
        wordings=_wording_figures(looks, bootstrap),
        drawn=tuple(drawn),
    )
    write_png(out, _strips(looks, data))
    write_typed(out.with_suffix(".json"), summary)
    return summary


def wordings(prompt: str, rng: np.random.Generator) -> tuple[str, ...] | None:
    """The prompt in each of `WORDINGS`; None if one cannot be made or differs from another in capitals only."""
    # both ways of rewording are tried several times, since either may change nothing
    drawn = [paraphrase(prompt, rng) for _ in range(8)]
    drawn += [reorder_clauses(prompt, rng) for _ in range(8)]
    reworded = next((text for text in drawn if text.casefold() != prompt.casefold()), prompt)
    swapped = mirror(prompt) or prompt
    found = (prompt, reworded, drop_position(prompt), blur_position(prompt), swapped)

    distinct = len({text.casefold() for text in found}) == len(found)
    if not distinct or not all(text.strip(" .,;") for text in found):
        return None
    return found if parse(swapped).zones != parse(prompt).zones else None


def choose_rows(
    data: SplitData, count: int, seed: int
) -> tuple[list[tuple[int, tuple[str, ...]]], int]:
    """A seeded choice of rows that have a mask and every wording, with their wordings; and how many there are.

    Raises:
        DataError: there is none.
    """
    found = []
    for i in np.random.default_rng([seed, 0xA3B]).permutation(len(data)):
        if not data.masks[i].any():
            continue
        worded = wordings(data.prompts[i], np.random.default_rng([seed, int(i)]))
        if worded is not None:
            found.append((int(i), worded))
    if not found:
        raise DataError(
            f"none of the {len(data)} images has a mask and a prompt that can be reworded, stripped of its location "
            "and mirrored. Use a split whose prompts name one side or differ between sides."
        )
    return found[:count], len(found)


def look(
    run: Run,
    data: SplitData,
    chosen: list[tuple[int, tuple[str, ...]]],
    kept: int,
    progress: Callable[[int, int], None] | None = None,
) -> Looks:
    """The attention maps of the chosen rows, all wordings of an image in one batch.

    Args:
        run: the trained run.
        data: the decoded split.
        chosen: row numbers and their wordings.
        kept: number of images whose maps are kept.
        progress: called with (done, total).

    Raises:
        ConfigError: the method publishes no attention map.
    """
    session = run.session()
    device = session.device
    maps, figures, share = [], [], []
    for done, (i, prompts) in enumerate(chosen, start=1):
        image = to_image(data.images[i : i + 1]).to(device).expand(len(prompts), -1, -1, -1)
        statements = [parse(text, laterality=data.rows[i].laterality) for text in prompts]
        with session.running() as method:
            found = method(image, build_text(prompts, statements).to(device)).aux.get("attention")
        if found is None:
            raise ConfigError(
                f"{run.path}: method {run.recipe.method!r} publishes no attention map, so there is nothing to compare. "
                "Take a run of a method that publishes one in Output.aux['attention'], such as ssa, c2seg or dusss."
            )

        mask = np.asarray(data.masks[i])
        size = (mask.shape[0], mask.shape[1])
        looked = np.stack([resize_probability(one[0].float().cpu().numpy(), size) for one in found])
        figures.append(compare_wordings(looked, mask))
        share.append(mask.mean())
        if done <= kept:
            maps.append(looked)
        if progress:
            progress(done, len(chosen))

    joined = {name: np.stack([figure[name] for figure in figures]) for name in FIGURES}
    rows, prompts_of_rows = [i for i, _ in chosen], [prompts for _, prompts in chosen]
    return Looks(rows, prompts_of_rows, maps, joined, np.array(share))


def compare_wordings(maps: np.ndarray, mask: np.ndarray) -> dict[str, Floats]:
    """How K maps differ from the first, K figures each.

    `cosine` of the two as vectors; `overlap` = sum of the smaller values over sum of the larger ones, the IoU of soft
    maps; `inside` = share of a map's sum that lies in the mask. Two maps of zeros are equal; a map of zeros has nothing
    inside.

    Args:
        maps: K H W, not negative.
        mask: H W, 0 or not.
    """
    flat = maps.reshape(len(maps), -1).astype(np.float64).clip(0)
    first, inner = flat[0], flat[:, mask.reshape(-1) > 0]
    same = np.array([float(not (row.any() or first.any())) for row in flat])  # what 0 / 0 means
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(first)
    larger = np.maximum(flat, first).sum(1)
    total = flat.sum(1)
    return {
        "cosine": np.divide(flat @ first, lengths, out=same.copy(), where=lengths > 0),
        "overlap": np.divide(
            np.minimum(flat, first).sum(1), larger, out=same.copy(), where=larger > 0
        ),
        "inside": np.divide(inner.sum(1), total, out=np.zeros(len(flat)), where=total > 0),
    }


def lines(summary: AmbiguitySummary) -> list[list[str]]:
    """One row per wording, to print: its name and each figure with its interval."""
    found = []
    for name, figures in summary.wordings.items():
        values = (figures.cosine, figures.overlap, figures.inside, figures.inside_minus_own)
        found.append([name, *map(_with_interval, values)])
    return found


def _with_interval(value: Value) -> str:
    ends = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.estimate:.3f}{ends}"


def _wording_figures(looks: Looks, bootstrap: Bootstrap) -> dict[str, WordingFigures]:
    """Per wording, the mean of each figure with its interval, and of `inside` also the paired difference."""
    cosine, overlap, inside = (looks.figures[name] for name in FIGURES)
    found = {}
    for k, name in enumerate(WORDINGS):
        found[name] = WordingFigures(
            cosine=bootstrap.mean(cosine[:, k]),
            overlap=bootstrap.mean(overlap[:, k]),
            inside=bootstrap.mean(inside[:, k]),
            inside_minus_own=bootstrap.difference(inside[:, k], inside[:, 0]),
        )
    return found


def _strips(looks: Looks, data: SplitData) -> np.ndarray:
    """One row per image: the image with the outline of its mask, then one map per wording."""
    strips = []
    for n, (i, maps) in enumerate(zip(looks.rows, looks.maps, strict=False)):
        planes = np.asarray(data.images[i])
        image = planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
        panels = [contour(image, data.masks[i]), *(heat(image, one) for one in maps)]

        captions = ["true mask"]
        for name, share in zip(WORDINGS, looks.figures["inside"][n], strict=True):
            captions.append(f"{name}: {share:.2f} inside")
        strips.append(side_by_side(panels, captions))
    return np.vstack(strips)
