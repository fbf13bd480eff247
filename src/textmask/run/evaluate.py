"""Score a run under a stated protocol, beside the rows that every table carries."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmask.config import write_json
from textmask.data.loaders import SplitData, open_split
from textmask.data.manifest import Manifest
from textmask.errors import CheckpointError, DataError
from textmask.io.figures import error_overlay, overlay, side_by_side
from textmask.io.images import write_png, write_whole
from textmask.method import get_method
from textmask.metrics.overlap import Counts, counts, overlap
from textmask.metrics.statistics import (
    Interval,
    bootstrap_ci,
    bootstrap_pooled,
    holm,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)
from textmask.metrics.surface import SurfaceResult, surface_distances
from textmask.run.checkpoint import Run, load_run, read_json
from textmask.run.inference import predict_split
from textmask.run.tables import table

BASELINES = ("text_prior", "unet", "statement_unet")
CASES = 4
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One scored model: its per-image material."""

    name: str
    counts: Counts
    surface: SurfaceResult | None


def evaluate(
    run: Path,
    manifest: Manifest,
    split: str,
    *,
    beside: Sequence[Path] = (),
    out: Path | None = None,
    surface: bool = True,
    n_bootstrap: int = 2000,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a run on a split and write per_image.csv, summary.json, table.md and cases/.

    Beside the model stand: the same model with shuffled and with empty sentences, and the baselines `text_prior`,
    `unet` and `statement_unet` trained on the same data.

    Args:
        run: run folder.
        manifest: the table that holds the split.
        split: its name.
        beside: further run folders; the baselines are looked for among the run's neighbours as well.
        out: folder to write to; default `<run>/evaluation/<split>`.
        surface: also HD95 and ASSD.
        n_bootstrap: resamples of an interval.
        seed: of the shuffling and of the bootstrap.
        cache_dir: of the decoded pictures.
        progress: called with (row name, done, total).

    Returns:
        The summary that is written to summary.json.

    Raises:
        DataError: rows of the split were trained on, or have no mask.
        CheckpointError: not a run folder.
    """
    loaded = load_run(run)
    data = open_split(manifest, split, loaded.recipe.image_size, cache_dir)
    _refuse_leaks(loaded, data, split)
    probabilities = _predict(loaded, data, loaded.recipe.method, progress)
    rows = [_score(loaded.recipe.method, probabilities, loaded, data, surface)]
    notes: dict[str, str] = {}
    for name, prompts in (("shuffled text", shuffled_prompts(data, seed)), ("empty text", [""] * len(data))):
        label = f"{loaded.recipe.method}, {name}"
        if get_method(loaded.recipe.method).card.uses_text:
            found = _predict(loaded, data, label, progress, prompts)
            rows.append(_score(label, found, loaded, data, surface))
        else:
            notes[label] = "does not read the sentence"
    neighbours = find_beside(loaded, beside)
    for name in BASELINES:
        if name == loaded.recipe.method:
            continue
        if name not in neighbours:
            notes[name] = f"not trained; textmask train {name} DATA --preset lite --out {loaded.path.parent / name}"
    for name, path in neighbours.items():
        other = load_run(path)
        sized = open_split(manifest, split, other.recipe.image_size, cache_dir)
        rows.append(_score(name, _predict(other, sized, name, progress), other, sized, surface))
    groups = [row.group for row in data.rows]
    summary = {
        "protocol": _protocol(loaded, manifest, split, data, groups),
        "rows": {row.name: _summarise(row, groups, loaded, n_bootstrap, seed) for row in rows},
        "missing_rows": notes,
        "differences": _differences(rows, groups, loaded.recipe.empty_policy, n_bootstrap, seed),
    }
    out = out or loaded.path / "evaluation" / split
    (out / "cases").mkdir(parents=True, exist_ok=True)
    write_json(out / "summary.json", summary)
    write_whole(out / "per_image.csv", _per_image(rows, data, loaded).encode())
    write_whole(out / "table.md", table(summary).encode())
    _write_cases(out / "cases", rows[0], probabilities, data, loaded)
    return summary


def shuffled_prompts(data: SplitData, seed: int) -> list[str]:
    """Every picture gets another picture's sentence: a seeded permutation of the split's sentences.

    Positions that would keep their own zones are permuted again with random others, so that as few as the data allow
    keep a sentence with the same zones.
    """
    rng = np.random.default_rng([seed, 0x5FF1E])
    zones = np.array([statement.bits() for statement in data.statements])
    order = rng.permutation(len(data))
    for _ in range(50):
        same = np.flatnonzero((zones[order] == zones).all(axis=1))
        if not len(same):
            break
        mixed = np.unique(np.concatenate([same, rng.choice(len(data), len(same))]))
        order[mixed] = order[rng.permutation(mixed)]
    return [data.prompts[i] for i in order]


def find_beside(run: Run, beside: Sequence[Path] = ()) -> dict[str, Path]:
    """Run folders to set beside a run: the given ones, and baselines of the same data among its neighbours.

    Raises:
        CheckpointError: a given folder is no run.
    """
    found: dict[str, Path] = {}
    for path in beside:
        method = str(read_json(path / "recipe.json").get("method"))
        found[method if method not in found else path.name] = path
    for path in sorted(run.path.resolve().parent.iterdir()):
        try:
            recipe, data = read_json(path / "recipe.json"), read_json(path / "data.json")
        except CheckpointError:
            continue
        name = str(recipe.get("method"))
        usable = name in BASELINES and name != run.recipe.method and name not in found
        if usable and data.get("hash") == run.data["hash"] and (path / "result.json").exists():
            found[name] = path
    return found


def _refuse_leaks(run: Run, data: SplitData, split: str) -> None:
    if split == "train":
        return
    path = run.path / "splits" / "train.txt"
    trained = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    shared = sorted(trained.intersection(data.keys))
    if shared:
        raise DataError(
            f"{len(shared)} pictures of split {split!r} were trained on by {run.path}, e.g. {shared[:3]}. "
            "Evaluate on other pictures, or on --split train and say so."
        )
    if not data.has_mask.all():
        missing = [key for key, has in zip(data.keys, data.has_mask, strict=True) if not has]
        raise DataError(
            f"{len(missing)} pictures of split {split!r} have no mask to score against, e.g. {missing[:3]}."
        )


def _predict(
    run: Run, data: SplitData, name: str, progress: Progress | None, prompts: Sequence[str] | None = None
) -> np.ndarray:
    def step(done: int, total: int) -> None:
        if progress:
            progress(name, done, total)

    return predict_split(run.method, data, run.recipe, prompts=prompts, progress=step)


def _score(name: str, probabilities: np.ndarray, run: Run, data: SplitData, surface: bool) -> Row:
    masks = probabilities > run.recipe.threshold
    return Row(name, counts(masks, data.masks), surface_distances(masks, data.masks) if surface else None)


def _protocol(run: Run, manifest: Manifest, split: str, data: SplitData, groups: list[str]) -> dict[str, Any]:
    environment = run.path / "environment.json"
    named = {group for group in groups if group}
    return {
        "data": manifest.name,
        "data_hash": manifest.hash(),
        "split": split,
        "n": len(data),
        "n_groups": len(named) + sum(not group for group in groups),
        "size": list(run.recipe.image_size),
        "threshold": run.recipe.threshold,
        "empty_policy": run.recipe.empty_policy,
        "hd95": "pooled directed distances, px; one empty mask counts as the image diagonal",
        "interval": "95 % bootstrap over groups",
        "chosen_by": f"valid {run.recipe.select_on}",
        "chosen_epoch": run.result.get("epoch"),
        "weights_sha256": run.result.get("weights_sha256"),
        "train_seconds": run.result.get("seconds"),
        "seed": run.recipe.seed,
        "git_commit": read_json(environment).get("git_commit", "") if environment.exists() else "",
        "laterality": run.data.get("laterality"),
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN: the ends are null with a single group."""
    low, high = (None if np.isnan(end) else end for end in (interval.low, interval.high))
    return {"estimate": interval.estimate, "low": low, "high": high}


def _summarise(row: Row, groups: list[str], run: Run, n: int, seed: int) -> dict[str, Any]:
    found = overlap(row.counts, run.recipe.empty_policy)
    kept = [group for group, keep in zip(groups, found.kept, strict=True) if keep]
    summary: dict[str, Any] = {
        "dice_per_image": _interval(bootstrap_ci(found.dice_per_image[found.kept], kept, n=n, seed=seed)),
        "dice_pooled": _interval(bootstrap_pooled(row.counts, groups, "dice", n=n, seed=seed)),
        "iou_per_image": _interval(bootstrap_ci(found.iou_per_image[found.kept], kept, n=n, seed=seed)),
        "iou_pooled": _interval(bootstrap_pooled(row.counts, groups, "iou", n=n, seed=seed)),
        "both_empty": found.both_empty,
        "prediction_empty": found.prediction_empty,
        "truth_empty": found.truth_empty,
    }
    if row.surface is not None:
        summary["hd95_pooled_px"] = _interval(bootstrap_ci(row.surface.hd95_pooled, groups, n=n, seed=seed))
        summary["hd95_max_directed_px"] = _interval(bootstrap_ci(row.surface.hd95_max_directed, groups, n=n, seed=seed))
        summary["assd_px"] = _interval(bootstrap_ci(row.surface.assd, groups, n=n, seed=seed))
    return summary


def _differences(rows: list[Row], groups: list[str], policy: Any, n: int, seed: int) -> list[dict[str, Any]]:
    """The model minus each other row, paired on the same images; p values corrected after Holm per metric."""
    model, found = rows[0], []
    for other in rows[1:]:
        a, b = overlap(model.counts, policy), overlap(other.counts, policy)
        kept = a.kept & b.kept
        names = [group for group, keep in zip(groups, kept, strict=True) if keep]
        pair = a.dice_per_image[kept], b.dice_per_image[kept], names
        found.append(
            {
                "minus": other.name,
                "dice_per_image": _interval(paired_difference(*pair, n=n, seed=seed)),
                "dice_per_image_p": paired_permutation(*pair, n=n, seed=seed),
                "dice_pooled": _interval(
                    paired_difference_pooled(model.counts, other.counts, groups, "dice", n=n, seed=seed)
                ),
                "dice_pooled_p": paired_permutation_pooled(model.counts, other.counts, groups, "dice", n=n, seed=seed),
            }
        )
    for key in ("dice_per_image_p", "dice_pooled_p"):
        for entry, p in zip(found, holm([float(e[key]) for e in found]), strict=True):  # type: ignore[arg-type]
            entry[key] = p
    return found


def _per_image(rows: list[Row], data: SplitData, run: Run) -> str:
    """CSV text: one line an image and row."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    surface = ["hd95_pooled_px", "hd95_max_directed_px", "assd_px"] if rows[0].surface else []
    writer.writerow(
        [
            "row",
            "image",
            "group",
            "text",
            "dice_per_image",
            "iou_per_image",
            "intersection",
            "predicted",
            "true",
            *surface,
        ]
    )
    for row in rows:
        found = overlap(row.counts, run.recipe.empty_policy)
        distances = row.surface
        for i, item in enumerate(data.rows):
            line = [
                row.name,
                item.image,
                item.group,
                _safe(item.text),
                found.dice_per_image[i],
                found.iou_per_image[i],
                row.counts.intersection[i],
                row.counts.predicted[i],
                row.counts.true[i],
            ]
            if distances is not None:
                line += [distances.hd95_pooled[i], distances.hd95_max_directed[i], distances.assd[i]]
            writer.writerow([f"{v:.6f}" if isinstance(v, float) else v for v in line])
    return stream.getvalue()


def _safe(text: str) -> str:
    """A sentence that a spreadsheet does not take for a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


def _write_cases(out: Path, row: Row, probabilities: np.ndarray, data: SplitData, run: Run) -> None:
    """Overlays of the best, median and worst images, and cases.json that says which they are."""
    dice = np.nan_to_num(overlap(row.counts, run.recipe.empty_policy).dice_per_image)
    order = np.argsort(-dice, kind="stable")
    middle = max(len(order) // 2 - CASES // 2, 0)
    chosen = {"best": order[:CASES], "median": order[middle : middle + CASES], "worst": order[::-1][:CASES]}
    cases = []
    for kind, numbers in chosen.items():
        for rank, i in enumerate(numbers):
            picture = np.ascontiguousarray(np.asarray(data.images[i]).transpose(1, 2, 0))
            picture = picture[:, :, 0] if picture.shape[2] == 1 else picture
            predicted, true = probabilities[i] > run.recipe.threshold, np.asarray(data.masks[i])
            panels = [picture, overlay(picture, true), error_overlay(picture, predicted, true)]
            name = f"{kind}-{rank + 1}.png"
            write_png(out / name, side_by_side(panels, ["image", "truth", "prediction"]))
            cases.append(
                {
                    "file": name,
                    "kind": kind,
                    "image": data.keys[i],
                    "text": data.prompts[i],
                    "dice_per_image": float(dice[i]),
                }
            )
    write_json(out / "cases.json", {"cases": cases})


def read_summary(run: Path, split: str) -> dict[str, Any]:
    """A summary written by `evaluate`.

    Raises:
        CheckpointError: the run has not been evaluated on that split.
    """
    path = run / "evaluation" / split / "summary.json"
    if not path.exists():
        raise CheckpointError(f"{path} does not exist. Evaluate first: textmask evaluate {run} DATA --split {split}.")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary
