"""Score a run under a stated protocol, beside the rows that every table carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textmask.data.loaders import open_split
from textmask.data.manifest import Manifest, interval_groups
from textmask.data.mask_scan import decide_rule
from textmask.data.shuffled_text import shuffled_prompts
from textmask.errors import CheckpointError
from textmask.evaluation.agreement import add_agreement
from textmask.evaluation.baselines import BASELINES, find_beside
from textmask.evaluation.files import write_evaluation
from textmask.evaluation.protocol import labelled_rows, protocol_of, refuse_leaks
from textmask.evaluation.scoring import SURFACE, Scored, Scorer, overlap_of
from textmask.evaluation.structures import names_structures, structure_scores
from textmask.evaluation.tables import as_value
from textmask.io.files import file_sha256
from textmask.methods.registry import get_method
from textmask.metrics.overlap import Counts, EmptyPolicy, Kind
from textmask.metrics.statistics import (
    bootstrap_ci,
    bootstrap_pooled,
    holm,
    paired_difference,
    paired_difference_pooled,
    paired_permutation,
    paired_permutation_pooled,
)
from textmask.progress import Progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import EVALUATION, output_folder, run_path


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
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a run on a split and write per_image.csv, table.md, cases/ and, last, summary.json.

    Beside the model stand: the same model with shuffled and with empty sentences, and the baselines `text_prior`,
    `unet` and `statement_unet` trained on the same data. All rows are scored against the same masks.

    Args:
        run: run folder, or `default` for the bundled model, which needs `out`.
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
        device: auto, cpu, cuda, cuda:N or mps.
        progress: called with (row name, done, total).

    Returns:
        The summary that is written to summary.json.

    Raises:
        DataError: rows of the split were trained on, or have no mask.
        CheckpointError: not a run folder, or `out` cannot be written.
    """
    out = output_folder(run_path(run), out, EVALUATION, split)
    loaded = load_run(run, device)
    refuse_leaks(loaded.path, manifest.rows_of(split), split)
    name, size = loaded.recipe.method, loaded.recipe.image_size
    manifest = decide_rule(manifest, cache_dir)
    data = open_split(manifest, split, size, cache_dir)
    scorer = Scorer(manifest, split, data, surface, native, cache_dir, progress, zones)
    probabilities = scorer.predict(name, loaded, scorer.data)
    rows = [scorer.score(name, loaded, probabilities, scorer.data.prompts)]
    changed, same_claim, notes = _other_sentences(scorer, loaded, seed)
    rows += changed
    neighbours = find_beside(loaded, beside)
    folder = loaded.path.resolve().parent.name  # never a whole path: summaries are committed
    for missing in BASELINES:
        if missing not in neighbours and missing != name:
            notes[missing] = (
                f"not trained; textmask train {missing} DATA --preset lite --out {folder}/{missing}"
            )
    for label, path in neighbours.items():
        refuse_leaks(path, scorer.data.rows, split)
        rows.append(scorer.neighbour(label, load_run(path, device)))
    groups = interval_groups(scorer.data.rows)
    policy = loaded.recipe.empty_policy
    summary = {
        "protocol": protocol_of(scorer, loaded, groups, n_bootstrap)
        | {"shuffled_seed": seed, "shuffled_same_claim": same_claim},
        "rows": {row.name: _summarise(row, groups, policy, n_bootstrap, seed) for row in rows},
        "missing_rows": notes,
        "differences": _score_differences(rows, groups, policy, n_bootstrap, seed),
    }
    if names_structures(scorer.data.rows):
        summary["structures"] = structure_scores(rows[0], groups, policy, n_bootstrap, seed)
    add_agreement(summary, rows, scorer, groups, n_bootstrap, seed)
    try:
        write_evaluation(out, summary, rows, scorer, probabilities)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the evaluation {out}: {error}. Give another folder with `out`."
        ) from error
    return summary


def _other_sentences(
    scorer: Scorer, run: Run, seed: int
) -> tuple[list[Scored], int, dict[str, str]]:
    """The model with shuffled and with empty text, how many shuffled sentences claim the same, and why a row lacks."""
    shuffled, same_claim = shuffled_prompts(scorer.data, seed)
    rows, notes = [], {}
    for kind, prompts in (("shuffled text", shuffled), ("empty text", [""] * len(scorer.data))):
        name = f"{run.recipe.method}, {kind}"
        if get_method(run.recipe.method).card.uses_text:
            rows.append(
                scorer.score(name, run, scorer.predict(name, run, scorer.data, prompts), prompts)
            )
        else:
            notes[name] = "the same: this method does not read the sentence"
    return rows, same_claim, notes


def _summarise(
    row: Scored, groups: list[str], policy: EmptyPolicy, n: int, seed: int
) -> dict[str, Any]:
    found, recipe = overlap_of(row, policy), row.run.recipe
    kept = [group for group, keep in zip(groups, found.kept, strict=True) if keep]
    sentences = row.name.rpartition(", ")[2].removesuffix(" text")
    summary: dict[str, Any] = {
        "dice_per_image": as_value(
            bootstrap_ci(found.dice_per_image[found.kept], kept, n=n, seed=seed)
        ),
        "dice_pooled": as_value(bootstrap_pooled(row.counts, groups, "dice", n=n, seed=seed)),
        "iou_per_image": as_value(
            bootstrap_ci(found.iou_per_image[found.kept], kept, n=n, seed=seed)
        ),
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
        "labelled_rows": labelled_rows(row.run.data),
        "sentences_cut": row.run.method.too_long(row.prompts),
    }
    for name in SURFACE if row.surface is not None else ():
        summary[f"{name}_px"] = as_value(
            bootstrap_ci(getattr(row.surface, name), groups, n=n, seed=seed)
        )
    return summary


def _score_differences(
    rows: list[Scored], groups: list[str], policy: EmptyPolicy, n: int, seed: int
) -> list[dict[str, Any]]:
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
