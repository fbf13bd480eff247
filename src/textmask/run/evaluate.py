"""Score a run under a stated protocol, beside the rows that every table carries."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textmask.config import write_json
from textmask.data.loaders import SplitData, open_split
from textmask.data.manifest import Manifest, Row
from textmask.data.tables import FORMULA
from textmask.errors import CheckpointError, DataError
from textmask.io.figures import error_overlay, overlay, side_by_side
from textmask.io.images import write_png, write_whole
from textmask.method import get_method
from textmask.metrics.overlap import Counts, EmptyPolicy, Kind, Overlap, overlap
from textmask.metrics.statistics import (
    bootstrap_ci,
    bootstrap_pooled,
    holm,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)
from textmask.run.agreement_table import add_agreement, agreement_table
from textmask.run.checkpoint import Run, file_sha256, load_run, read_json
from textmask.run.inference import shuffled_prompts
from textmask.run.scoring import SURFACE, Progress, Scored, Scorer
from textmask.run.tables import as_value, table

BASELINES = ("text_prior", "unet", "statement_unet")
CASES = 4
HD95 = "pooled directed distances, px; one empty mask counts as the image diagonal"


def evaluate(
    run: Path,
    manifest: Manifest,
    split: str,
    *,
    beside: Sequence[Path] = (),
    out: Path | None = None,
    surface: bool = True,
    native: bool = False,
    n_bootstrap: int = 2000,
    seed: int = 0,
    zones: str | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a run on a split and write per_image.csv, table.md, cases/ and, last, summary.json.

    Beside the model stand: the same model with shuffled and with empty sentences, and the baselines `text_prior`,
    `unet` and `statement_unet` trained on the same data. All rows are scored against the same masks.

    Args:
        run: run folder.
        manifest: the table that holds the split.
        split: its name.
        beside: further run folders; the baselines are looked for among the run's neighbours as well.
        out: folder to write to; default `<run>/evaluation/<split>`.
        surface: also HD95 and ASSD.
        native: score at each mask's own size instead of the run's; probabilities are resized, never masks.
        n_bootstrap: resamples of an interval.
        seed: of the shuffling and of the bootstrap.
        zones: key of `textmask.text.zones.ZONE_MAPS` by which masks are read for the agreement; None chooses by the
            grammar of each sentence.
        cache_dir: of the decoded pictures.
        progress: called with (row name, done, total).

    Returns:
        The summary that is written to summary.json.

    Raises:
        DataError: rows of the split were trained on, or have no mask.
        CheckpointError: not a run folder, or `out` cannot be written.
    """
    loaded = load_run(run)
    refuse_leaks(loaded.path, manifest.rows_of(split), split)
    name, size = loaded.recipe.method, loaded.recipe.image_size
    data = open_split(manifest, split, size, cache_dir)
    scorer = Scorer(manifest, split, data, surface, native, cache_dir, progress, zones)
    out = out or loaded.path / "evaluation" / split
    probabilities = scorer.predict(name, loaded, scorer.data)
    rows = [scorer.score(name, loaded, probabilities, scorer.data.prompts)]
    changed, same_claim, notes = _other_sentences(scorer, loaded, seed)
    rows += changed
    neighbours = find_beside(loaded, beside)
    folder = loaded.path.resolve().parent.name  # never a whole path: summaries are committed
    for missing in BASELINES:
        if missing not in neighbours and missing != name:
            notes[missing] = f"not trained; textmask train {missing} DATA --preset lite --out {folder}/{missing}"
    for label, path in neighbours.items():
        refuse_leaks(path, scorer.data.rows, split)
        rows.append(scorer.neighbour(label, load_run(path)))
    groups = [row.group for row in scorer.data.rows]
    policy = loaded.recipe.empty_policy
    summary = {
        "protocol": protocol_of(scorer, loaded, groups, n_bootstrap)
        | {"shuffled_seed": seed, "shuffled_same_claim": same_claim},
        "rows": {row.name: _summarise(row, groups, policy, n_bootstrap, seed) for row in rows},
        "missing_rows": notes,
        "differences": _differences(rows, groups, policy, n_bootstrap, seed),
    }
    add_agreement(summary, rows, scorer, groups, n_bootstrap, seed)
    try:
        _write(out, summary, rows, scorer, probabilities)
    except OSError as error:
        raise CheckpointError(f"cannot write the evaluation {out}: {error}. Give another folder with `out`.") from error
    return summary


def find_beside(run: Run, beside: Sequence[Path] = ()) -> dict[str, Path]:
    """Run folders to set beside a run: the given ones, and baselines of the same data among its neighbours.

    Of several neighbours of one method the one most like the run is taken: as many labels, the same size, the same
    seed, named as its method, first in the alphabet.

    Raises:
        CheckpointError: a given folder is no run.
    """
    found: dict[str, Path] = {}
    seen = {run.path.resolve()}
    for path in map(Path, beside):
        method = str(read_json(path / "recipe.json").get("method"))
        if path.resolve() not in seen:
            seen.add(path.resolve())
            names = (method, f"{method} ({path.name})", f"{method} ({path})")
            found[next(name for name in names if name not in (run.recipe.method, *found))] = path
    likest: dict[str, tuple[Any, ...]] = {}
    for path in sorted(run.path.resolve().parent.iterdir()):
        try:
            recipe, data = read_json(path / "recipe.json"), read_json(path / "data.json")
        except CheckpointError:
            continue
        name = str(recipe.get("method"))
        usable = name in BASELINES and name != run.recipe.method and name not in found
        if usable and data.get("hash") == run.data["hash"] and (path / "result.json").exists():
            differs = (
                _labels(data) != _labels(run.data),
                tuple(recipe.get("image_size", ())) != run.recipe.image_size,
                recipe.get("seed") != run.recipe.seed,
                path.name != name,
            )
            likest[name] = min(likest.get(name, (differs, path)), (differs, path))
    return found | {name: likest[name][1] for name in BASELINES if name in likest}


def provenance_lines(summary: dict[str, Any]) -> list[str]:
    """Which weights and data made each row, and what the rows with other sentences were given."""
    protocol = summary["protocol"]
    lines = [f"data {protocol['data_hash'][:12]} (sha256 of the table)"]
    for name, row in summary["rows"].items():
        if row["sentences"] == "own":
            size = " x ".join(map(str, row["size"]))
            lines.append(
                f"{name}: weights {row['weights_sha256'][:12]}, {row['labelled_rows']} labelled pictures, "
                f"predicted at {size}, threshold {row['threshold']}, seed {row['seed']}"
                + (f", {cut} sentences longer than it reads" if (cut := row.get("sentences_cut")) else "")
            )
    if any(row["sentences"] == "shuffled" for row in summary["rows"].values()):
        lines.append(
            f"shuffled text: each picture gets another picture's sentence (seed {protocol['shuffled_seed']}), one that "
            f"names other zones; {protocol['shuffled_same_claim']} of {protocol['n']} could only get the same zones"
        )
    return lines


def read_summary(run: Path, split: str) -> dict[str, Any]:
    """A summary written by `evaluate`.

    Raises:
        CheckpointError: the run has not been evaluated on that split.
    """
    path = run / "evaluation" / split / "summary.json"
    if not path.exists():
        raise CheckpointError(f"{path} does not exist. Evaluate first: textmask evaluate {run} DATA --split {split}.")
    return read_json(path)


def _other_sentences(scorer: Scorer, run: Run, seed: int) -> tuple[list[Scored], int, dict[str, str]]:
    """The model with shuffled and with empty text, how many shuffled sentences claim the same, and why a row lacks."""
    shuffled, same_claim = shuffled_prompts(scorer.data, seed)
    rows, notes = [], {}
    for kind, prompts in (("shuffled text", shuffled), ("empty text", [""] * len(scorer.data))):
        name = f"{run.recipe.method}, {kind}"
        if get_method(run.recipe.method).card.uses_text:
            rows.append(scorer.score(name, run, scorer.predict(name, run, scorer.data, prompts), prompts))
        else:
            notes[name] = "the same: this method does not read the sentence"
    return rows, same_claim, notes


def _labels(data: dict[str, Any]) -> int:
    """Labelled training pictures of a run's data.json; the most any stage had."""
    return max(data.get("labelled_rows", {}).values(), default=0)


def _listed(run: Path, split: str) -> set[str]:
    path = run / "splits" / f"{split}.txt"
    return set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()


def refuse_leaks(run: Path, rows: Iterable[Row], split: str) -> None:
    """Check that rows can be scored: not trained on (unless the training split is what is asked for), each with a mask.

    Raises:
        DataError: naming some of the rows that cannot.
    """
    keys = {row.image: row.mask for row in rows}
    shared = sorted(_listed(run, "train").intersection(keys)) if split != "train" else []
    if shared:
        raise DataError(
            f"{len(shared)} pictures of split {split!r} were trained on by {run}, e.g. {shared[:3]}. "
            "Evaluate on other pictures, or on --split train and say so."
        )
    missing = [key for key, mask in keys.items() if mask is None]
    if missing:
        raise DataError(
            f"{len(missing)} pictures of split {split!r} have no mask to score against, e.g. {missing[:3]}. "
            "Name their masks in the table, or move the rows to a split of their own."
        )


def protocol_of(scorer: Scorer, run: Run, groups: list[str], n_bootstrap: int) -> dict[str, Any]:
    """What a table has to say of its run, its pictures and its rules."""
    environment = run.path / "environment.json"
    stage = run.recipe.stages[-1]
    chosen_by = f"valid {run.recipe.select_on}" if stage.optim and stage.select == "metric" else "being the last epoch"
    if stage.optim and _listed(run.path, "valid").intersection(scorer.data.keys):
        chosen_by += " on these very pictures, which flatters the figures"
    return {
        "data": scorer.manifest.name,
        "data_hash": scorer.manifest.hash(),
        "trained_on": run.data.get("hash"),
        "split": scorer.split,
        "n": len(scorer.data),
        "n_groups": count_groups(groups),
        "size": ["each mask's own size"] if scorer.native else list(run.recipe.image_size),
        "threshold": run.recipe.threshold,
        "empty_policy": run.recipe.empty_policy,
        "hd95": HD95 if scorer.surface else "not computed",
        "interval": f"95 % bootstrap over groups, {n_bootstrap} resamples; p: paired permutation of groups, Holm",
        "chosen_by": chosen_by,
        "chosen_epoch": run.result.get("epoch"),
        "weights_sha256": file_sha256(run.weights),
        "train_seconds": run.result.get("seconds"),
        "seed": run.recipe.seed,
        "git_commit": read_json(environment).get("git_commit", "") if environment.exists() else "",
        "laterality": run.data.get("laterality"),
    }


def count_groups(groups: Sequence[str]) -> int:
    """Independent groups among the names of N images; the name "" is a group of its own each time."""
    return len({group for group in groups if group}) + sum(not group for group in groups)


def overlap_of(row: Scored, policy: EmptyPolicy) -> Overlap:
    """Overlap of a row.

    Raises:
        DataError: no picture is left to score under `policy`.
    """
    found = overlap(row.counts, policy)
    if not found.kept.any():
        raise DataError(
            f"{row.name}: all {found.n} pictures have an empty mask and an empty prediction, which empty_policy "
            f"{policy!r} leaves out: nothing to score. Use a split with findings, or empty_policy=one."
        )
    return found


def _summarise(row: Scored, groups: list[str], policy: EmptyPolicy, n: int, seed: int) -> dict[str, Any]:
    found, recipe = overlap_of(row, policy), row.run.recipe
    kept = [group for group, keep in zip(groups, found.kept, strict=True) if keep]
    sentences = row.name.rpartition(", ")[2].removesuffix(" text")
    summary: dict[str, Any] = {
        "dice_per_image": as_value(bootstrap_ci(found.dice_per_image[found.kept], kept, n=n, seed=seed)),
        "dice_pooled": as_value(bootstrap_pooled(row.counts, groups, "dice", n=n, seed=seed)),
        "iou_per_image": as_value(bootstrap_ci(found.iou_per_image[found.kept], kept, n=n, seed=seed)),
        "iou_pooled": as_value(bootstrap_pooled(row.counts, groups, "iou", n=n, seed=seed)),
        "both_empty": found.both_empty,
        "prediction_empty": found.prediction_empty,
        "truth_empty": found.truth_empty,
        "n_skipped": found.n_skipped,
        "run": row.run.path.name,
        "sentences": sentences if sentences in ("shuffled", "empty") else "own",
        "weights_sha256": file_sha256(row.run.weights),
        "threshold": recipe.threshold,
        "size": list(recipe.image_size),
        "seed": recipe.seed,
        "labelled_rows": _labels(row.run.data),
        "sentences_cut": row.run.method.too_long(row.prompts),
    }
    for name in SURFACE if row.surface is not None else ():
        summary[f"{name}_px"] = as_value(bootstrap_ci(getattr(row.surface, name), groups, n=n, seed=seed))
    return summary


def _differences(rows: list[Scored], groups: list[str], policy: EmptyPolicy, n: int, seed: int) -> list[dict[str, Any]]:
    """The model minus each other row, paired on the same images; p values corrected after Holm per metric."""
    model, found = rows[0], []
    for other in rows[1:]:
        a, b = overlap_of(model, policy), overlap_of(other, policy)
        kept = a.kept & b.kept
        names = [group for group, keep in zip(groups, kept, strict=True) if keep]
        pair = a.dice_per_image[kept], b.dice_per_image[kept], names
        pooled: tuple[Counts, Counts, list[str], Kind] = model.counts, other.counts, groups, "dice"
        found.append(
            {
                "minus": other.name,
                "dice_per_image": as_value(paired_difference(*pair, n=n, seed=seed)),
                "dice_per_image_p": paired_permutation(*pair, n=n, seed=seed),
                "dice_pooled": as_value(paired_difference_pooled(*pooled, n=n, seed=seed)),
                "dice_pooled_p": paired_permutation_pooled(*pooled, n=n, seed=seed),
            }
        )
    for key in ("dice_per_image_p", "dice_pooled_p"):
        for entry, p in zip(found, holm([float(str(e[key])) for e in found]), strict=True):
            entry[key] = p
    return found


def _write(out: Path, summary: dict[str, Any], rows: list[Scored], scorer: Scorer, probabilities: np.ndarray) -> None:
    """Write all files; summary.json comes last and says that the others are there."""
    (out / "cases").mkdir(parents=True, exist_ok=True)
    policy: EmptyPolicy = rows[0].run.recipe.empty_policy
    write_whole(out / "per_image.csv", _per_image(rows, scorer.data, policy).encode("utf-8", "backslashreplace"))
    facts = "\n".join(f"- {line}" for line in provenance_lines(summary))
    write_whole(out / "table.md", f"{table(summary)}\n{agreement_table(summary)}\n{facts}\n".encode())
    scorer.store(rows[0], out / "scores.npz")
    _write_cases(out / "cases", rows[0], probabilities, scorer.data)
    write_json(out / "summary.json", summary)


def _per_image(rows: list[Scored], data: SplitData, policy: EmptyPolicy) -> str:
    """CSV text: one line an image and row; `text` is the sentence that the row's model was given."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    surface = [f"{name}_px" for name in SURFACE] if rows[0].surface else []
    overlaps = ["dice_per_image", "iou_per_image", "intersection", "predicted", "true"]
    writer.writerow(["row", "image", "group", "text", *overlaps, *surface])
    for row in rows:
        found = overlap(row.counts, policy)
        columns: list[np.ndarray] = [found.dice_per_image, found.iou_per_image]
        columns += [row.counts.intersection, row.counts.predicted, row.counts.true]
        columns += [getattr(row.surface, name) for name in SURFACE] if row.surface else []
        for item, text, *values in zip(data.rows, row.prompts, *columns, strict=True):
            words = [safe_cell(cell) for cell in (row.name, item.image, item.group, text)]
            writer.writerow([*words, *(f"{v:.6f}" if isinstance(v, float) else v for v in values)])
    return stream.getvalue()


def safe_cell(text: str) -> str:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def _write_cases(out: Path, row: Scored, probabilities: np.ndarray, data: SplitData) -> None:
    """Overlays of the best, median and worst images at the run's size, and cases.json that says which they are."""
    recipe = row.run.recipe
    found = overlap(row.counts, recipe.empty_policy)
    order = np.flatnonzero(found.kept)
    order = order[np.argsort(-found.dice_per_image[order], kind="stable")]
    middle = max(len(order) // 2 - CASES // 2, 0)
    chosen = {"best": order[:CASES], "median": order[middle : middle + CASES], "worst": order[::-1][:CASES]}
    cases = []
    for kind, numbers in chosen.items():
        for rank, i in enumerate(numbers):
            picture = np.ascontiguousarray(np.asarray(data.images[i]).transpose(1, 2, 0))
            picture = picture[:, :, 0] if picture.shape[2] == 1 else picture
            predicted, true = probabilities[i] > recipe.threshold, np.asarray(data.masks[i])
            panels = [picture, overlay(picture, true), error_overlay(picture, predicted, true)]
            name = f"{kind}-{rank + 1}.png"
            write_png(out / name, side_by_side(panels, ["image", "truth", "prediction"]))
            dice = float(found.dice_per_image[i])
            words = {"image": data.keys[i], "text": data.prompts[i]}
            cases.append({"file": name, "kind": kind, **words, "dice_per_image": dice})
    write_json(out / "cases.json", {"cases": cases})
