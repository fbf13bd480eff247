"""Predict and score the pictures of one split, always against the same masks."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import Damage, SplitData, open_split
from textmask.data.manifest import Manifest
from textmask.data.mask_scan import row_mask
from textmask.errors import DataError
from textmask.inference.predict_split import predict_split, resize_probability
from textmask.io.files import file_sha256, write_whole
from textmask.metrics.agreement import Shown, shown
from textmask.metrics.overlap import Counts, EmptyPolicy, Overlap, counts, overlap
from textmask.metrics.surface import SurfaceResult, surface_distances
from textmask.progress import Progress
from textmask.runs.checkpoint import Run
from textmask.runs.environment import git_commit
from textmask.runs.layout import EVALUATION, SCORES, is_bundled

SURFACE = ("hd95_pooled", "hd95_max_directed", "assd")
SHOWN = ("zones", "pieces", "empty")


@dataclass(frozen=True)
class Scored:
    """One row of the table: a run, the sentences it was given, and its per-image material.

    `shown` says in which zones each mask lies, by the zone map of the picture's own sentence.
    """

    name: str
    run: Run
    prompts: Sequence[str]
    counts: Counts
    surface: SurfaceResult | None
    shown: Shown


@dataclass(frozen=True)
class Scorer:
    """Predicts and scores the pictures of one split, always against the same masks."""

    manifest: Manifest
    split: str
    data: SplitData
    surface: bool
    native: bool
    cache_dir: Path | None
    progress: Progress | None
    zones: str | None = None

    def predict(
        self,
        name: str,
        run: Run,
        data: SplitData,
        prompts: Sequence[str] | None = None,
        damage: Damage | None = None,
    ) -> np.ndarray:
        """Probabilities N H W of a run, for the split's own or for other sentences and pictures."""

        def step(done: int, total: int) -> None:
            if self.progress:
                self.progress(name, done, total)

        return predict_split(
            run.method, data, run.recipe, prompts=prompts, damage=damage, progress=step
        )

    def score(
        self, name: str, run: Run, probabilities: np.ndarray, prompts: Sequence[str]
    ) -> Scored:
        """Threshold at the run's own threshold and count; probabilities of another size are resized to the masks."""
        threshold, truth = run.recipe.threshold, self.data.masks
        if not self.native and probabilities.shape == truth.shape:
            masks = probabilities > threshold
            zones = shown(masks, self.data.statements, self.zones)
            return Scored(name, run, prompts, *self._measure(masks, truth), zones)
        parts, places = [], []
        for i, (row, probability) in enumerate(zip(self.data.rows, probabilities, strict=True)):
            mask = row_mask(self.manifest, row) if self.native else np.asarray(truth[i])
            found = resize_probability(probability, (mask.shape[0], mask.shape[1])) > threshold
            parts.append(self._measure(found[None], mask[None]))
            places.append(shown(found[None], self.data.statements[i : i + 1], self.zones))
        surfaces = [distances for _, distances in parts if distances is not None]
        joined = SurfaceResult.concatenate(surfaces) if surfaces else None
        zones = Shown(*(np.concatenate([getattr(part, name) for part in places]) for name in SHOWN))
        return Scored(
            name, run, prompts, Counts.concatenate(part for part, _ in parts), joined, zones
        )

    def neighbour(self, name: str, run: Run) -> Scored:
        """Score another run with the split's own sentences, or read what scoring the same weights gave before."""
        path = run.path / EVALUATION / self.split / SCORES
        stored = self._read(name, run, path)
        if stored is not None:
            return stored
        sized = open_split(self.manifest, self.split, run.recipe.image_size, self.cache_dir)
        scored = self.score(name, run, self.predict(name, run, sized), sized.prompts)
        if is_bundled(run.path):
            return scored
        with contextlib.suppress(
            OSError, DataError
        ):  # a neighbour's folder may be read-only: predicted again then
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store(scored, path)
        return scored

    def store(self, row: Scored, path: Path) -> None:
        """Keep a row's per-image figures for the next evaluation that has this run beside it."""
        arrays = {name: getattr(row.counts, name) for name in ("intersection", "predicted", "true")}
        arrays |= {name: getattr(row.shown, name) for name in SHOWN}
        if row.surface is not None:
            arrays |= {name: getattr(row.surface, name) for name in (*SURFACE, "empty_masks")}
        stream = io.BytesIO()
        np.savez(stream, key=np.array(self.key(row.run)), **arrays)
        write_whole(path, stream.getvalue())

    def _read(self, name: str, run: Run, path: Path) -> Scored | None:
        key = self.key(run)
        try:
            with np.load(
                io.BytesIO(path.read_bytes())
            ) as file:  # given a path it leaks the handle of a damaged file
                if str(file["key"]) != key or json.loads(key)["code"].endswith("+changes"):
                    return None
                found = Counts(file["intersection"], file["predicted"], file["true"])
                zones = Shown(*(file[name] for name in SHOWN))
                distances = (
                    {name: file[name] for name in (*SURFACE, "empty_masks")}
                    if self.surface
                    else None
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        rules: dict[str, Any] = {"definition": "pooled", "one_empty": "diagonal", "unit": "px"}
        surface = None if distances is None else SurfaceResult(**distances, **rules)
        return Scored(name, run, self.data.prompts, found, surface, zones)

    def key(self, run: Run) -> str:
        """All that a run's scores depend on; edits that are not committed have no name, so they never match."""
        size = "native" if self.native else list(self.data.masks.shape[1:])
        weights = file_sha256(run.weights)
        found: dict[str, Any] = {"data": self.manifest.hash(), "split": self.split, "size": size}
        found |= {"surface": self.surface, "zones": self.zones}
        code = f"{version('textmask')} {git_commit()}"
        return json.dumps(
            found | {"weights": weights, "threshold": run.recipe.threshold, "code": code}
        )

    def _measure(
        self, prediction: np.ndarray, truth: np.ndarray
    ) -> tuple[Counts, SurfaceResult | None]:
        return counts(prediction, truth), surface_distances(
            prediction, truth
        ) if self.surface else None


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
