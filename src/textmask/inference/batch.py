"""Segment own pictures in bulk: one picture, a folder, or a jobs file, each result written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.inference.jobs import BatchItem
from textmask.inference.predictor import Opened, Predictor, explanation
from textmask.inference.results import (
    BatchResult,
    Wanted,
    is_done,
    is_stale,
    result_record,
    write_item,
    write_segmentation,
)
from textmask.io.images import write_png
from textmask.io.loaded import LoadedImage
from textmask.io.nifti import write_nifti_mask
from textmask.io.read import load_images
from textmask.plots.overlays import overlay
from textmask.progress import Progress
from textmask.runs.checkpoint import Run

if TYPE_CHECKING:
    from textmask.cluster import Launcher

PART = 32  # jobs that a task of a cluster does, one after another


def predict_folder(
    run: Run | Path,
    jobs: Sequence[BatchItem],
    out: Path,
    *,
    overwrite: bool = False,
    probability: bool = False,
    explain: bool = False,
    assume: str | None = None,
    abstain: bool = True,
    engine: Launcher | None = None,
    backend: str = "torch",
    export: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[BatchResult]:
    """Write NAME.mask.png (0/255), NAME.overlay.png and NAME.json for each job, and skip what exists.

    NIfTI also gets NAME.mask.nii.gz in its own geometry; without an index all slices of a volume are segmented, one by
    one, and there is no NAME.mask.png. A picture that cannot be read, or a sentence whose side cannot be known, fails
    alone; the others go on.

    Args:
        run: the trained run.
        jobs: pictures and sentences; pictures that follow each other are decoded once.
        out: folder for the results.
        overwrite: make existing results again.
        probability: also write NAME.probability.png, 16 bit.
        explain: also write NAME.explain.png: picture, attention, prior and guide where there are, prediction.
        assume: image or patient, in the place of an unknown convention.
        abstain: write an empty mask where the model abstains or the sentence denies the finding.
        engine: where; None is here, one after another.
        backend: see `Predictor`.
        export: see `Predictor`.
        device: see `Predictor`.
        progress: called with (task, done, total).

    Raises:
        ConfigError: `explain` with a method that publishes no attention map; nothing is written then. An engine that
            is not installed, or has no folder to share.
    """
    wanted = Wanted(overwrite, probability, explain, assume, abstain)
    if explain and backend != "torch":
        raise ConfigError(
            f"--explain needs --backend torch: an export for {backend} publishes no maps."
        )
    predictor = Predictor(run, backend, export, device=device)
    if explain:
        blank = np.zeros(predictor.run.recipe.image_size, np.uint8)
        explanation(blank, predictor.open(blank).segment("opacity in both lungs"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {out} ({error.strerror}). Give another --out."
        ) from error

    def report(done: int) -> None:
        if progress:
            progress("images", done, len(jobs))

    if engine is None or engine.name == "local":
        return _segment_all(predictor, jobs, out, wanted, report)
    from textmask.cluster import run_tasks

    parts = [tuple(jobs[start : start + PART]) for start in range(0, len(jobs), PART)]
    how = (backend, None if export is None else export.resolve())
    tasks = [(predictor.run.path.resolve(), part, out.resolve(), wanted, how) for part in parts]
    found: dict[int, list[BatchResult]] = {}
    for i, results, problem in run_tasks(engine, work_part, tasks):
        found[i] = results or [BatchResult(job, "failed", problem) for job in parts[i]]
        report(sum(map(len, found.values())))
    return [result for i in range(len(parts)) for result in found[i]]


def work_part(
    run: Path, jobs: Sequence[BatchItem], out: Path, wanted: Wanted, how: tuple[str, Path | None]
) -> list[BatchResult]:
    """Some jobs in a process that nobody sees; `how` is backend and export."""
    return _segment_all(_loaded(run, *how), jobs, out, wanted, lambda done: None)


@lru_cache(maxsize=1)
def _loaded(run: Path, backend: str, export: Path | None) -> Predictor:
    """Remembered: a process that is given several parts loads the model once."""
    return Predictor(run, backend, export)


def _segment_all(
    predictor: Predictor,
    jobs: Sequence[BatchItem],
    out: Path,
    wanted: Wanted,
    report: Callable[[int], None],
) -> list[BatchResult]:
    results: list[BatchResult] = []
    pictures: list[LoadedImage] = []
    opened: Opened | None = None
    shown: object = None
    for i, job in enumerate(jobs):
        try:
            if not wanted.overwrite and is_done(out, job, wanted.extra):
                results.append(BatchResult(job, "skipped", is_stale(out, job, predictor)))
                continue
            if job.shown != shown:
                pictures, opened, shown = [], None, None
                pictures = load_images(job.image, job.index)
                shown = job.shown
            if len(pictures) > 1:
                results.append(_segment_volume(predictor, job, pictures, out, wanted))
                continue
            opened = opened or predictor.open(pictures[0], job.view)
            found = opened.segment(job.text, job.laterality, wanted.assume, abstain=wanted.abstain)
            write_segmentation(out, job, found, opened, wanted.extra)
            asked = found.asked.conversion
            results.append(BatchResult(job, "done", "", found.warnings, found.unknown_words, asked))
        except TextMaskError as error:
            results.append(BatchResult(job, "failed", str(error)))
        finally:
            report(i + 1)
    return results


def _segment_volume(
    predictor: Predictor, job: BatchItem, pictures: Sequence[LoadedImage], out: Path, wanted: Wanted
) -> BatchResult:
    """Slice by slice: one volume of masks in the geometry of the file, and an overlay of the slice that has most."""
    if pictures[0].format != "nifti":
        raise DataError(
            f"{job.image.name}: holds {len(pictures)} frames, expected one. Give --index, or take "
            "`textmask dicom segment`, which writes one DICOM SEG of all."
        )
    if wanted.extra:
        raise DataError(
            f"{job.image.name}: --probability and --explain are of one slice. Give its --index."
        )
    masks: dict[int, np.ndarray] = {}
    most, first = None, None
    for i, picture in enumerate(pictures):
        opened = predictor.open(picture, job.view)
        found = opened.segment(job.text, job.laterality, wanted.assume, abstain=wanted.abstain)
        masks[i] = found.mask
        first = first or found
        if most is None or found.mask.sum() > most[1].mask.sum():
            most = (picture, found)
    if first is None or most is None:
        raise DataError(f"{job.image.name}: holds no slice.")
    (out / f"{job.stem}.json").unlink(missing_ok=True)
    write_nifti_mask(out / f"{job.stem}.mask.nii.gz", masks, pictures[0].header)
    write_png(out / f"{job.stem}.overlay.png", overlay(most[0].pixels, most[1].mask))
    per_slice = [int(mask.sum()) for mask in masks.values()]
    result = result_record(job, most[1], predictor) | {
        "foreground_px": sum(per_slice),
        "foreground_px_of_slices": per_slice,
    }
    write_item(out, job, result)
    return BatchResult(
        job, "done", "", most[1].warnings, most[1].unknown_words, most[1].asked.conversion
    )
