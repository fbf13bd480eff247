"""Trials of a study (arm, seed, labelled fraction): each is one run folder and one result row, made once."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textmask.config import Recipe
from textmask.data.loaders import open_split
from textmask.data.manifest import Manifest
from textmask.errors import ConfigError, DataError, TextMaskError
from textmask.evaluation.protocol import refuse_leaks
from textmask.evaluation.records import ListRecord
from textmask.evaluation.scoring import Scored, Scorer, overlap_of
from textmask.evaluation.summary import read_typed, write_typed
from textmask.evaluation.tables import DISTANCES
from textmask.io.files import file_sha256, read_json
from textmask.io.locks import only_writer
from textmask.methods.registry import Arm, build_method, load_recipe
from textmask.metrics.overlap import Counts
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.data_options import DataOptions
from textmask.runs.layout import LOG, RECIPE, RESULT, WEIGHTS
from textmask.runs.record import read_record
from textmask.runs.session import fabric_device
from textmask.studies.grid.summary import FinishedTrial, TrialRow
from textmask.training.labels import indices_from_list, labelled_indices, refuse_other_labels
from textmask.training.loop import TrainOptions, train


@dataclass(frozen=True)
class Trial:
    """One training of a study; `settings` are all overrides that made its recipe from the preset."""

    arm: Arm
    seed: int
    recipe: Recipe
    settings: tuple[str, ...]
    path: Path

    @property
    def fraction(self) -> float:
        """Share of the train split that keeps its masks in the last stage, 0 to 1."""
        return self.recipe.stages[-1].labelled_fraction


@dataclass(frozen=True)
class LabelledList:
    """A published list of labelled images: the only ones of the `train_rows` of train that keep their masks."""

    path: Path
    sha256: str
    indices: tuple[int, ...]
    train_rows: int

    @classmethod
    def read(cls, path: Path, manifest: Manifest) -> LabelledList:
        """Find the names of a text file among the train rows.

        Raises:
            DataError: the file cannot be read, or names an image that is not in train.
        """
        keys = [manifest.key(row) for row in manifest.rows_of("train")]
        try:
            sha256, indices = file_sha256(path), indices_from_list(path, keys)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: the list of labelled images cannot be read: {error}."
            ) from error
        return cls(path, sha256, tuple(indices.tolist()), len(keys))

    def record(self) -> ListRecord:
        """What the protocol says of it."""
        return ListRecord(
            file=self.path.name,
            sha256=self.sha256,
            rows=len(self.indices),
            train_rows=self.train_rows,
        )


@dataclass(frozen=True)
class TrialSet:
    """Trials, and what they share.

    Trials know nothing of each other, so that they may run in any order and on any machine; the order here is that of
    the plan.

    Attributes:
        trials: of the study.
        manifest: of the data.
        split: predicted and scored.
        base: recipe of the preset; all trials are scored against masks of its image size.
        cache_dir: folder of the decoded images.
        labelled_list: labelled images of every trial; None leaves them to each recipe's fraction and seed.
        device: device of training and prediction; see `runs.session.find_device`.
        data_options: how the data were read; kept in each run.
        source: path of the data; kept in each run.
        accept_changes: resume stopped trainings although data or machine differ, see `TrainOptions`.
    """

    trials: tuple[Trial, ...]
    manifest: Manifest
    split: str
    base: Recipe
    cache_dir: Path | None
    labelled_list: LabelledList | None = None
    device: str = "auto"
    data_options: DataOptions = field(default_factory=DataOptions)
    source: Path | None = None
    accept_changes: bool = False

    def check(self) -> None:
        """Find out before hours of training what would stop it.

        Raises:
            ConfigError: a folder holds a run with other settings; a labelled list and a labelled fraction are given.
            DataError: a folder holds a run on other data or other labelled images; the split cannot be scored.
            WeightsError: a text or image encoder of a trial is not installed.
        """
        rows = self.manifest.rows_of(self.split)
        built = set()
        for trial in self.trials:
            refuse_leaks(trial.path, rows, self.split)
            self._refuse_list_and_fraction(trial)
            _refuse_other_run(trial, self.manifest, self.labelled_list)
            self._refuse_other_content(trial)

            # building once per arm shows whether all encoders are here
            if trial.arm.name not in built and not (trial.path / RESULT).exists():
                built.add(trial.arm.name)
                build_method(trial.recipe)

    def decode(self) -> None:
        """Decode the images of all trials, so that processes which share the cache do not each do it."""
        sizes = {self.base.image_size, *(trial.recipe.image_size for trial in self.trials)}
        for split in dict.fromkeys(("train", "valid", self.split)):
            for size in sorted(sizes):
                open_split(self.manifest, split, size, self.cache_dir)

    def content(self, split: str) -> str:
        """Hash of the rows of a split and of what their files contain."""
        return open_split(self.manifest, split, self.base.image_size, self.cache_dir).content

    def _refuse_other_content(self, trial: Trial) -> None:
        """Raise if a trial was trained on images or masks that have changed since."""
        if not (trial.path / RECIPE).exists():
            return
        for split, stored in read_record(trial.path).data.get("identity", {}).items():
            if split in self.manifest.splits and stored.get("content") != self.content(split):
                raise DataError(
                    f"{trial.path} was trained on other content of split {split}: images, masks or prompts have "
                    "changed since. A study never mixes them: restore the data, or give another --out."
                )

    def read(self, trial: Trial) -> FinishedTrial | None:
        """The result of a finished trial; None if it still has to be trained or scored."""
        row_path, images_path = self._paths(trial)
        result = trial.path / RESULT
        if not (row_path.exists() and result.exists()):
            return None

        row = read_typed(row_path, TrialRow)
        if row.weights_sha256 != read_json(result).get("weights_sha256"):
            return None
        try:
            with np.load(io.BytesIO(images_path.read_bytes())) as file:
                scored_on = json.loads(str(file["key"])).get("content")
                if scored_on not in (None, self.content(self.split)):
                    return None
                counts = Counts(file["intersection"], file["predicted"], file["true"])
                distances = {"hd95_pooled_px": file["hd95_pooled"], "assd_px": file["assd"]}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # stopped while writing
        return FinishedTrial(row, counts, distances)

    def make(self, trial: Trial, bar: bool = False) -> FinishedTrial:
        """Train a trial (resume it if it was stopped), predict the split once, and leave its row.

        Args:
            trial: of this set.
            bar: draw the progress bar of the training.

        Raises:
            BusyError: another process is training it.
            CheckpointError: the trial cannot be written or read.
            DataError: the file of the labelled list has changed.
        """
        with only_writer(trial.path, "trained"):
            finished = self.read(trial)
            if finished is not None:
                return finished
            self._train(trial, bar)
            return self._score(trial)

    def _train(self, trial: Trial, bar: bool) -> None:
        listed = self.labelled_list
        if listed is not None and LabelledList.read(listed.path, self.manifest) != listed:
            raise DataError(
                f"{listed.path} changed while the study ran. Restore it, or give another --out."
            )

        if not (trial.path / RESULT).exists():
            accelerator, devices = fabric_device(self.device)
            train(
                trial.recipe,
                self.manifest,
                trial.path,
                resume=(trial.path / RECIPE).exists(),
                cache_dir=self.cache_dir,
                labelled_list=None if listed is None else listed.path,
                progress=bar,
                allow_empty_text=self.data_options.allow_empty_text,
                options=TrainOptions(
                    accelerator=accelerator,
                    devices=devices,
                    data_options=self.data_options,
                    source=self.source,
                    accept_changes=self.accept_changes,
                ),
            )

    def _score(self, trial: Trial) -> FinishedTrial:
        """Predict the split and leave the row of a trained trial."""
        refuse_leaks(trial.path, self.manifest.rows_of(self.split), self.split)
        run = load_run(trial.path, self.device)
        masks = open_split(self.manifest, self.split, self.base.image_size, self.cache_dir)
        sized = open_split(self.manifest, self.split, run.recipe.image_size, self.cache_dir)

        scorer = Scorer(self.manifest, self.split, masks, cache_dir=self.cache_dir)
        batches = scorer.predict(trial.arm.name, run, sized)
        scored = scorer.score(trial.arm.name, run, batches, sized.prompts)
        row = self._row(trial, run, scored)

        row_path, images_path = self._paths(trial)
        scorer.store(scored, images_path)
        write_typed(row_path, row)  # last: it says that the trial is finished
        distances = {name: scored.distances[name] for name in DISTANCES}
        return FinishedTrial(row, scored.counts, distances)

    def _row(self, trial: Trial, run: Run, scored: Scored) -> TrialRow:
        found, listed = overlap_of(scored, self.base.empty_policy), self.labelled_list
        fraction = trial.fraction
        if listed is not None:
            fraction = len(listed.indices) / listed.train_rows

        return TrialRow(
            arm=trial.arm.name,
            title=trial.arm.title,
            seed=trial.seed,
            fraction=fraction,
            split=self.split,
            n=found.n,
            dice_per_image=found.dice_per_image_mean,
            dice_pooled=found.dice_pooled,
            iou_per_image=found.iou_per_image_mean,
            iou_pooled=found.iou_pooled,
            hd95_pooled_px=float(scored.distances["hd95_pooled_px"].mean()),
            assd_px=float(scored.distances["assd_px"].mean()),
            epoch=run.result.get("epoch"),
            steps=_steps_of(trial.path),
            seconds=run.result.get("seconds"),
            commit=read_record(trial.path).environment.get("git_commit", ""),
            method=trial.recipe.method,
            settings=" ".join(trial.settings),
            labelled_list="" if listed is None else listed.path.name,
            labelled_list_sha256="" if listed is None else listed.sha256,
            labelled_rows=run.data["labelled_rows"][trial.recipe.stages[-1].name],
            weights_sha256=file_sha256(trial.path / WEIGHTS),
        )

    def _refuse_list_and_fraction(self, trial: Trial) -> None:
        """Raise if both a list and a fraction say which images are labelled."""
        for stage in trial.recipe.stages:
            if self.labelled_list is not None and stage.labelled_fraction < 1:
                raise ConfigError(
                    f"{trial.path.name}: the labelled images are those of {self.labelled_list.path}, but stage "
                    f"{stage.name!r} has labelled_fraction={stage.labelled_fraction:g}. Give one of them."
                )

    def _paths(self, trial: Trial) -> tuple[Path, Path]:
        return trial.path / f"study-{self.split}.json", trial.path / f"study-{self.split}.npz"


def _steps_of(path: Path) -> int | None:
    """Optimizer steps of a finished training; None if its log is gone."""
    try:
        *_, last = (path / LOG).read_text(encoding="utf-8").splitlines()
        return int(json.loads(last)["step"])
    except (OSError, ValueError, KeyError):
        return None


def _refuse_other_run(trial: Trial, manifest: Manifest, listed: LabelledList | None) -> None:
    """Raise if the folder of a trial holds another run; a field that is newer than the run has its default."""
    path = trial.path / RECIPE
    if not path.exists():
        return
    try:
        kept = load_recipe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TextMaskError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}. Remove the folder, or give another --out."
        ) from error

    if kept != trial.recipe:
        old, new = kept.model_dump(), trial.recipe.model_dump()
        fields = [name for name in new if old.get(name) != new[name]]
        raise ConfigError(
            f"{trial.path} holds a run with other settings (it differs in {', '.join(fields)}). A study never mixes "
            "them: give the same settings again, or another --out."
        )

    # the same settings on other data would be another study
    data_hash, found = manifest.hash(), read_record(trial.path).data.get("hash")
    if found != data_hash:
        raise DataError(
            f"{trial.path} was trained on another manifest (sha256 {str(found)[:12]}, this one has "
            f"{data_hash[:12]}). Give the same data and options, or another --out."
        )

    # a list or a fraction may have chosen other images
    keys = [manifest.key(row) for row in manifest.rows_of("train")]
    labelled: dict[str, Sequence[int] | np.ndarray] = {}
    for stage in trial.recipe.stages:
        if listed is not None:
            labelled[stage.name] = listed.indices
        else:
            fraction, seed = stage.labelled_fraction, trial.recipe.seed
            labelled[stage.name] = labelled_indices(keys, fraction, seed)
    refuse_other_labels(trial.path, keys, labelled)
