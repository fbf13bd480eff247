"""Search recipe fields by validation score: one training per trial, remembered in the study folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from textmask.config import Recipe
from textmask.data.manifest import Manifest
from textmask.errors import BusyError, CheckpointError, ConfigError, DataError, TextMaskError
from textmask.io.files import read_json, write_json, write_whole
from textmask.io.locks import only_writer
from textmask.methods.registry import preset_recipe
from textmask.plots.charts import tuning_png
from textmask.runs.layout import RECIPE, RESULT
from textmask.runs.session import fabric_device, find_device
from textmask.studies.grid.runner import StudyOptions
from textmask.studies.grid.search_space import Dimension, Suggests, Value, check_space, setting
from textmask.training.loop import TrainOptions, train

STATE, TABLE, PLOT = "tune.json", "trials.csv", "tune.png"


@dataclass
class TuneTrial:
    """One training of a search.

    Attributes:
        number: from 0.
        values: field -> value.
        score: validation score of the chosen epoch; None while it is not finished.
        error: why the training failed, "" if it did not; a failed trial is not tried again.
    """

    number: int
    values: dict[str, Value]
    score: float | None = None
    error: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.score is not None or bool(self.error)

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return f"trial{self.number:03d}"


@dataclass
class TuneResult:
    """All trials of a search.

    Attributes:
        trials: in the order in which they were suggested.
        metric: the validation metric; higher is better.
    """

    trials: list[TuneTrial] = field(default_factory=list)
    metric: str = ""

    @property
    def best(self) -> TuneTrial:
        """The trial with the highest validation score.

        Raises:
            TextMaskError: every trial failed.
        """
        scored = [trial for trial in self.trials if trial.score is not None]
        if not scored:
            errors = "\n".join(f"  {trial.folder}: {trial.error}" for trial in self.trials)
            raise TextMaskError(f"all {len(self.trials)} trials failed:\n{errors}")
        return max(scored, key=lambda trial: trial.score or 0.0)

    def best_settings(self) -> list[str]:
        """The best values as they are given to `--set`."""
        return [setting(name, value) for name, value in self.best.values.items()]


def tune(
    method: str,
    manifest: Manifest,
    space: Sequence[Dimension],
    out: Path,
    trials: int,
    sampler: Suggests,
    options: StudyOptions | None = None,
) -> TuneResult:
    """Train with suggested values and keep the validation scores; the same call again resumes.

    The test split is not read. Leaves in `out`: a run folder per trial, tune.json (the trials, from which a search is
    resumed), trials.csv (a row per trial) and tune.png. They are rewritten after every trial.

    Args:
        method: name.
        manifest: the data; trained on `train`, scored on `valid`.
        space: the fields and their values.
        out: folder of the study.
        trials: number of trials in all, with those that are already finished.
        sampler: suggests the values of the next trial.
        options: preset, settings, cache, device and the first seed.

    Raises:
        ConfigError: a field or value that the recipe refuses; a folder with another search.
        DataError: no valid rows to score.
        BusyError: another process works in `out`.
        TextMaskError: every trial failed.
    """
    options = options or StudyOptions()
    if trials < 1:
        raise ConfigError(f"got {trials} trials, expected at least 1.")
    find_device(options.device)
    base = preset_recipe(method, options.preset).override(
        *options.settings, f"seed={options.seeds[0]}"
    )
    check_space(base, space)
    if not manifest.splits.get("valid"):
        raise DataError(
            f"{manifest.name or manifest.root}: has no valid rows, by which trials are compared. Use --hold-out 0.2."
        )

    search = {
        "recipe": base.model_dump(mode="json"),
        "data_hash": manifest.hash(),
        "space": [_plain(one) for one in space],
    }
    result = TuneResult(metric=base.select_on)
    with only_writer(out, "tuned"):
        result.trials = _stored_trials(out, search)
        while True:
            # first a trial that was stopped, then new ones
            trial = next((one for one in result.trials if not one.is_done), None)
            if trial is None:
                if len(result.trials) >= trials:
                    break
                finished = [(t.values, t.score) for t in result.trials if t.score is not None]
                values = sampler.suggest(space, finished, len(result.trials))
                trial = TuneTrial(len(result.trials), values)
                result.trials.append(trial)
                _write_study(out, search, result, space)

            recipe = base.override(*(setting(name, value) for name, value in trial.values.items()))
            _train_trial(trial, recipe, manifest, out / trial.folder, options)
            _write_study(out, search, result, space)
            if options.progress is not None:
                options.progress(_trial_line(trial, trials))
        _write_study(out, search, result, space)
    result.best  # noqa: B018  raises if there is none
    return result


def _train_trial(
    trial: TuneTrial, recipe: Recipe, manifest: Manifest, path: Path, options: StudyOptions
) -> None:
    """Train one trial, or read what it left; a training that fails, for example by diverging, is noted."""
    try:
        if not (path / RESULT).exists():
            accelerator, devices = fabric_device(options.device)
            train(
                recipe,
                replace(manifest, root=manifest.root.absolute()),
                path,
                resume=(path / RECIPE).exists(),
                cache_dir=options.cache_dir,
                progress=options.progress is not None,
                allow_empty_text=options.data_options.allow_empty_text,
                options=TrainOptions(
                    accelerator=accelerator,
                    devices=devices,
                    data_options=options.data_options,
                    source=options.source,
                    accept_changes=options.accept_changes,
                ),
            )
        score = read_json(path / RESULT).get(f"valid/{recipe.select_on}")
        if score is None:
            raise ConfigError(
                f"the last stage of {recipe.method} is not validated (select=last), so that trials cannot be compared."
                f" Use --set stages.{recipe.stages[-1].name}.select=metric."
            )
        trial.score = float(score)
    except (BusyError, CheckpointError, DataError, ConfigError):
        raise  # these stop every trial
    except TextMaskError as error:
        trial.error = str(error)


def _stored_trials(out: Path, search: dict[str, Any]) -> list[TuneTrial]:
    """The trials of a folder.

    Raises:
        ConfigError: they are of another search.
        CheckpointError: the file is damaged.
    """
    path = out / STATE
    if not path.exists():
        return []
    stored = read_json(path)
    other = [name for name in search if stored.get(name) != search[name]]
    if other:
        raise ConfigError(
            f"{out} holds a search that differs in {', '.join(other)}. A search never mixes them: give the same "
            "method, data, --over and settings again, or another --out."
        )
    try:
        return [TuneTrial(**trial) for trial in stored["trials"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Remove it and its folder.") from error


def _write_study(
    out: Path, search: dict[str, Any], result: TuneResult, space: Sequence[Dimension]
) -> None:
    """Keep the trials, then the table and the plot that are made from them."""
    write_json(out / STATE, {**search, "trials": [asdict(trial) for trial in result.trials]})

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", *(one.field for one in space), f"valid_{result.metric}", "error"])
    for trial in result.trials:
        score = "" if trial.score is None else trial.score
        error = " ".join(trial.error.split())
        writer.writerow([trial.folder, *(trial.values[one.field] for one in space), score, error])
    write_whole(out / TABLE, stream.getvalue().encode())

    scored = [trial for trial in result.trials if trial.score is not None]
    if scored:
        scores = np.array([trial.score for trial in scored], np.float64)
        panels = []
        for one in space:
            panels.append((one.field, [trial.values[one.field] for trial in scored], one.is_log))
        write_whole(out / PLOT, tuning_png(panels, scores, f"valid {result.metric}"))


def _plain(one: Dimension) -> dict[str, Any]:
    """A dimension as it is read back from JSON."""
    return {**asdict(one), "choices": list(one.choices)}


def _trial_line(trial: TuneTrial, trials: int) -> str:
    values = ", ".join(setting(name, value) for name, value in trial.values.items())
    found = trial.error if trial.score is None else f"validation score {trial.score:.4f}"
    return f"[{trial.number + 1}/{max(trials, trial.number + 1)}] {values}: {found}"
