"""Does a model look at the same place when a sentence is worded alike, vaguely, or falsely (DuSSS, Fig. 5)?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import SplitData, build_text, open_split, to_image
from textmask.data.manifest import Manifest, interval_groups
from textmask.errors import ConfigError, DataError
from textmask.evaluation.tables import as_value
from textmask.inference.predict_split import resize_probability
from textmask.io.files import file_sha256, write_json
from textmask.io.images import write_png
from textmask.metrics.overlap import Floats
from textmask.metrics.statistics import bootstrap_ci, paired_difference
from textmask.plots.overlays import contour, heat, side_by_side
from textmask.runs.checkpoint import Run, load_run
from textmask.text.edit import blur_position, drop_position, mirror, paraphrase, reorder_clauses
from textmask.text.grammar import parse

OWN = "own sentence"
WORDINGS = (OWN, "reworded", "no place", "vague place", "other side")
FIGURES = ("cosine", "overlap", "inside")


@dataclass(frozen=True)
class Looks:
    """Where a model looks in N pictures for each of K wordings.

    Attributes:
        rows: N row numbers of the split.
        sentences: N times K.
        maps: the first pictures' maps, K H W each, to draw.
        figures: name -> N K, see `compare_wordings`.
        share: N, share of the picture that the true mask covers.
    """

    rows: list[int]
    sentences: list[tuple[str, ...]]
    maps: list[Floats]
    figures: dict[str, Floats]
    share: Floats


def measure_ambiguity(
    run: Path,
    manifest: Manifest,
    out: Path,
    *,
    split: str = "test",
    pictures: int = 4,
    count: int = 64,
    seed: int = 0,
    cache_dir: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw the activation maps of a few pictures for similar sentences, and measure on more how the maps move.

    Per wording: the cosine and the overlap (`compare_wordings`) of its map with that of the own
    sentence, and the share of the map inside the true mask. A map that follows what a sentence means stays for
    `reworded`, and leaves the mask for `other side`, which is false; one that hardly moves for
    that either does not heed the sentence.

    The pictures and their wordings depend on the data and the seed alone, so the figures of two runs can be compared.
    Source: DuSSS, "Uncertainty Analysis" and Fig. 5, which show maps for a few sentences and give no figures.

    Args:
        run: run folder of a method that publishes `Output.aux["attention"]`.
        manifest: the table that holds the split.
        out: PNG to write; a JSON file of the same name holds the figures and the sentences.
        split: its name.
        pictures: how many to draw.
        count: how many to measure on, if the split has as many that allow every wording.
        seed: of the choice of pictures and of the wording.
        cache_dir: of the decoded pictures.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: called with (done, total).

    Returns:
        What the JSON file holds.

    Raises:
        ConfigError: the method publishes no attention map, or a number below 1.
        DataError: no picture has a mask and a sentence that can be worded in every way.
        CheckpointError: not a run folder.
    """
    if min(pictures, count) < 1:
        raise ConfigError(
            f"ambiguity: got pictures {pictures} and count {count}, expected at least 1 each."
        )
    loaded = load_run(run, device)
    data = open_split(manifest, split, loaded.recipe.image_size, cache_dir)
    chosen, usable = choose_rows(data, max(pictures, count), seed)
    looks = look(loaded, data, chosen[: max(pictures, count)], pictures, progress)
    summary = {
        "run": loaded.path.resolve().name,
        "method": loaded.recipe.method,
        "weights_sha256": file_sha256(loaded.weights),
        "data": manifest.name,
        "data_hash": manifest.hash(),
        "split": split,
        "n": len(looks.rows),
        "usable": usable,
        "seed": seed,
        "mask_share": float(looks.share.mean()),
        "wordings": _summary(looks, interval_groups([data.rows[i] for i in looks.rows]), seed),
        "drawn": [
            {"image": data.keys[i], "sentences": dict(zip(WORDINGS, said, strict=True))}
            for i, said in zip(looks.rows[:pictures], looks.sentences, strict=False)
        ],
    }
    write_png(out, _strips(looks, data))
    write_json(out.with_suffix(".json"), summary)
    return summary


def wordings(sentence: str, rng: np.random.Generator) -> tuple[str, ...] | None:
    """The sentence in each of `WORDINGS`; None where one cannot be made or is another's but for capitals."""
    drawn = [reword(sentence, rng) for reword in (paraphrase, reorder_clauses) for _ in range(8)]
    reworded = next((text for text in drawn if text.casefold() != sentence.casefold()), sentence)
    swapped = mirror(sentence) or sentence
    found = (sentence, reworded, drop_position(sentence), blur_position(sentence), swapped)
    told_apart = len({text.casefold() for text in found}) == len(found) and all(
        text.strip(" .,;") for text in found
    )
    return found if told_apart and parse(swapped).zones != parse(sentence).zones else None


def choose_rows(
    data: SplitData, count: int, seed: int
) -> tuple[list[tuple[int, tuple[str, ...]]], int]:
    """A seeded choice of rows that have a mask and every wording, with their wordings; and how many there are.

    Raises:
        DataError: there is none.
    """
    found = []
    for i in np.random.default_rng([seed, 0xA3B]).permutation(len(data)):
        said = (
            wordings(data.prompts[i], np.random.default_rng([seed, int(i)]))
            if data.masks[i].any()
            else None
        )
        if said is not None:
            found.append((int(i), said))
    if not found:
        raise DataError(
            f"none of the {len(data)} pictures has a mask and a sentence that can be reworded, robbed of its place and "
            "turned to the other side. Take a split whose sentences name one side or differ between sides."
        )
    return found[:count], len(found)


def look(
    run: Run,
    data: SplitData,
    chosen: list[tuple[int, tuple[str, ...]]],
    kept: int,
    progress: Callable[[int, int], None] | None = None,
) -> Looks:
    """The attention maps of the chosen rows, all wordings of a picture in one batch.

    Args:
        run: the trained run.
        data: the decoded split.
        chosen: row numbers and their wordings.
        kept: of how many pictures the maps are kept.
        progress: called with (done, total).

    Raises:
        ConfigError: the method publishes no attention map.
    """
    session = run.session()
    device = session.device
    maps, figures, share = [], [], []
    for done, (i, said) in enumerate(chosen, start=1):
        image = to_image(data.images[i : i + 1]).to(device).expand(len(said), -1, -1, -1)
        statements = [parse(sentence, laterality=data.rows[i].laterality) for sentence in said]
        with session.running() as method:
            found = method(image, build_text(said, statements).to(device)).aux.get("attention")
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
    return Looks(
        [i for i, _ in chosen], [said for _, said in chosen], maps, joined, np.array(share)
    )


def compare_wordings(maps: np.ndarray, mask: np.ndarray) -> dict[str, Floats]:
    """How K maps differ from the first, K figures each.

    `cosine` of the two as vectors; `overlap` = sum of the smaller values over sum of the larger ones, the IoU of maps
    that are no hard masks; `inside` = share of a map's sum that lies in the mask. Two maps of zeros are equal; a map of
    zeros lies nowhere.

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


def lines(summary: dict[str, Any]) -> list[list[str]]:
    """A row a wording, to print: its name and each figure with its interval."""
    return [
        [name, *(_with_interval(values[figure]) for figure in (*FIGURES, "inside_minus_own"))]
        for name, values in summary["wordings"].items()
    ]


def _with_interval(value: dict[str, Any]) -> str:
    ends = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['estimate']:.3f}{ends}"


def _summary(looks: Looks, groups: list[str], seed: int) -> dict[str, Any]:
    """Per wording, the mean of each figure with its interval, and of `inside` also the paired difference."""
    inside = looks.figures["inside"]
    return {
        name: {
            figure: as_value(bootstrap_ci(v[:, k], groups, seed=seed))
            for figure, v in looks.figures.items()
        }
        | {
            "inside_minus_own": as_value(
                paired_difference(inside[:, k], inside[:, 0], groups, seed=seed)
            )
        }
        for k, name in enumerate(WORDINGS)
    }


def _strips(looks: Looks, data: SplitData) -> np.ndarray:
    """A row a picture: the film with the outline of its mask, then a map a wording."""
    strips = []
    for n, (i, maps) in enumerate(zip(looks.rows, looks.maps, strict=False)):
        planes = np.asarray(data.images[i])
        film = planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
        inside = looks.figures["inside"][n]
        captions = [
            "true mask",
            *(f"{name}: {share:.2f} inside" for name, share in zip(WORDINGS, inside, strict=True)),
        ]
        strips.append(
            side_by_side(
                [contour(film, data.masks[i]), *(heat(film, one) for one in maps)], captions
            )
        )
    return np.vstack(strips)
