"""Segment many images: one image, a folder, or a jobs file; each result is written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.inference.jobs import BatchItem
from textmask.inference.predictor import Opened, Predictor, Segmentation, explanation
from textmask.inference.results import (
    BatchResult,
    is_done,
    is_stale,
    write_segmentation,
    write_volume,
)
from textmask.io.loaded import LoadedImage
from textmask.io.locks import one_writer
from textmask.io.read import load_images
from textmask.progress import Progress
from textmask.runs.checkpoint import Run

if TYPE_CHECKING:
    from textmask.cluster import Launcher

PART = 32  # items per task on a cluster


@dataclass(frozen=True)
class Wanted:
    """What to write for every item, see `predict_folder`."""

    overwrite: bool
    probability: bool
    explain: bool
    assume: str | None
    abstain: bool

    @property
    def extra(self) -> tuple[str, ...]:
        """Endings of the files next to mask, overlay and JSON."""
        endings = ((".probability.png", self.probability), (".explain.png", self.explain))
        return tuple(ending for ending, wanted in endings if wanted)


@one_writer
def predict_folder(
    run: Run | Path | str,
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
    """Write NAME.mask.png (0/255), NAME.overlay.png and NAME.json for each item; skip what exists.

    A NIfTI image also gets NAME.mask.nii.gz in its own geometry. Without an index all slices of a volume are
    segmented, one by one, and there is no NAME.mask.png. An image that cannot be read, or a prompt whose side cannot
    be determined, fails alone; the others continue.

    Args:
        run: the trained run, its folder, or `default`.
        jobs: images and prompts; an image that follows itself is decoded once.
        out: folder for the results; created if missing.
        overwrite: replace existing results.
        probability: also write NAME.probability.png, 16 bit.
        explain: also write NAME.explain.png: image, attention, prior and guide if published, prediction.
        assume: `image` or `patient`, used if a laterality convention is unknown.
        abstain: write an empty mask if the model abstains or the prompt denies the finding.
        engine: where the items run; None means here, one after another.
        backend: see `Predictor`.
        export: see `Predictor`.
        device: see `Predictor`. On a cluster each task reserves one GPU if it uses one.
        progress: called with ("images", done, total).

    Returns:
        One result per item, in the order of `jobs`.

    Raises:
        ConfigError: `explain` with a method that publishes no attention map; nothing is written then. The launcher
            is not installed or cannot run single tasks. This machine does not have the device.
        DataError: `out` cannot be created.
        BusyError: another process writes there.
    """
    wanted = Wanted(overwrite, probability, explain, assume, abstain)
    if explain and backend != "torch":
        raise ConfigError(
            f"--explain needs --backend torch: an export for {backend} publishes no maps."
        )
    here = engine is None or engine.name == "local"
    # the machine that hands out tasks need not have the device
    predictor = Predictor(run, backend, export, device=device if here else "cpu")

    # find out before anything is written whether the method publishes maps
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

    if engine is None or here:
        return _segment_all(predictor, jobs, out, wanted, report)
    from textmask.cluster import run_tasks

    # all paths are absolute: a task may start in another folder
    parts = [tuple(jobs[start : start + PART]) for start in range(0, len(jobs), PART)]
    device = device if backend == "torch" else "cpu"
    how = (backend, None if export is None else export.resolve(), device.partition(":")[0])
    tasks = [(predictor.run.path.resolve(), part, out.resolve(), wanted, how) for part in parts]

    # tasks end in any order; a task that was lost fails all its items
    found: dict[int, list[BatchResult]] = {}
    for i, results, problem in run_tasks(engine, work_part, tasks, device=device):
        found[i] = results or [BatchResult(job, "failed", problem) for job in parts[i]]
        report(sum(map(len, found.values())))
    ordered: list[BatchResult] = []
    for i in range(len(parts)):
        ordered += found[i]
    return ordered


def work_part(
    run: Path,
    jobs: Sequence[BatchItem],
    out: Path,
    wanted: Wanted,
    how: tuple[str, Path | None, str],
) -> list[BatchResult]:
    """Some items in a process on a cluster; `how` is backend, export and device."""
    return _segment_all(_loaded(run, *how), jobs, out, wanted, lambda done: None)


@lru_cache(maxsize=1)
def _loaded(run: Path, backend: str, export: Path | None, device: str) -> Predictor:
    """Cached: a process that gets several parts loads the model once."""
    return Predictor(run, backend, export, device=device)


def _segment_all(
    predictor: Predictor,
    jobs: Sequence[BatchItem],
    out: Path,
    wanted: Wanted,
    report: Callable[[int], None],
) -> list[BatchResult]:
    results: list[BatchResult] = []
    images: list[LoadedImage] = []
    opened: Opened | None = None
    shown: object = None
    for i, job in enumerate(jobs):
        try:
            if not wanted.overwrite and is_done(out, job, wanted.extra):
                results.append(BatchResult(job, "skipped", is_stale(out, job, predictor)))
                continue

            # the image of the item before may be the same
            if job.shown != shown:
                images, opened, shown = [], None, None
                images = load_images(job.image, job.index)
                shown = job.shown
            if len(images) > 1:
                found = _segment_volume(predictor, job, images, out, wanted)
            else:
                opened = opened or predictor.open(images[0], job.view)
                found = opened.segment(
                    job.text, job.laterality, wanted.assume, abstain=wanted.abstain
                )
                write_segmentation(out, job, found, opened, wanted.extra)

            # files first: an item is done when they exist
            conversion = found.asked.conversion
            results.append(
                BatchResult(job, "done", "", found.warnings, found.unknown_words, conversion)
            )
        except TextMaskError as error:
            results.append(BatchResult(job, "failed", str(error)))
        finally:
            report(i + 1)
    return results


def _segment_volume(
    predictor: Predictor, job: BatchItem, images: Sequence[LoadedImage], out: Path, wanted: Wanted
) -> Segmentation:
    """Segment a volume slice by slice; only its masks and the slice with the largest one are kept in memory."""
    if images[0].format != "nifti":
        raise DataError(
            f"{job.image.name}: contains {len(images)} frames, expected one. Give --index, or use "
            "`textmask dicom segment`, which writes one DICOM SEG for all of them."
        )
    if wanted.extra:
        raise DataError(
            f"{job.image.name}: --probability and --explain need one slice. Give its --index."
        )

    # the overlay and the record show the slice with the largest mask
    masks: dict[int, np.ndarray] = {}
    largest: tuple[Opened, Segmentation] | None = None
    for i, image in enumerate(images):
        opened = predictor.open(image, job.view)
        found = opened.segment(job.text, job.laterality, wanted.assume, abstain=wanted.abstain)
        masks[i] = found.mask
        if largest is None or found.mask.sum() > largest[1].mask.sum():
            largest = opened, found
    if largest is None:
        raise DataError(f"{job.image.name}: contains no slice.")

    write_volume(out, job, masks, largest[1], largest[0])
    return largest[1]
