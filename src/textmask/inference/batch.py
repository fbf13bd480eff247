"""Segment many images: one image, a folder, or a jobs file; each result is written once."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from textmask.data.shard_files import read_index, unpack
from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.inference.jobs import BatchItem
from textmask.inference.label_map import LabelMap
from textmask.inference.predictions import write_predictions
from textmask.inference.predictor import Opened, Predictor, Segmentation, explanation
from textmask.inference.processes import run_in_processes
from textmask.inference.results import (
    BatchResult,
    image_digest,
    is_done,
    is_stale,
    shows_another_image,
    write_segmentation,
    write_volume,
)
from textmask.inference.writer import ResultWriter, known
from textmask.io.loaded import LoadedImage
from textmask.io.locks import one_writer
from textmask.io.read import load_images
from textmask.progress import Progress
from textmask.runs.checkpoint import Run

if TYPE_CHECKING:
    from textmask.cluster import Launcher

PART = 32  # items per task on a cluster
SMALL_PART = 8  # items per task of a process on this machine: each counts when it ends
IMAGES_PER_PROCESS = 32  # below, starting a process takes longer than it saves
MAX_PROCESSES = 16  # each holds the model


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
    processes: int | None = 1,
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
        processes: that share the images on this machine; each loads the model. None takes one per CPU thread of torch
            if there are `IMAGES_PER_PROCESS` images for each, and one on a GPU. A script that uses more than one needs
            the guard `if __name__ == "__main__":`, as everything that starts processes does.
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
    how = (backend, export, device, tta)
    # what is done already needs no process
    waiting = len(groups)
    if not overwrite:
        waiting -= sum(all(is_done(out, job, wanted.extra) for job in group) for group in groups)
    if not here and engine is not None:
        found = _on_cluster(predictor, groups, out, wanted, engine, how, report)
    elif (count := pool_size(processes, waiting, predictor.session.device.type)) > 1:
        found = _in_processes(predictor, groups, out, wanted, count, how, report)
    else:
        found = _segment_groups(predictor, groups, out, wanted, report)

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

    backend, export, device, tta = how
    device = device if backend == "torch" else "cpu"
    there = (backend, export, device.partition(":")[0], tta)
    parts = _parts(groups, PART)
    tasks = _tasks(predictor, parts, out, wanted, there)
    old = {job for part in parts for job in part if is_done(out, job, wanted.extra)}
    found = _collected(run_tasks(engine, work_part, tasks, device=device), parts, report)

    # a task that was run again, because its process had died, finds the results of its first half
    for i, result in enumerate(found):
        if result.status == "skipped" and result.job not in old:
            found[i] = replace(result, status="done")
    return found


def _in_processes(
    predictor: Predictor,
    groups: Sequence[tuple[BatchItem, ...]],
    out: Path,
    wanted: Wanted,
    processes: int,
    how: tuple[str, Path | None, str, str],
    report: Callable[[int], None],
) -> list[BatchResult]:
    """The results of processes on this machine that each segment some images at a time."""
    parts = _parts(groups, SMALL_PART)
    tasks = _tasks(predictor, parts, out, wanted, how)
    with closing(run_in_processes(work_part, tasks, processes)) as ended:
        return _collected(ended, parts, report)


def _parts(groups: Sequence[tuple[BatchItem, ...]], most: int) -> list[list[BatchItem]]:
    """Items in tasks of at most `most`; an image with all its prompts is one unit of work."""
    parts: list[list[BatchItem]] = [[]]
    for group in groups:
        if parts[-1] and len(parts[-1]) + len(group) > most:
            parts.append([])
        parts[-1] += group
    return parts


def _tasks(
    predictor: Predictor,
    parts: Sequence[Sequence[BatchItem]],
    out: Path,
    wanted: Wanted,
    how: tuple[str, Path | None, str, str],
) -> list[tuple[object, ...]]:
    """Arguments of `work_part`; all paths are absolute, because a task may start in another folder."""
    backend, export, device, tta = how
    call = secrets.token_hex(8)
    there = (backend, None if export is None else export.resolve(), device, tta, call)
    run = predictor.run.path.resolve()
    return [(run, tuple(part), out.resolve(), wanted, there) for part in parts]


def _collected(
    ended: Iterator[tuple[int, list[BatchResult] | None, str]],
    parts: Sequence[Sequence[BatchItem]],
    report: Callable[[int], None],
) -> list[BatchResult]:
    """The results of tasks, which end in any order; a task that was lost fails all its items."""
    found: list[BatchResult] = []
    for i, results, problem in ended:
        found += results or [BatchResult(job, "failed", problem) for job in parts[i]]
        report(len(found))
    return found


def pool_size(wanted: int | None, images: int, device: str) -> int:
    """Number of processes for some images.

    Args:
        wanted: by the user; None decides by the other two.
        images: to segment.
        device: kind of device, such as `cpu`.

    Raises:
        ConfigError: a number below 1.
    """
    if wanted is not None:
        if wanted < 1:
            raise ConfigError(f"processes is {wanted}, expected at least 1.")
        return max(1, min(wanted, images))
    if device != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), images // IMAGES_PER_PROCESS, MAX_PROCESSES))


def work_part(
    run: Path,
    jobs: Sequence[BatchItem],
    out: Path,
    wanted: Wanted,
    how: tuple[str, Path | None, str, str, str],
) -> list[BatchResult]:
    """Some items in a process on a cluster; `how` is backend, export, device, tta and a name of the call."""
    # another machine may not have the files of the shards yet
    for folder in {job.shards for job in jobs if job.shards is not None}:
        unpack(read_index(folder))
    groups = prompts_by_image(jobs)
    return _segment_groups(_loaded(run, *how), groups, out, wanted, lambda done: None)


@lru_cache(maxsize=1)
def _loaded(
    run: Path, backend: str, export: Path | None, device: str, tta: str, call: str
) -> Predictor:
    """Cached: a process that gets several parts of a call loads the model once.

    It may live on while the run is trained again, so that the next call, which has another name, loads it again.
    """
    return Predictor(run, backend, export, device=device, tta=tta)


def _segment_groups(
    predictor: Predictor,
    groups: Sequence[tuple[BatchItem, ...]],
    out: Path,
    wanted: Wanted,
    report: Callable[[int], None],
) -> list[BatchResult]:
    results: list[BatchResult] = []
    written: deque[Future[BatchResult]] = deque()
    with ResultWriter() as writer:
        for group in groups:
            for future in _segment_group(predictor, group, out, wanted, writer):
                written.append(future)
                while written and written[0].done():
                    results.append(written.popleft().result())
                    report(len(results))
        for future in written:
            results.append(future.result())
            report(len(results))
    return results


def _segment_group(
    predictor: Predictor,
    jobs: tuple[BatchItem, ...],
    out: Path,
    wanted: Wanted,
    writer: ResultWriter,
) -> Iterator[Future[BatchResult]]:
    """The results of the prompts of one image, in order; they are there when their files are written."""
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

    # the last result waits for the label map, without which the image is not done
    last: Future[BatchResult] | None = None
    images: list[LoadedImage] = []
    opened: Opened | None = None
    facts = {"image_sha256": digest}
    for job in jobs:
        if last is not None:
            yield last
        try:
            skipped = job not in waiting
            stale = is_stale(out, job, predictor) if skipped else ""
            if skipped and (labels is None or stale):
                # masks of two models never share a label map
                labels = None if stale else labels
                last = known(BatchResult(job, "skipped", stale))
                continue

            images = images or load_images(job.image, job.index)
            if len(images) > 1 and skipped:
                last = known(BatchResult(job, "skipped"))
                continue
            if len(images) > 1:
                masks, opened_slice, found = _segment_volume(predictor, job, images, wanted)
                write = partial(write_volume, out, job, masks, found, opened_slice, facts)
            else:
                opened = opened or predictor.open(images[0], job.view)
                found = opened.segment(
                    job.text, job.laterality, wanted.assume, abstain=wanted.abstain
                )
                if labels is not None:
                    labels.add(job, found)
                if skipped:
                    last = known(BatchResult(job, "skipped"))
                    continue
                write = partial(write_segmentation, out, job, found, opened, wanted.extra, facts)

            # files first: an item is done when they exist
            note = "the image has changed since the last call" if job in changed else ""
            conversion = found.asked.conversion
            result = BatchResult(job, "done", note, found.warnings, found.unknown_words, conversion)
            last = writer.write(write, result)
        except TextMaskError as error:
            last = known(BatchResult(job, "failed", str(error)))

    if last is not None:
        yield last if labels is None else writer.write_after(last, partial(labels.write, out))


def _segment_volume(
    predictor: Predictor, job: BatchItem, images: Sequence[LoadedImage], wanted: Wanted
) -> tuple[dict[int, np.ndarray], Opened, Segmentation]:
    """Masks of a volume by slice, and the slice with the largest one, of which alone more is kept in memory."""
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
    return masks, *largest
