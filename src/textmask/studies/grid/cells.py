"""A grid of (arm, seed, labelled fraction) cells: each is one run folder and one result row, made once."""

from __future__ import annotations

import fcntl
import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmask.config import Recipe
from textmask.data.loaders import open_split
from textmask.data.manifest import Manifest
from textmask.errors import CheckpointError, ConfigError, DataError, TextMaskError
from textmask.evaluation.protocol import refuse_leaks
from textmask.evaluation.scoring import Scorer, overlap_of
from textmask.io.files import file_sha256, read_json, write_json
from textmask.methods.registry import Arm, build_method, load_recipe
from textmask.metrics.overlap import Counts
from textmask.runs.checkpoint import load_run
from textmask.runs.layout import RECIPE, RESULT, WEIGHTS
from textmask.runs.record import read_record
from textmask.runs.session import fabric_device
from textmask.studies.grid.summary import Finished
from textmask.training.labels import indices_from_list, labelled_indices, refuse_other_labels
from textmask.training.loop import TrainOptions, train


class BusyError(TextMaskError):
    """Another process is making the cell at this moment."""


@dataclass(frozen=True)
class Trial:
    """One training of a grid; `settings` are all assignments that made its recipe of the preset."""

    arm: Arm
    seed: int
    recipe: Recipe
    settings: tuple[str, ...]
    path: Path

    @property
    def fraction(self) -> float:
        """Share of the train split that keeps its masks in the last stage."""
        return self.recipe.stages[-1].labelled_fraction


@dataclass(frozen=True)
class LabelledList:
    """A published list of labelled pictures: the only ones of the `train_rows` of train that keep their masks."""

    path: Path
    sha256: str
    indices: tuple[int, ...]
    train_rows: int

    @classmethod
    def read(cls, path: Path, manifest: Manifest) -> LabelledList:
        """Find the names of a text file among the train rows.

        Raises:
            DataError: the file cannot be read, or names a picture that is not in train.
        """
        keys = [manifest.key(row) for row in manifest.rows_of("train")]
        try:
            sha256, indices = file_sha256(path), indices_from_list(path, keys)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: the list of labelled pictures cannot be read: {error}."
            ) from error
        return cls(path, sha256, tuple(indices.tolist()), len(keys))

    def as_json(self) -> dict[str, Any]:
        """What the protocol says of it."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "rows": len(self.indices),
            "train_rows": self.train_rows,
        }


@dataclass(frozen=True)
class TrialSet:
    """Cells, and what they share: the data, the split, and the masks (of size `size`) all of them are scored against.

    `labelled_list` names the labelled pictures of every cell; None leaves them to each recipe's fraction and seed.
    `device` is where each cell trains and predicts; see `runs.session.find_device`.

    Cells know nothing of each other, so that they may run in any order and anywhere; the order here is that of the
    list.
    """

    cells: tuple[Trial, ...]
    manifest: Manifest
    split: str
    base: Recipe
    cache_dir: Path | None
    labelled_list: LabelledList | None = None
    device: str = "auto"

    def check(self) -> None:
        """Find out before hours of training what would stop it.

        Raises:
            ConfigError: a folder holds a run of other settings; a labelled list and a labelled fraction are given.
            DataError: a folder holds a run on other data or other labelled pictures; the split cannot be scored.
            WeightsError: a text or image encoder of a cell is not installed.
        """
        rows = self.manifest.rows_of(self.split)
        built = set()
        for cell in self.cells:
            refuse_leaks(cell.path, rows, self.split)
            self._refuse_two_answers(cell)
            _refuse_other(cell, self.manifest, self.labelled_list)
            if cell.arm.name not in built and not (cell.path / RESULT).exists():
                built.add(cell.arm.name)
                build_method(cell.recipe)

    def decode(self) -> None:
        """Make the decoded pictures of all cells, so that processes which share the cache do not each make them."""
        sizes = {self.base.image_size, *(cell.recipe.image_size for cell in self.cells)}
        for split in dict.fromkeys(("train", "valid", self.split)):
            for size in sorted(sizes):
                open_split(self.manifest, split, size, self.cache_dir)

    def read(self, cell: Trial) -> Finished | None:
        """The result of a finished cell, None where it still has to be made."""
        paths = self._paths(cell)
        result = cell.path / RESULT
        if not (paths[0].exists() and result.exists()):
            return None
        row = read_json(paths[0])
        if row.get("weights_sha256") != read_json(result).get("weights_sha256"):
            return None
        try:
            with np.load(io.BytesIO(paths[1].read_bytes())) as file:
                counts = Counts(file["intersection"], file["predicted"], file["true"])
                distances = {f"{name}_px": file[name] for name in ("hd95_pooled", "assd")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Finished(row, counts, distances)

    def make(self, cell: Trial, bar: bool = False) -> Finished:
        """Train a cell (go on where it was stopped), predict the split once, and leave its row.

        Args:
            cell: of this grid.
            bar: draw the progress bar of the training.

        Raises:
            BusyError: another process is making it.
            CheckpointError: the cell cannot be written or read.
            DataError: the file of the labelled list is not what it was.
        """
        with _held(cell.path):
            return self.read(cell) or self._make(cell, bar)

    def _make(self, cell: Trial, bar: bool) -> Finished:
        listed = self.labelled_list
        if listed is not None and LabelledList.read(listed.path, self.manifest) != listed:
            raise DataError(
                f"{listed.path} changed while the study ran. Restore it, or give another --out."
            )
        if not (cell.path / RESULT).exists():
            resume = (cell.path / RECIPE).exists()
            accelerator, devices = fabric_device(self.device)
            train(
                cell.recipe,
                self.manifest,
                cell.path,
                resume=resume,
                cache_dir=self.cache_dir,
                labelled_list=None if listed is None else listed.path,
                progress=bar,
                options=TrainOptions(accelerator=accelerator, devices=devices),
            )
        return self._score(cell)

    def _score(self, cell: Trial) -> Finished:
        """Predict the split and leave the row of a trained cell."""
        refuse_leaks(cell.path, self.manifest.rows_of(self.split), self.split)
        run = load_run(cell.path, self.device)
        masks = open_split(self.manifest, self.split, self.base.image_size, self.cache_dir)
        sized = open_split(self.manifest, self.split, run.recipe.image_size, self.cache_dir)
        scorer = Scorer(self.manifest, self.split, masks, True, False, self.cache_dir, None)
        scored = scorer.score(
            cell.arm.name, run, scorer.predict(cell.arm.name, run, sized), sized.prompts
        )
        if scored.surface is None:
            raise CheckpointError(f"{cell.path}: scored without surface distances, expected them.")
        found, listed = overlap_of(scored, self.base.empty_policy), self.labelled_list
        row = {
            "arm": cell.arm.name,
            "title": cell.arm.title,
            "seed": cell.seed,
            "fraction": cell.fraction
            if listed is None
            else len(listed.indices) / listed.train_rows,
            "labelled_list": "" if listed is None else listed.path.name,
            "labelled_list_sha256": "" if listed is None else listed.sha256,
            "labelled_rows": run.data["labelled_rows"][cell.recipe.stages[-1].name],
            "split": self.split,
            "n": found.n,
            "dice_per_image": found.dice_per_image_mean,
            "dice_pooled": found.dice_pooled,
            "iou_per_image": found.iou_per_image_mean,
            "iou_pooled": found.iou_pooled,
            "hd95_pooled_px": float(scored.surface.hd95_pooled.mean()),
            "assd_px": float(scored.surface.assd.mean()),
            "epoch": run.result.get("epoch"),
            "seconds": run.result.get("seconds"),
            "commit": read_record(cell.path).environment.get("git_commit", ""),
            "method": cell.recipe.method,
            "settings": " ".join(cell.settings),
            "weights_sha256": file_sha256(cell.path / WEIGHTS),
        }
        row_path, images_path = self._paths(cell)
        scorer.store(scored, images_path)
        write_json(row_path, row)  # last: it says that the cell is finished
        distances = {"hd95_pooled_px": scored.surface.hd95_pooled, "assd_px": scored.surface.assd}
        return Finished(row, scored.counts, distances)

    def _refuse_two_answers(self, cell: Trial) -> None:
        """Raise where both a list and a fraction say which pictures are labelled."""
        for stage in cell.recipe.stages:
            if self.labelled_list is not None and stage.labelled_fraction < 1:
                raise ConfigError(
                    f"{cell.path.name}: the labelled pictures are those of {self.labelled_list.path}, but stage "
                    f"{stage.name!r} has labelled_fraction={stage.labelled_fraction:g}. Give one of them."
                )

    def _paths(self, cell: Trial) -> tuple[Path, Path]:
        return cell.path / f"study-{self.split}.json", cell.path / f"study-{self.split}.npz"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a cell's folder against other processes; the system lets go of it when this one ends, however it ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        stream = (path / ".lock").open("w")
    except OSError as error:
        raise CheckpointError(f"cannot write the run folder {path}: {error}.") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{path} is being made by another process") from None
        except OSError:  # a file system without locks
            pass
        yield


def _refuse_other(cell: Trial, manifest: Manifest, listed: LabelledList | None) -> None:
    """Raise where the folder of a cell holds something else; a field that is newer than the run has its default."""
    path = cell.path / RECIPE
    if not path.exists():
        return
    try:
        kept = load_recipe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TextMaskError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}. Remove the folder, or give another --out."
        ) from error
    if kept != cell.recipe:
        fields = (
            name
            for name in type(cell.recipe).model_fields
            if getattr(kept, name, None) != vars(cell.recipe)[name]
        )
        raise ConfigError(
            f"{cell.path} holds a run of other settings (it differs in {', '.join(fields)}). A study never mixes them: "
            "ask for the same settings again, or give another --out."
        )
    data_hash, found = manifest.hash(), read_record(cell.path).data.get("hash")
    if found != data_hash:
        raise DataError(
            f"{cell.path} was trained on another table (sha256 {str(found)[:12]}, this one is {data_hash[:12]}). "
            "Give the same data and options, or another --out."
        )
    keys = [manifest.key(row) for row in manifest.rows_of("train")]
    labelled: dict[str, Sequence[int] | np.ndarray] = {}
    for stage in cell.recipe.stages:
        labelled[stage.name] = (
            listed.indices
            if listed
            else labelled_indices(keys, stage.labelled_fraction, cell.recipe.seed)
        )
    refuse_other_labels(cell.path, keys, labelled)
