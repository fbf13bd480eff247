"""Predict and score the images of one split, always against the same masks."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from textmask.cluster import Launcher, SharedValue, run_tasks
from textmask.data.loaders import Damage, SplitData, open_split
from textmask.data.manifest import Manifest
from textmask.data.mask_scan import row_mask
from textmask.errors import BusyError, CheckpointError, DataError
from textmask.evaluation.mask_folders import read_folder
from textmask.inference.predict_split import predict_batches, resize_probability
from textmask.io.files import file_sha256, write_whole
from textmask.io.images import resize_mask
from textmask.io.locks import only_replacer
from textmask.metrics.agreement import Shown, shown
from textmask.metrics.overlap import Counts, EmptyPolicy, Floats, Overlap, counts, overlap
from textmask.metrics.surface import SurfaceResult, surface_distances
from textmask.progress import Progress, report, with_progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.environment import git_commit, prepare_cpu
from textmask.runs.layout import EVALUATION, SCORES, is_bundled

PART = 256  # images per task of a cluster: whole batches
Counted = tuple[Counts, SurfaceResult | None, Shown]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table: N prompts, and what was counted of the mask of each image.

    `shown` says in which zones each mask lies, by the zone map of the image's own prompt.
    """

    name: str
    prompts: Sequence[str]
    counts: Counts
    surface: SurfaceResult | None
    shown: Shown

    @property
    def distances(self) -> dict[str, Floats]:
        """Column name -> N distances in pixels; empty if they were not computed."""
        if self.surface is None:
            return {}
        return {
            "hd95_pooled_px": self.surface.hd95_pooled,
            "hd95_max_directed_px": self.surface.hd95_max_directed,
            "assd_px": self.surface.assd,
        }


@dataclass(frozen=True, kw_only=True)
class Scored(Measured):
    """The row of a run; `prompts` are what it was given."""

    run: Run


@dataclass(frozen=True, kw_only=True)
class ScoredFolder(Measured):
    """The row of masks that another tool wrote; the prompts are those of the data."""

    folder: str
    sha256: str


@dataclass(frozen=True)
class Scorer:
    """Predicts and scores the images of one split, always against the same masks.

    Attributes:
        manifest, split: where the images come from.
        data: the decoded images and masks.
        surface: also compute surface distances.
        native: score at each mask's own size; probabilities are resized, never masks.
        cache_dir: folder of the decoded images.
        progress: called with (row name, done, total).
        zones: key of `ZONE_MAPS`; None chooses by the grammar of each prompt.
        engine: where the images are predicted and counted; None means here.
        device: what the tasks of a cluster compute on.
    """

    manifest: Manifest
    split: str
    data: SplitData
    surface: bool = True
    native: bool = False
    cache_dir: Path | None = None
    progress: Progress | None = None
    zones: str | None = None
    engine: Launcher | None = None
    device: str = "auto"

    def predict_and_score(
        self, name: str, run: Run, data: SplitData, prompts: Sequence[str] | None = None
    ) -> Scored:
        """Predict the images with a run, and score them: here, or in parts on a cluster with the same result.

        Args:
            name: of the row.
            run: what predicts.
            data: the split at the size of the run.
            prompts: the N prompts that replace the split's own.

        Raises:
            CheckpointError: a part could not be scored on the cluster.
        """
        given = data.prompts if prompts is None else prompts
        if self.engine is None or self.engine.name == "local":
            return self.score(name, run, self.predict(name, run, data, prompts), given)

        # parts are whole batches, so that every image is predicted together with the same others
        tasks = []
        for begin in range(0, len(data), PART):
            part = slice(begin, begin + PART)
            asked = None if prompts is None else tuple(prompts[part])
            tasks.append((run.path.resolve(), part, asked))
        rows, columns = self.data.masks.shape[1:]
        device = self.device.partition(":")[0]  # Ray shows a task only the GPU it has reserved
        shared = SharedValue(
            ScoringTask(
                manifest=replace(self.manifest, root=self.manifest.root.absolute()),
                split=self.split,
                size=(rows, columns),
                surface=self.surface,
                native=self.native,
                cache_dir=self.cache_dir and self.cache_dir.absolute(),
                zones=self.zones,
                device=device,
            )
        )
        parts: dict[int, Counted] = {}
        ended = run_tasks(self.engine, count_part, tasks, device=device, shared=shared)
        for number, counted, problem in ended:
            if counted is None:
                part = tasks[number][1]
                images = f"images {part.start} to {min(part.stop, len(data)) - 1}"
                raise CheckpointError(
                    f"{name}: {images} could not be scored on the cluster: {problem} Run the command again."
                )
            parts[number] = counted
            (self.progress or report)(name, min(len(data), len(parts) * PART), len(data))
        found, surface, zones = _joined_counts([parts[number] for number in range(len(tasks))])
        return Scored(name=name, prompts=given, counts=found, surface=surface, shown=zones, run=run)

    def predict(
        self,
        name: str,
        run: Run,
        data: SplitData,
        prompts: Sequence[str] | None = None,
        damage: Damage | None = None,
    ) -> Iterator[np.ndarray]:
        """Probabilities B H W of a run batch by batch, for the split's own or for other prompts and images."""

        def step(done: int, total: int) -> None:
            (self.progress or report)(name, done, total)

        return predict_batches(
            run.method, data, run.recipe, prompts=prompts, damage=damage, progress=step
        )

    def score(
        self, name: str, run: Run, batches: Iterable[np.ndarray], prompts: Sequence[str]
    ) -> Scored:
        """Threshold at the run's own threshold and count; probabilities of another size are resized to the masks.

        Args:
            name: of the row.
            run: what made the probabilities.
            batches: probabilities or masks B H W of all images in their order; each batch is counted and let go.
            prompts: the N prompts that the run was given.
        """
        found, surface, zones = self.count(run, batches)
        return Scored(
            name=name, prompts=prompts, counts=found, surface=surface, shown=zones, run=run
        )

    def count(self, run: Run, batches: Iterable[np.ndarray], begin: int = 0) -> Counted:
        """What `score` counts, of the images from number `begin` on."""
        threshold, truth = run.recipe.threshold, self.data.masks
        parts: list[Counted] = []
        for batch in batches:
            end = begin + len(batch)
            if not self.native and batch.shape[1:] == truth.shape[1:]:
                parts.append(self._count(batch > threshold, truth[begin:end], begin))
            else:
                for i, probability in enumerate(batch, start=begin):
                    mask = self._truth(i)
                    size = (mask.shape[0], mask.shape[1])
                    predicted = resize_probability(probability, size) > threshold
                    parts.append(self._count(predicted[None], mask[None], i))
            begin = end
        return _joined_counts(parts)

    def score_folder(self, name: str, folder: Path) -> ScoredFolder:
        """Score the masks that another tool wrote, at their own size or resized as the true masks are.

        Raises:
            DataError: see `read_folder`.
        """
        truth = self.data.masks
        size = None if self.native else (int(truth.shape[1]), int(truth.shape[2]))
        made = read_folder(name, folder, self.manifest, self.data.rows, size, self.progress)
        parts: list[Counted] = []
        numbers = with_progress(range(len(self.data)), "scoring")
        for i, mask in zip(numbers, made.masks, strict=True):
            predicted = (mask if size is None else resize_mask(mask, size)) > 0
            parts.append(self._count(predicted[None], self._truth(i)[None], i))

        found, surface, zones = _joined_counts(parts)
        return ScoredFolder(
            name=name,
            prompts=self.data.prompts,
            counts=found,
            surface=surface,
            shown=zones,
            folder=made.folder,
            sha256=made.sha256,
        )

    def score_neighbor(self, name: str, run: Run) -> Scored:
        """Score another run with the split's own prompts, or read what scoring the same weights gave before."""
        path = run.path / EVALUATION / self.split / SCORES
        stored = self._read(name, run, path)
        if stored is not None:
            return stored

        sized = open_split(self.manifest, self.split, run.recipe.image_size, self.cache_dir)
        scored = self.predict_and_score(name, run, sized)
        if is_bundled(run.path):
            return scored
        # the folder of a neighbor may be read-only, or another process may write it; then nothing is stored, and the
        # neighbor is predicted again next time
        with contextlib.suppress(OSError, DataError, BusyError), only_replacer(path.parent):
            path.parent.mkdir(exist_ok=True)
            self.store(scored, path)
        return scored

    def store(self, row: Scored, path: Path) -> None:
        """Keep what was counted of a row for the next evaluation that compares with this run."""
        arrays: dict[str, Any] = {
            "intersection": row.counts.intersection,
            "predicted": row.counts.predicted,
            "true": row.counts.true,
            "zones": row.shown.zones,
            "pieces": row.shown.pieces,
            "empty": row.shown.empty,
        }

        # distances are missing if the evaluation was asked to skip them
        if row.surface is not None:
            arrays["hd95_pooled"] = row.surface.hd95_pooled
            arrays["hd95_max_directed"] = row.surface.hd95_max_directed
            arrays["assd"] = row.surface.assd
            arrays["empty_masks"] = row.surface.empty_masks

        stream = io.BytesIO()
        np.savez(stream, key=np.array(self.key(row.run)), **arrays)
        write_whole(path, stream.getvalue())

    def _read(self, name: str, run: Run, path: Path) -> Scored | None:
        """What `store` kept; None if it is missing, damaged, or of other weights, code or masks."""
        key = self.key(run)
        try:
            # numpy leaks the handle of a damaged file if it is given a path
            with np.load(io.BytesIO(path.read_bytes())) as file:
                if str(file["key"]) != key or json.loads(key)["code"].endswith("+changes"):
                    return None
                found = Counts(file["intersection"], file["predicted"], file["true"])
                zones = Shown(file["zones"], file["pieces"], file["empty"])
                surface = _stored_surface(file) if self.surface else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Scored(
            name=name,
            prompts=self.data.prompts,
            counts=found,
            surface=surface,
            shown=zones,
            run=run,
        )

    def key(self, run: Run) -> str:
        """Everything that a run's scores depend on; uncommitted edits have no name, so they never match."""
        return json.dumps(
            {
                "data": self.manifest.hash(),
                "content": self.data.content,
                "split": self.split,
                "size": "native" if self.native else list(self.data.masks.shape[1:]),
                "surface": self.surface,
                "zones": self.zones,
                "weights": file_sha256(run.weights),
                "threshold": run.recipe.threshold,
                "code": f"{version('textmask')} {git_commit()}",
            }
        )

    def _truth(self, i: int) -> np.ndarray:
        """The true mask of one image, at the size at which it is scored."""
        if self.native:
            return row_mask(self.manifest, self.data.rows[i])
        return np.asarray(self.data.masks[i])

    def _count(self, prediction: np.ndarray, truth: np.ndarray, begin: int) -> Counted:
        """Count masks B H W of one size, those of the images from number `begin` on."""
        statements = self.data.statements[begin : begin + len(prediction)]
        distances = surface_distances(prediction, truth) if self.surface else None
        return counts(prediction, truth), distances, shown(prediction, statements, self.zones)


@dataclass(frozen=True)
class ScoringTask:
    """What every task of an evaluation on a cluster needs; the fields are those of `Scorer`.

    Attributes:
        size: rows and columns of the masks that are scored against.
    """

    manifest: Manifest
    split: str
    size: tuple[int, int]
    surface: bool
    native: bool
    cache_dir: Path | None
    zones: str | None
    device: str


def count_part(
    shared: SharedValue, run_path: Path, part: slice, prompts: Sequence[str] | None
) -> Counted:
    """Predict and count some images of a split in a process of a cluster."""
    scorer, run = _opened_scorer(shared), _loaded_run(shared, run_path)
    data = _opened_data(shared, run.recipe.image_size).part(part)
    batches = scorer.predict(run.recipe.method, run, data, prompts)
    return scorer.count(run, batches, part.start)


# a process that gets several parts opens the split and loads the run once, and again for the next call: it may live on
# while the run is trained again
@lru_cache(maxsize=1)
def _opened_scorer(shared: SharedValue) -> Scorer:
    task: ScoringTask = shared.get()
    return Scorer(
        task.manifest,
        task.split,
        _opened_data(shared, task.size),
        surface=task.surface,
        native=task.native,
        cache_dir=task.cache_dir,
        zones=task.zones,
    )


@lru_cache(maxsize=2)
def _opened_data(shared: SharedValue, size: tuple[int, int]) -> SplitData:
    task: ScoringTask = shared.get()
    return open_split(task.manifest, task.split, size, task.cache_dir)


@lru_cache(maxsize=1)
def _loaded_run(shared: SharedValue, path: Path) -> Run:
    task: ScoringTask = shared.get()
    prepare_cpu()
    return load_run(path, task.device)


def _joined_counts(parts: Sequence[Counted]) -> Counted:
    """What was counted of several batches, as of one."""
    surfaces = [distances for _, distances, _ in parts if distances is not None]
    places = [place for _, _, place in parts]
    zones = Shown(
        np.concatenate([place.zones for place in places]),
        np.concatenate([place.pieces for place in places]),
        np.concatenate([place.empty for place in places]),
    )
    joined = Counts.concatenate(part for part, _, _ in parts)
    return joined, SurfaceResult.concatenate(surfaces) if surfaces else None, zones


def _stored_surface(file: Mapping[str, Any]) -> SurfaceResult:
    return SurfaceResult(
        hd95_pooled=file["hd95_pooled"],
        hd95_max_directed=file["hd95_max_directed"],
        assd=file["assd"],
        empty_masks=file["empty_masks"],
        definition="pooled",
        one_empty="diagonal",
        unit="px",
    )


def overlap_of(row: Measured, policy: EmptyPolicy) -> Overlap:
    """Overlap of a row.

    Raises:
        DataError: no image is left to score under `policy`.
    """
    found = overlap(row.counts, policy)
    if not found.kept.any():
        raise DataError(
            f"{row.name}: all {found.n} images have an empty mask and an empty prediction, which empty_policy "
            f"{policy!r} leaves out: nothing to score. Use a split with findings, or empty_policy=one."
        )
    return found
