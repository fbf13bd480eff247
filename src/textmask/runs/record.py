"""What a run says about itself: its JSON files, read without its weights and without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmask.errors import CheckpointError
from textmask.io.files import read_json
from textmask.runs.data_options import DataOptions
from textmask.runs.layout import (
    DATA,
    ENVIRONMENT,
    HUB_CONFIG,
    RECIPE,
    RESULT,
    SPLITS,
    is_hub_folder,
    run_path,
    split_list,
)

NAME_HASHES = "names"  # in data.json: a hash of each list of image names


@dataclass(frozen=True)
class RunRecord:
    """The description of a run folder, or of one made by `textmask export --target hf`.

    Attributes:
        path: the folder.
        recipe: what was trained and how.
        data: what it was trained on.
        result: what was chosen; empty for a run that is not finished.
        environment: where it was trained; empty if that is not recorded.
    """

    path: Path
    recipe: dict[str, Any]
    data: dict[str, Any]
    result: dict[str, Any]
    environment: dict[str, Any]

    @property
    def method(self) -> str:
        """The name of its method."""
        return str(self.recipe.get("method"))

    @property
    def options(self) -> DataOptions:
        """How its data were read, see `stored_options`."""
        return stored_options(self.data)

    @property
    def source(self) -> Path | None:
        """Where its data were, see `stored_source`."""
        return stored_source(self.data)


def read_record(run: Path | str) -> RunRecord:
    """Read what a run says about itself; `default` is the bundled model.

    Raises:
        CheckpointError: not a run folder, or a file is damaged.
    """
    # a run folder: one file per part; the last two may be missing
    path = run_path(run)
    if not is_hub_folder(path):
        result, environment = path / RESULT, path / ENVIRONMENT
        return RunRecord(
            path,
            read_json(path / RECIPE),
            read_json(path / DATA),
            read_json(result) if result.exists() else {},
            read_json(environment) if environment.exists() else {},
        )

    # a hub folder: one file with all parts; hubs store no environment
    config = read_json(path / HUB_CONFIG)
    names = ("recipe", "data", "result")
    if not all(isinstance(config.get(name), dict) for name in names):
        raise CheckpointError(
            f"{path / HUB_CONFIG} was not written by textmask: expected the objects {', '.join(names)}. "
            "Export the run again with --target hf."
        )
    return RunRecord(path, config["recipe"], config["data"], config["result"], {})


def stored_options(data: Mapping[str, Any]) -> DataOptions:
    """How the data of a run were read; the defaults for a run that did not store it.

    Raises:
        DataError: a stored option is not valid.
    """
    return DataOptions.from_json(data.get("options", {}))


def stored_source(data: Mapping[str, Any]) -> Path | None:
    """Where the data of a run were when it was trained; None for a run that did not store it."""
    source = data.get("source")
    return None if source is None else Path(source)


def names_hash(names: Sequence[str]) -> str:
    """SHA-256 (hex) of a list of image names."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def stored_names(run: Path, name: str) -> list[str]:
    """The image names of a list of a run; none for an imported run or a hub folder, which have no lists.

    Args:
        run: the run folder.
        name: of a split, or `labelled-STAGE`.

    Raises:
        CheckpointError: the list is missing or damaged. A leak check that reads less would find less.
    """
    path, description = split_list(run, name), run / DATA
    expected = None
    if description.exists():
        expected = read_json(description).get(NAME_HASHES, {}).get(name)
    if not path.exists() and (expected is None or not (run / SPLITS).is_dir()):
        return []

    advice = "Copy the whole run again from where it was made."
    try:
        names = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {advice}") from error
    if expected not in (None, names_hash(names)):
        raise CheckpointError(
            f"{path} is damaged: the sha256 of its names is not the one in {DATA}. {advice}"
        )
    return names
