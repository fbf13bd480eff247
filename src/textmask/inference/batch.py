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
from textmask.inference.label_map import LabelMap
from textmask.inference.predictions import write_predictions
from textmask.inference.predictor import Opened, Predictor, Segmentation, explanation
from textmask.inference.results import (
    BatchResult,
    image_digest,
    is_done,
    is_stale,
    shows_another_image,
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
    tta: str = "none",
    progress: Progress | None = None,
) -> list[BatchResult]:
    """Write NAME.mask.png (0/255), NAME.overlay.png and NAME.json for each item, and predictions.csv; skip what exists.

    A result is made again if the content of its image has changed: NAME.json stores the sha256 of the image.

    An image with several prompts also gets NAME.labels.png and NAME.labels.json, see `LabelMap`.

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
        tta: see `Predictor`.
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
    predictor = Predictor(run, backend, export, device=device if here else "cpu", tta=tta)

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

    # prompts of one image together: it is decoded once, and has one label map
    groups = prompts_by_image(jobs)
    if engine is None or here:
        found = _segment_groups(predictor, groups, out, wanted, report)
    else:
        found = _on_cluster(
            predictor, groups, out, wanted, engine, (backend, export, device, tta), report
        )

    # as they were asked for
    results_of = {result.job: result for result in found}
    results = [results_of[job] for job in jobs]
    write_predictions(out, results)
    return results


def prompts_by_image(jobs: Sequence[BatchItem]) -> list[tuple[BatchItem, ...]]:
    """The items of each image (slice, view), in order of first appearance; equal items once."""
    groups: dict[object, dict[BatchItem, None]] = {}
    for job in jobs:
        groups.setdefault(job.shown, {})[job] = None
    return [tuple(group) for group in groups.values()]


def _on_cluster(
    predictor: Predictor,
    groups: Sequence[tuple[BatchItem, ...]],
    out: Path,
    wanted: Wanted,
    engine: Launcher,
    how: tuple[str, Path | None, str, str],
    report: Callable[[int], None],
) -> list[BatchResult]:
    """The results of tasks that each segment some images; `how` is backend, export, device and tta."""
    from textmask.cluster import run_tasks

    # an image with all its prompts is one unit of work
    parts: list[list[BatchItem]] = [[]]
    for group in groups:
        if parts[-1] and len(parts[-1]) + len(group) > PART:
            parts.append([])
        parts[-1] += group

    # all paths are absolute: a task may start in another folder
    backend, export, device, tta = how
    device = device if backend == "torch" else "cpu"
    there = (backend, None if export is None else export.resolve(), device.partition(":")[0], tta)
    run = predictor.run.path.resolve()
    tasks = [(run, tuple(part), out.resolve(), wanted, there) for part in parts]

    # tasks end in any order; a task that was lost fails all its items
    found: list[BatchResult] = []
    for i, results, problem in run_tasks(engine, work_part, tasks, device=device):
        found += results or [BatchResult(job, "failed", problem) for job in parts[i]]
        report(len(found))
    return found


def work_part(
    run: Path,
    jobs: Sequence[BatchItem],
    out: Path,
    wanted: Wanted,
    how: tuple[str, Path | None, str, str],
) -> list[BatchResult]:
    """Some items in a process on a cluster; `how` is backend, export, device and tta."""
    groups = prompts_by_image(jobs)
    return _segment_groups(_loaded(run, *how), groups, out, wanted, lambda done: None)


@lru_cache(maxsize=1)
def _loaded(
    run: Path, backend: str, export: Path | None, device: str, tta: str = "none"
) -> Predictor:
    """Cached: a process that gets several parts loads the model once."""
    return Predictor(run, backend, export, device=device, tta=tta)


def _segment_groups(
    predictor: Predictor,
    groups: Sequence[tuple[BatchItem, ...]],
    out: Path,
    wanted: Wanted,
    report: Callable[[int], None],
) -> list[BatchResult]:
    results: list[BatchResult] = []
    for group in groups:
        results += _segment_group(predictor, group, out, wanted, len(results), report)
    return results


def _segment_group(
    predictor: Predictor,
    jobs: tuple[BatchItem, ...],
    out: Path,
    wanted: Wanted,
    before: int,
    report: Callable[[int], None],
) -> list[BatchResult]:
    """The prompts of one image; `before` items were done before them."""
    # before the image is read: a file that is replaced meanwhile is then noticed by the next call
    digest = image_digest(jobs[0])
    changed = [job for job in jobs if shows_another_image(out, job, digest)]

    # results of an earlier call are segmented again if the label map of all prompts is missing
    waiting = []
    for job in jobs:
        if wanted.overwrite or job in changed or not is_done(out, job, wanted.extra):
            waiting.append(job)
    labels = LabelMap(jobs) if len(jobs) > 1 else None
    if labels is not None and not waiting and labels.exists(out):
        labels = None

    results: list[BatchResult] = []
    images: list[LoadedImage] = []
    opened: Opened | None = None
    for job in jobs:
        try:
            skipped = job not in waiting
            stale = is_stale(out, job, predictor) if skipped else ""
            if skipped and (labels is None or stale):
                # masks of two models never share a label map
                labels = None if stale else labels
                results.append(BatchResult(job, "skipped", stale))
                continue

            images = images or load_images(job.image, job.index)
            if len(images) > 1 and skipped:
                results.append(BatchResult(job, "skipped"))
                continue
            if len(images) > 1:
                found = _segment_volume(predictor, job, images, out, wanted, digest)
            else:
                opened = opened or predictor.open(images[0], job.view)
                found = opened.segment(
                    job.text, job.laterality, wanted.assume, abstain=wanted.abstain
                )
                if labels is not None:
                    labels.add(job, found)
                if skipped:
                    results.append(BatchResult(job, "skipped"))
                    continue
                facts = {"image_sha256": digest}
                write_segmentation(out, job, found, opened, wanted.extra, facts)

            # files first: an item is done when they exist
            note = "the image has changed since the last call" if job in changed else ""
            conversion = found.asked.conversion
            results.append(
                BatchResult(job, "done", note, found.warnings, found.unknown_words, conversion)
            )
        except TextMaskError as error:
            results.append(BatchResult(job, "failed", str(error)))
        finally:
            report(before + len(results))

    # without its label map the image is not done
    try:
        if labels is not None:
            labels.write(out)
    except TextMaskError as error:
        results[-1] = BatchResult(jobs[-1], "failed", str(error))
    return results


def _segment_volume(
    predictor: Predictor,
    job: BatchItem,
    images: Sequence[LoadedImage],
    out: Path,
    wanted: Wanted,
    digest: str,
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

    write_volume(out, job, masks, largest[1], largest[0], {"image_sha256": digest})
    return largest[1]
