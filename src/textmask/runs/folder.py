"""Writing a run folder: what was trained, on which data and machine, what happened, what was kept."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from textmask.config import Recipe
from textmask.data.loaders import SplitData
from textmask.data.manifest import Manifest
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.io.dicom.domain import CHEST_CT, CHEST_RADIOGRAPH
from textmask.io.files import file_sha256, write_json, write_whole
from textmask.methods.base import Method
from textmask.methods.registry import get_method, load_recipe
from textmask.runs import layout
from textmask.runs.checkpoint import text_fingerprint, write_tensors
from textmask.runs.data_options import DataOptions
from textmask.runs.environment import environment
from textmask.runs.record import NAME_HASHES, names_hash, stored_names

# what the images of a data set show, by the grammar of its prompts
DOMAINS = {"qata": CHEST_RADIOGRAPH, "mosmed": CHEST_CT}


@dataclass(frozen=True)
class RunFolder:
    """Writes the files of a run that `textmask.runs.layout` names.

    Attributes:
        path: the folder.
        recipe: what is trained and how.
        manifest: what it is trained on.
        options: how the data were read; stored if given.
        source: where the data are; stored as an absolute path if given.
    """

    path: Path
    recipe: Recipe
    manifest: Manifest
    options: DataOptions | None = None
    source: Path | None = None

    def open(self, resume: bool) -> bool:
        """Check that the folder may be written; returns whether there is something to resume.

        Raises:
            ConfigError: it already contains a run, or a run of another recipe.
            CheckpointError: the run has finished epochs, and the file that holds them is missing.
        """
        # a new run never overwrites another one
        recipe_path = self.path / layout.RECIPE
        if not resume:
            if recipe_path.exists():
                raise ConfigError(
                    f"{self.path} already holds a run. Use --resume to continue it, or another --out."
                )
            return False

        # a job script gives the same command every time
        if not recipe_path.exists():
            return False
        # a field that is newer than the run has its default
        if load_recipe(recipe_path.read_text(encoding="utf-8")) != self.recipe:
            raise ConfigError(
                f"{self.path} was started with another recipe. Resume with the recipe in {recipe_path}, "
                "or start a new run."
            )
        # a run that was killed before its first epoch was saved starts again; any other would be overwritten
        if (self.path / layout.LAST).exists():
            return True
        kept = [name for name in (layout.RESULT, layout.LOG_CSV) if (self.path / name).exists()]
        if kept:
            raise CheckpointError(
                f"{self.path} has finished epochs ({', '.join(kept)}), but {layout.LAST} is missing, so that it "
                "cannot be resumed. Copy the whole run again, or start a new one with another --out."
            )
        return False

    def describe(
        self,
        splits: Mapping[str, SplitData],
        labelled: Mapping[str, np.ndarray],
        method: Method,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what the run is, before its first step.

        Args:
            splits: the data by the name of the split; `train` is one of them.
            labelled: per stage, the numbers of the train rows whose masks it may use.
            method: counts the prompts that its text encoder cuts off.
            more: further entries of data.json.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        keys = splits["train"].keys
        try:
            # which images each split and stage has, for later leak checks
            lists = {name: list(data.keys) for name, data in splits.items()}
            for name, rows in labelled.items():
                if len(rows) < len(keys):
                    lists[f"labelled-{name}"] = [keys[row] for row in rows]
            hashes = write_names(self.path, lists)

            # where and on what
            write_json(self.path / layout.ENVIRONMENT, environment())
            stored = self._stored_data(len(keys), labelled)
            stored["sentences_cut"] = {
                name: method.too_long(data.prompts) for name, data in splits.items()
            }
            stored.update(more or {})
            stored[NAME_HASHES] = hashes
            write_json(self.path / layout.DATA, stored)
            # last: this file makes the folder a run
            write_whole(self.path / layout.RECIPE, self.recipe.to_json().encode())
        except (OSError, DataError) as error:
            raise CheckpointError(f"cannot write the run folder {self.path}: {error}.") from error

    def weights_path(self, stage: str) -> Path:
        """Chosen weights of a stage; those of the last stage are the weights of the run."""
        if stage == self.recipe.stages[-1].name:
            return self.path / layout.WEIGHTS
        return layout.stage_weights(self.path, stage)

    def save_weights(self, stage: str, method: Method, epoch: int, score: float | None) -> None:
        """Save the best weights of a stage so far; a stage that is not validated has no score."""
        metadata = {
            "method": self.recipe.method,
            "stage": stage,
            "epoch": epoch,
            **self._score(score),
            "text_encoder": text_fingerprint(method),
            "laterality": str(self.manifest.laterality),
            "data": self.manifest.hash(),
        }
        write_tensors(self.weights_path(stage), method.state_dict(), metadata)

    def save_last(
        self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], log: Sequence[dict[str, Any]]
    ) -> None:
        """Save everything that `--resume` needs in one file, then the readable log.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        stored = {"state": state, "log": log, "recipe": self.recipe.to_json()}
        write_tensors(self.path / layout.LAST, tensors, stored)
        self.write_log(log)

    def write_log(self, log: Sequence[dict[str, Any]]) -> None:
        """Write the log that people read; the one in the checkpoint is the original.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        # rows differ in their columns: not every epoch is validated
        columns: dict[str, None] = {}
        for row in log:
            columns.update(dict.fromkeys(row))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(columns))
        writer.writeheader()
        writer.writerows(log)

        lines = "".join(json.dumps(row) + "\n" for row in log)
        try:
            write_whole(self.path / layout.LOG_CSV, stream.getvalue().encode())
            write_whole(self.path / layout.LOG, lines.encode())
        except DataError as error:
            raise CheckpointError(
                f"cannot write the log in {self.path}: {error}. Free space and --resume."
            ) from error

    def finish(self, epoch: int, score: float | None, seconds: float, variant: str = "") -> None:
        """Write result.json and the card.

        Args:
            epoch: the chosen epoch.
            score: its validation score; None if the last stage is not validated.
            seconds: of training.
            variant: the weights that predict, for a method that has several.
        """
        result: dict[str, Any] = {"stage": self.recipe.stages[-1].name, "epoch": epoch}
        if variant:
            result["variant"] = variant
        result.update(self._score(score))
        result["seconds"] = round(seconds, 1)
        result["weights_sha256"] = file_sha256(self.path / layout.WEIGHTS)
        write_json(self.path / layout.RESULT, result)

        # the same in words
        card, manifest = get_method(self.recipe.method).card, self.manifest
        chosen = f"epoch {epoch}" + (f", the {variant}" if variant else "")
        if score is not None:
            chosen += f" by valid {self.recipe.select_on} = {score:.4f}"
        lines = [
            f"# {self.recipe.method}: {card.title}",
            "",
            f"- data: {manifest.name or 'own'} {dict(manifest.splits)}, sha256 {manifest.hash()}",
            f"- left and right in its prompts: {manifest.laterality} side",
            f"- chosen: {chosen}",
            f"- seed {self.recipe.seed}, {seconds / 60:.1f} minutes",
            f"- paper: {card.paper or 'none, a baseline'}",
            "- research use only: not a medical device, not validated for any clinical use",
        ]
        if card.limits:
            lines.append(f"- limits: {card.limits}")
        write_whole(self.path / layout.CARD, ("\n".join(lines) + "\n").encode())

    def _score(self, score: float | None) -> dict[str, float]:
        return {} if score is None else {f"valid/{self.recipe.select_on}": score}

    def _stored_data(self, train_rows: int, labelled: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The content of data.json but for the prompts that are cut."""
        # what `--resume` and `evaluate` need to read the same data again
        stored: dict[str, Any] = {}
        if self.options is not None:
            stored["options"] = self.options.as_json()
        if self.source is not None:
            stored["source"] = str(self.source.absolute())

        # what the data are
        stored["name"] = self.manifest.name
        stored["hash"] = self.manifest.hash()
        stored["counts"] = dict(self.manifest.splits)
        stored["laterality"] = str(self.manifest.laterality)
        stored["grammar"] = self.manifest.grammar
        if self.manifest.grammar in DOMAINS:
            stored["domain"] = DOMAINS[self.manifest.grammar].as_json()
        stored["train_rows"] = train_rows
        stored["labelled_rows"] = {name: len(rows) for name, rows in labelled.items()}
        return stored


def write_names(run: Path, lists: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write lists of image names, one per line; returns the hash of each, which belongs into data.json."""
    (run / layout.SPLITS).mkdir(parents=True, exist_ok=True)
    for name, names in lists.items():
        write_whole(layout.split_list(run, name), ("\n".join(names) + "\n").encode())
    return {name: names_hash(names) for name, names in lists.items()}


def labelled_names(run: Path, stage: str, train_keys: Sequence[str]) -> list[str]:
    """Train images whose masks a stage of a run may use; no list is stored if these are all of them."""
    return stored_names(run, f"labelled-{stage}") or list(train_keys)
