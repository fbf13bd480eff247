"""`textmask.train` and `textmask.evaluate`: what the commands do, for a program or a notebook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from textmask.config import Recipe, Stage
from textmask.data.manifest import Manifest
from textmask.errors import ConfigError, DataError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.evaluation.summary import EvaluationSummary
from textmask.methods.registry import load_recipe, preset_recipe
from textmask.runs.data_options import DataOptions
from textmask.runs.read_data import read_data
from textmask.runs.record import read_record
from textmask.runs.session import fabric_device, find_device
from textmask.training.loop import TrainOptions, TrainResult, train

DATA_FIELDS = tuple(field.name for field in fields(DataOptions))
EVALUATION_FIELDS = tuple(field.name for field in fields(EvaluationOptions))


def train_on(
    recipe: Recipe | str | Path,
    data: Manifest | Path | str,
    out: Path | str = "runs/run",
    *,
    preset: str = "lite",
    device: str | None = None,
    resume: bool = False,
    cache_dir: Path | None = None,
    labelled_list: Path | None = None,
    progress: bool = True,
    allow_empty_text: bool = False,
    options: TrainOptions | None = None,
    **settings: Any,
) -> TrainResult:
    """Train a method on data and leave a run folder, as `textmask train` does.

    Example: `textmask.train("unet", "data/table.csv", "runs/unet", preset="smoke", epochs=3, seed=1)`

    Args:
        recipe: a recipe, the name of a method, or a recipe file (.json).
        data: a manifest, or data in a known layout (a folder or a table).
        out: the run folder; must not contain a run unless `resume`.
        preset: lite, paper or smoke, for the name of a method.
        device: auto, cpu, cuda, cuda:N or mps; None means auto, or what `options` say.
        resume: continue the run in `out`.
        cache_dir: folder of the decoded images.
        labelled_list: a text file of image names: only these train rows are labelled.
        progress: draw a progress bar.
        allow_empty_text: train a method that reads prompts although most train rows have none.
        options: trackers, time limit, devices.
        settings: fields of the recipe (`seed=1`), of all its stages (`epochs=3`), any field by its path
            (`**{"augment.flip": 0.5}`), and how the data are read (`layout="csv"`, `mask_threshold=127`), see
            `textmask.runs.data_options.DataOptions`.

    Raises:
        ConfigError: a setting is unknown, or the run folder exists and `resume` is off.
        DataError: the data cannot be read, or have no train or valid rows.
        CheckpointError: the disk is full; the previous checkpoint survives.
    """
    data_settings = {name: settings.pop(name) for name in DATA_FIELDS if name in settings}
    if allow_empty_text:
        data_settings["allow_empty_text"] = True
    chosen = _recipe(recipe, preset)
    chosen = chosen.override(*_assignments(chosen, settings))
    manifest, read_with = _read_or_given(data, DataOptions(), data_settings)

    # a run remembers where its data are and how they were read
    options = options or TrainOptions()
    if device is not None:
        find_device(device)
        accelerator, devices = fabric_device(device)
        options = replace(options, accelerator=accelerator, devices=devices)
    if not isinstance(data, Manifest):
        options = replace(options, data_options=read_with, source=Path(data))
    return train(
        chosen,
        manifest,
        Path(out),
        resume=resume,
        cache_dir=cache_dir,
        labelled_list=labelled_list,
        progress=progress,
        allow_empty_text=allow_empty_text,
        options=options,
    )


def evaluate_on(
    run: Path | str,
    data: Manifest | Path | str | None = None,
    split: str = "test",
    options: EvaluationOptions | None = None,
    **settings: Any,
) -> EvaluationSummary:
    """Score a run on a split, next to its baselines, as `textmask evaluate` does.

    Example: `textmask.evaluate("runs/unet", "data/table.csv", "valid", surface=False).to_pandas()`

    Args:
        run: run folder, or `default` for the bundled model, which needs `out`.
        data: a manifest, or data in a known layout; None means the data that the run was trained on. It is read with
            the data options of the run.
        split: name of the split.
        options: the rest, see `EvaluationOptions`.
        settings: fields of `options` (`out="results"`, `native=True`), and data options.

    Raises:
        ConfigError: a setting is unknown.
        DataError: rows of the split were trained on, or have no mask.
        CheckpointError: not a run folder, or the folder of the evaluation cannot be written.
    """
    options = options or EvaluationOptions()
    data_settings = {}
    for name, value in settings.items():
        if name in EVALUATION_FIELDS:
            changed: dict[str, Any] = {name: value}
            if name in ("out", "cache_dir") and value is not None:
                changed[name] = Path(value)
            if name == "beside":
                changed[name] = [Path(path) for path in value]
            if name == "masks":
                changed[name] = {key: Path(path) for key, path in value.items()}
            options = replace(options, **changed)
        elif name in DATA_FIELDS:
            data_settings[name] = value
        else:
            valid = ", ".join((*EVALUATION_FIELDS, *DATA_FIELDS))
            raise ConfigError(f"evaluate has no setting {name!r}. Valid: {valid}.")

    record = read_record(run)
    source = record.source if data is None else data
    if source is None:
        raise DataError(
            f"{run} does not record where its data are. Name them: evaluate(run, data)."
        )
    manifest, _ = _read_or_given(source, record.options, data_settings)
    return evaluate(record.path, manifest, split, options)


def _recipe(recipe: Recipe | str | Path, preset: str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Path):
        raise ConfigError(
            f"got a recipe of type {type(recipe).__name__}, expected a recipe, the name of a method, or a recipe file."
        )
    if str(recipe).endswith(".json"):
        try:
            return load_recipe(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{recipe} cannot be read ({error}).") from error
    return preset_recipe(str(recipe), preset)


def _assignments(recipe: Recipe, settings: Mapping[str, Any]) -> list[str]:
    """Settings as `Recipe.override` reads them; a field of a stage holds for all stages."""
    written = []
    of_stages = set(Stage.model_fields) - set(type(recipe).model_fields) - {"name"}
    for name, value in settings.items():
        path = f"stages.*.{name}" if name in of_stages else name
        try:
            written.append(f"{path}={json.dumps(value)}")
        except TypeError:
            raise ConfigError(
                f"setting {name} is a {type(value).__name__}, expected a number, a text, a list or a mapping."
            ) from None
    return written


def _read_or_given(
    data: Manifest | Path | str, remembered: DataOptions, settings: Mapping[str, Any]
) -> tuple[Manifest, DataOptions]:
    """The data, and how they were read."""
    options = DataOptions.from_json({**remembered.as_json(), **settings})
    if isinstance(data, str | Path):
        return read_data(Path(data), options), options
    if not isinstance(data, Manifest):
        raise DataError(
            f"got data of type {type(data).__name__}, expected a path or a manifest; textmask.data.from_rows makes one."
        )
    unused = [name for name in settings if name != "allow_empty_text"]
    if unused:
        raise ConfigError(
            f"{', '.join(unused)}: applies when data are read from a path; a manifest is read already."
        )
    return data, options
