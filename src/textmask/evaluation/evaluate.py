"""Score a run under a stated protocol, together with the rows that every table carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textmask.cluster import Launcher
from textmask.data.loaders import open_split
from textmask.data.manifest import Manifest, interval_groups
from textmask.data.mask_scan import decide_rule
from textmask.data.shuffled_text import shuffled_prompts
from textmask.errors import CheckpointError, ConfigError
from textmask.evaluation.agreement import MeasuredAgreement, measure_agreement
from textmask.evaluation.baselines import BASELINES, find_neighbors
from textmask.evaluation.bootstrap import Bootstrap, corrected
from textmask.evaluation.files import write_evaluation
from textmask.evaluation.protocol import labelled_rows, protocol_of, refuse_leaks
from textmask.evaluation.records import Agreement, StructureRow
from textmask.evaluation.scores import ImageScores
from textmask.evaluation.scoring import Measured, Scored, ScoredFolder, Scorer, overlap_of
from textmask.evaluation.structures import names_structures, structure_scores
from textmask.evaluation.summary import (
    Difference,
    EvaluationProtocol,
    EvaluationSummary,
    SummaryRow,
)
from textmask.io.files import file_sha256, what_to_do
from textmask.io.locks import only_replacer
from textmask.io.staging import staged
from textmask.methods.registry import get_method
from textmask.metrics.overlap import EmptyPolicy
from textmask.progress import Progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import EVALUATION, output_folder, run_path

PromptKind = Literal["own", "shuffled", "empty", "masks"]


@dataclass(frozen=True)
class EvaluationOptions:
    """How a run is evaluated.

    Attributes:
        beside: further run folders to compare with; baselines are also looked for among the run's neighbors.
        masks: name of a row -> folder of masks that another tool wrote, one per image of the split.
        out: folder to write to (default: `<run>/evaluation/<split>`).
        surface: also compute HD95 and ASSD.
        native: score at each mask's own size instead of the run's; probabilities are resized, never masks.
        n_bootstrap: resamples of an interval, and relabellings behind a p value.
        seed: random seed of shuffling and bootstrap.
        zones: key of `textmask.text.zones.ZONE_MAPS` by which masks are read for the agreement; None chooses by the
            grammar of each prompt.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: called with (row name, done, total).
        engine: where the images are predicted and counted, local or ray; None means here.
    """

    beside: Sequence[Path] = ()
    masks: Mapping[str, Path] = field(default_factory=dict)
    out: Path | None = None
    surface: bool = True
    native: bool = False
    n_bootstrap: int = 2000
    seed: int = 0
    zones: str | None = None
    cache_dir: Path | None = None
    device: str = "auto"
    progress: Progress | None = None
    engine: Launcher | None = None

    @property
    def device_here(self) -> str:
        """The device of this process: one that hands out tasks need not have that of the tasks."""
        here = self.engine is None or self.engine.name == "local"
        return self.device if here else "cpu"


@dataclass(frozen=True)
class ScoredRows:
    """All rows of an evaluation, the model first.

    Attributes:
        model: the first row.
        rows: the rows.
        kinds: N, the prompts that each row was given.
        missing: name of a row that could not be made -> why.
        same_claim: images whose shuffled prompt names the same zones.
    """

    model: Scored
    rows: list[Measured]
    kinds: list[PromptKind]
    missing: dict[str, str]
    same_claim: int


def evaluate(
    run: Path, manifest: Manifest, split: str = "test", options: EvaluationOptions | None = None
) -> EvaluationSummary:
    """Evaluate a run on a split and write per_image.csv, scores.csv, table.md, cases/ and summary.json, all at once.

    The model is compared with itself under shuffled and empty prompts, and with the baselines `text_prior`, `unet` and
    `statement_unet` trained on the same data. All rows are scored against the same masks.

    Args:
        run: run folder, or `default` for the bundled model, which needs `options.out`.
        manifest: the manifest that holds the split.
        split: its name.
        options: the rest.

    Returns:
        The summary that is written to summary.json.

    Raises:
        DataError: rows of the split were trained on, or have no mask; or a folder of masks does not fit the split.
        ConfigError: a folder of masks has the name of another row.
        CheckpointError: not a run folder, weights that are damaged or not finite, or the folder of the evaluation
            cannot be written.
        BusyError: another process writes the same evaluation.
    """
    options = options or EvaluationOptions()
    out = output_folder(run_path(run), options.out, EVALUATION, split)
    with only_replacer(out):
        return _evaluate(run, manifest, split, options, out)


def _evaluate(
    run: Path, manifest: Manifest, split: str, options: EvaluationOptions, out: Path
) -> EvaluationSummary:
    """`evaluate`, by the only process that writes `out`."""
    loaded = load_run(run, options.device_here)
    refuse_leaks(loaded.path, manifest.rows_of(split), split)
    manifest = decide_rule(manifest, options.cache_dir)
    data = open_split(manifest, split, loaded.recipe.image_size, options.cache_dir)
    scorer = Scorer(
        manifest,
        split,
        data,
        surface=options.surface,
        native=options.native,
        cache_dir=options.cache_dir,
        progress=options.progress,
        zones=options.zones,
        engine=options.engine,
        device=options.device,
    )

    _refuse_taken_names(loaded, options)

    # masks of other tools are read before anything is predicted: a folder that does not fit stops at once
    folders = [scorer.score_folder(name, path) for name, path in options.masks.items()]

    # the model itself comes first; every difference is that of the first row
    name = loaded.recipe.method
    model = scorer.predict_and_score(name, loaded, scorer.data)
    found = _with_other_rows(scorer, model, options)
    for row in folders:
        found.rows.append(row)
        found.kinds.append("masks")

    summary, scores = _summarised(scorer, found, options)
    # all files appear at once: a table is never next to the summary of another evaluation
    try:
        with staged(out) as folder:
            write_evaluation(folder, summary, scores, scorer, model)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the evaluation {out}: {error}. {what_to_do(error.errno)}"
        ) from error
    return summary


def _refuse_taken_names(run: Run, options: EvaluationOptions) -> None:
    """Check that no folder of masks has the name of another row.

    Raises:
        ConfigError: one has.
    """
    method = run.recipe.method
    own = {method, f"{method}, shuffled text", f"{method}, empty text", *BASELINES}
    own.update(find_neighbors(run, options.beside))
    for name in options.masks:
        if name in own:
            raise ConfigError(
                f"--masks {name}=...: the table already has a row {name!r}. Give the masks another name."
            )


def _with_other_rows(scorer: Scorer, model: Scored, options: EvaluationOptions) -> ScoredRows:
    """The model, the model with other prompts, and its neighbors, or why a row is missing."""
    run, data = model.run, scorer.data
    shuffled, same_claim = shuffled_prompts(data, options.seed)
    found = ScoredRows(model, [model], ["own"], {}, same_claim)

    prompt_kinds: tuple[tuple[PromptKind, Sequence[str]], ...] = (
        ("shuffled", shuffled),
        ("empty", [""] * len(data)),
    )
    for kind, prompts in prompt_kinds:
        name = f"{run.recipe.method}, {kind} text"
        if get_method(run.recipe.method).card.uses_text:
            found.rows.append(scorer.predict_and_score(name, run, data, prompts))
            found.kinds.append(kind)
        else:
            found.missing[name] = "the same: this method does not read the prompt"

    # baselines of the same data, or the command that trains them
    neighbors = find_neighbors(run, options.beside)
    folder = run.path.resolve().parent.name  # never a whole path: summaries are committed
    for baseline in BASELINES:
        if baseline not in neighbors and baseline != run.recipe.method:
            command = f"textmask train {baseline} DATA --preset lite --out {folder}/{baseline}"
            found.missing[baseline] = f"not trained; {command}"
    for name, path in neighbors.items():
        refuse_leaks(path, data.rows, scorer.split)
        found.rows.append(scorer.score_neighbor(name, load_run(path, options.device_here)))
        found.kinds.append("own")
    return found


def _summarised(
    scorer: Scorer, found: ScoredRows, options: EvaluationOptions
) -> tuple[EvaluationSummary, dict[str, ImageScores]]:
    """The summary, and the scores of each row's images."""
    model = found.model
    policy = model.run.recipe.empty_policy
    groups = interval_groups(scorer.data.rows)
    n = options.n_bootstrap
    bootstrap = Bootstrap(groups, n, options.seed, permutations=n)
    scores = {}
    for row in found.rows:
        scores[row.name] = ImageScores.of(
            scorer.data.keys,
            scorer.data.rows,
            row.prompts,
            row.counts,
            policy,
            row.distances,
        )
    _prepare(bootstrap, scores)
    agreed = measure_agreement(found.rows, scorer, bootstrap)

    # every row is scored under the policy of the model
    rows = {}
    for row, kind in zip(found.rows, found.kinds, strict=True):
        rows[row.name] = _summary_row(row, kind, policy, bootstrap, agreed.rows[row.name])

    interval = f"95 % bootstrap over groups, {n} resamples; p: paired permutation of groups, Holm"
    protocol = protocol_of(scorer, model.run, groups, interval)
    structures: tuple[StructureRow, ...] = ()
    if names_structures(scorer.data.rows):
        structures = structure_scores(model, policy, bootstrap)
    summary = EvaluationSummary(
        protocol=EvaluationProtocol(
            **dict(protocol),
            shuffled_seed=options.seed,
            shuffled_same_claim=found.same_claim,
        ),
        rows=rows,
        structures=structures,
        missing_rows=found.missing,
        differences=_row_differences(scores, agreed, bootstrap),
        agreement_bounds=agreed.bounds,
    )
    return summary, scores


def _prepare(bootstrap: Bootstrap, scores: Mapping[str, ImageScores]) -> None:
    """Draw what the table of all rows needs together; a policy that leaves images out draws for each row."""
    first, *others = scores.values()
    columns: list[np.ndarray] = []
    for row in scores.values():
        columns += [row.dice, row.iou, *row.distances.values()]
        columns += [row.counts.intersection, row.counts.predicted, row.counts.true]
    columns += [first.dice - row.dice for row in others]
    bootstrap.prepare(column for column in columns if np.isfinite(column).all())
    bootstrap.prepare_comparisons(first, others)


def _summary_row(
    row: Measured, kind: PromptKind, policy: EmptyPolicy, bootstrap: Bootstrap, agreed: Agreement
) -> SummaryRow:
    found = overlap_of(row, policy)
    some = bootstrap.take(found.kept)

    # distances are absent if the evaluation was asked to skip them
    others = _made_by(row)
    for name, values in row.distances.items():
        others[name] = bootstrap.mean(values)

    return SummaryRow(
        dice_per_image=some.mean(found.dice_per_image[found.kept]),
        dice_pooled=bootstrap.pooled(row.counts, "dice"),
        iou_per_image=some.mean(found.iou_per_image[found.kept]),
        iou_pooled=bootstrap.pooled(row.counts, "iou"),
        both_empty=found.both_empty,
        prediction_empty=found.prediction_empty,
        truth_empty=found.truth_empty,
        n_skipped=found.n_skipped,
        sentences=kind,
        agreement=agreed,
        **others,
    )


def _made_by(row: Measured) -> dict[str, Any]:
    """The fields of a summary row that say what made the masks."""
    if isinstance(row, ScoredFolder):
        return {"run": row.folder, "weights_sha256": row.sha256}
    if not isinstance(row, Scored):
        raise TypeError(f"{row.name}: neither a run nor a folder of masks made this row")
    recipe = row.run.recipe
    return {
        "run": row.run.path.name,
        "weights_sha256": file_sha256(row.run.weights),
        "threshold": recipe.threshold,
        "size": recipe.image_size,
        "seed": recipe.seed,
        "labelled_rows": labelled_rows(row.run.data),
        "sentences_cut": row.run.method.too_long(row.prompts),
    }


def _row_differences(
    scores: dict[str, ImageScores], agreed: MeasuredAgreement, bootstrap: Bootstrap
) -> tuple[Difference, ...]:
    """The model minus each other row, paired on the same images; p values corrected after Holm per metric."""
    model, *others = scores
    differences = [bootstrap.compare(model, scores[model], name, scores[name]) for name in others]
    return tuple(
        found.model_copy(update={"agreement": agreed.differences[found.minus]})
        for found in corrected(differences)
    )
