"""A run folder explains itself: what was asked, on which data and machine, what happened, what was kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from textmask.config import Recipe, write_json
from textmask.data.loaders import SplitData
from textmask.data.manifest import Manifest
from textmask.errors import CheckpointError, ConfigError
from textmask.method import Method, get_method
from textmask.run import checkpoint
from textmask.run.machine import environment


@dataclass(frozen=True)
class RunFolder:
    """Writes recipe.json, data.json, environment.json, splits/, log.jsonl, log.csv, weights, result.json, card.md."""

    path: Path
    recipe: Recipe
    manifest: Manifest

    def open(self, resume: bool) -> bool:
        """Check that the folder may be written; returns whether there is something to resume.

        Raises:
            ConfigError: it holds a run already, or one of another recipe.
            CheckpointError: nothing to resume from.
        """
        recipe_path, last = self.path / "recipe.json", self.path / checkpoint.LAST
        if not resume:
            if recipe_path.exists():
                raise ConfigError(f"{self.path} already holds a run. Use --resume to continue it, or another --out.")
            return False
        if not recipe_path.exists():
            raise CheckpointError(f"{self.path} holds no run to resume. Start it without --resume.")
        if recipe_path.read_text(encoding="utf-8") != self.recipe.to_json():
            raise ConfigError(
                f"{self.path} was started with another recipe. Resume with the one it holds ({recipe_path}), "
                "or start a new run."
            )
        return last.exists()  # killed before the first epoch was saved: starts again

    def describe(self, splits: Mapping[str, SplitData], labelled: Mapping[str, np.ndarray], method: Method) -> None:
        """Write what the run is, before its first step; `labelled` are the train rows each stage may see masks of.

        `method` counts the sentences that its text encoder cuts off.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        try:
            (self.path / "splits").mkdir(parents=True, exist_ok=True)
            for name, data in splits.items():
                self._write_list(name, data.keys)
            keys = splits["train"].keys
            for name, indices in labelled.items():
                if len(indices) < len(keys):
                    self._write_list(f"labelled-{name}", [keys[i] for i in indices])
            write_json(self.path / "environment.json", environment())
            cut = {name: method.too_long(data.prompts) for name, data in splits.items()}
            write_json(self.path / "data.json", self._data(len(keys), labelled) | {"sentences_cut": cut})
            (self.path / "recipe.json").write_text(self.recipe.to_json(), encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write the run folder {self.path}: {error}.") from error

    def weights_path(self, stage: str) -> Path:
        """Chosen weights of a stage; those of the last stage are the run's."""
        last = stage == self.recipe.stages[-1].name
        return self.path / (checkpoint.WEIGHTS if last else f"weights-{stage}.safetensors")

    def save_weights(self, stage: str, method: Method, epoch: int, score: float | None) -> None:
        """Keep a stage's best weights so far; a stage that is not validated has no score."""
        metadata = {
            "method": self.recipe.method,
            "stage": stage,
            "epoch": epoch,
            **self._score(score),
            "text_encoder": checkpoint.text_fingerprint(method),
            "laterality": str(self.manifest.laterality),
            "data": self.manifest.hash(),
        }
        checkpoint.write_tensors(self.weights_path(stage), method.state_dict(), metadata)

    def save_last(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], log: Sequence[dict[str, Any]]) -> None:
        """Everything that `--resume` needs, in one file, then the readable log."""
        checkpoint.write_tensors(self.path / checkpoint.LAST, tensors, {"state": state, "log": log})
        columns = list(dict.fromkeys(key for row in log for key in row))
        try:
            with (self.path / "log.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, columns)
                writer.writeheader()
                writer.writerows(log)
            lines = "".join(json.dumps(row) + "\n" for row in log)
            (self.path / "log.jsonl").write_text(lines, encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write the log in {self.path}: {error}. Free space and --resume.") from error

    def finish(self, epoch: int, score: float | None, seconds: float, variant: str = "") -> None:
        """Write result.json and the card; `variant` names the weights that answer, where a method has several."""
        result = {
            "stage": self.recipe.stages[-1].name,
            "epoch": epoch,
            **({"variant": variant} if variant else {}),
            **self._score(score),
            "seconds": round(seconds, 1),
            "weights_sha256": checkpoint.file_sha256(self.path / checkpoint.WEIGHTS),
        }
        write_json(self.path / "result.json", result)
        card = get_method(self.recipe.method).card
        lines = [
            f"# {self.recipe.method}: {card.title}",
            "",
            f"- data: {self.manifest.name or 'own'} {dict(self.manifest.splits)}, sha256 {self.manifest.hash()}",
            f"- left and right in its sentences: {self.manifest.laterality} side",
            f"- chosen: epoch {epoch}"
            + (f", the {variant}" if variant else "")
            + ("" if score is None else f" by valid {self.recipe.select_on} = {score:.4f}"),
            f"- seed {self.recipe.seed}, {seconds / 60:.1f} minutes",
            f"- paper: {card.paper or 'none, a baseline'}",
            "- research use only: not a medical device, not validated for any clinical use",
            *([f"- limits: {card.limits}"] if card.limits else []),
        ]
        (self.path / "card.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _score(self, score: float | None) -> dict[str, float]:
        return {} if score is None else {f"valid/{self.recipe.select_on}": score}

    def _write_list(self, name: str, keys: Sequence[str]) -> None:
        (self.path / "splits" / f"{name}.txt").write_text("\n".join(keys) + "\n", encoding="utf-8")

    def _data(self, train_rows: int, labelled: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {
            "name": self.manifest.name,
            "hash": self.manifest.hash(),
            "counts": dict(self.manifest.splits),
            "laterality": str(self.manifest.laterality),
            "grammar": self.manifest.grammar,
            "train_rows": train_rows,
            "labelled_rows": {name: len(indices) for name, indices in labelled.items()},
        }


def labelled_names(run: Path, stage: str, train_keys: Sequence[str]) -> list[str]:
    """Train pictures whose masks a stage of a run may see; no list is kept where that is all of them."""
    path = run / "splits" / f"labelled-{stage}.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else list(train_keys)
