"""Import weights from pickles: read in a separate process, checked against a recipe, stored as safetensors."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from textmask.errors import CheckpointError, ConfigError
from textmask.export import unpickle
from textmask.export.monai import DESCRIPTION
from textmask.io.archives import check_archive, safe_extract
from textmask.io.files import file_sha256, read_json, what_to_do, write_json, write_whole
from textmask.io.locks import only_replacer
from textmask.io.staging import staged
from textmask.methods.registry import build_method, load_recipe
from textmask.runs.checkpoint import load_weights, text_fingerprint, write_tensors
from textmask.runs.layout import DATA, RECIPE, RESULT, WEIGHTS

SECONDS = 600


def import_weights(
    source: Path, out: Path, *, recipe: Path | None = None, laterality: str = "unknown"
) -> Path:
    """Create a run folder from a state dict (.pt) or from a MONAI bundle exported by textmask (folder or .zip).

    Args:
        source: file or folder. It is never unpickled in this process.
        out: run folder to create, or one that contains recipe.json and no weights yet.
        recipe: recipe.json of the weights; a bundle and a prepared folder have their own.
        laterality: laterality convention of the training prompts, if nothing else says it.

    Returns:
        The weights file that was written.

    Raises:
        ConfigError: there is no recipe, or `out` already contains weights.
        CheckpointError: the file is not a plain state dict, or does not fit the recipe.
        DataError: the archive is dangerous or damaged.
    """
    if (out / WEIGHTS).exists():
        raise ConfigError(f"{out} already contains weights. Give another folder.")

    with tempfile.TemporaryDirectory() as scratch:
        pickle, described = _opened(source, Path(scratch))
        description = _description_of(described, out, recipe, laterality)
        converted = Path(scratch) / "converted.safetensors"
        unpickled(pickle, converted, source)
        try:
            tensors = load_file(converted)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{source}: the converted weights cannot be read ({error})."
            ) from error

    # the weights must fit a method that is built from the recipe
    chosen = load_recipe(json.dumps(description["recipe"]))
    method = build_method(chosen)
    fingerprint = text_fingerprint(method)
    trained_with = description["text"].get("fingerprint", fingerprint)
    metadata = {
        "method": chosen.method,
        "stage": chosen.stages[-1].name,
        "epoch": -1,
        "text_encoder": trained_with,
    }
    load_weights(method, tensors, metadata, chosen)

    # files that a prepared folder already has are kept; all others appear at once
    convention = description["data"].get("laterality", laterality)
    result = read_json(out / RESULT) if (out / RESULT).exists() else description["result"]
    try:
        with only_replacer(out), staged(out) as folder:
            write_tensors(folder / WEIGHTS, tensors, {**metadata, "laterality": convention})
            if not (out / RECIPE).exists():
                write_whole(folder / RECIPE, chosen.to_json().encode())
            if not (out / DATA).exists():
                write_json(folder / DATA, description["data"])
            if result:
                # the same weights in another file
                sha256 = file_sha256(folder / WEIGHTS)
                write_json(folder / RESULT, {**result, "weights_sha256": sha256})
    except OSError as error:
        raise CheckpointError(
            f"cannot write {out} ({error.strerror}). {what_to_do(error.errno)}"
        ) from error
    return out / WEIGHTS


def _opened(source: Path, scratch: Path) -> tuple[Path, dict[str, Any] | None]:
    """The pickle, and the description of a bundle; None for a state dict."""
    if not source.exists():
        raise CheckpointError(
            f"{source} does not exist. Give a state dict (.pt) or a MONAI bundle (folder or .zip)."
        )

    # an archive may contain the bundle as its only folder
    if source.suffix.lower() == ".zip":
        folder = scratch / "bundle"
        folder.mkdir()
        safe_extract(source, folder)
        inner = [path for path in folder.iterdir() if path.is_dir()]
        source = folder if (folder / DESCRIPTION).exists() or len(inner) != 1 else inner[0]
    if not source.is_dir():
        return source, None

    pickle = source / "models" / "model.pt"
    if not pickle.is_file() or pickle.is_symlink():
        raise CheckpointError(
            f"{source} has no models/model.pt. Expected a MONAI bundle exported by textmask."
        )
    return pickle, read_json(source / DESCRIPTION)


def _description_of(
    described: dict[str, Any] | None, out: Path, recipe: Path | None, laterality: str
) -> dict[str, Any]:
    """`recipe`, `data`, `result` and `text` of the weights, from the bundle or from files."""
    if described is None:
        path = recipe if recipe is not None else out / RECIPE
        if not path.is_file():
            raise ConfigError(
                f"the method of these weights is unknown: {path} does not exist. Give a recipe.json with --recipe."
            )
        data = out / DATA
        described = {
            "recipe": read_json(path),
            "data": read_json(data) if data.exists() else {"laterality": laterality},
        }

    found = {name: described.get(name) or {} for name in ("recipe", "data", "result", "text")}
    if not all(isinstance(value, dict) for value in found.values()):
        raise CheckpointError(
            f"the description in the bundle is damaged: expected objects for {', '.join(found)}."
        )
    return found


def unpickled(pickle: Path, out: Path, source: Path) -> None:
    """Convert a pickled state dict to safetensors.

    A child process without our environment does it, with the restricted reader of torch only.

    Args:
        pickle: file to read.
        out: file to write.
        source: what the user named, for the error messages.

    Raises:
        CheckpointError: the file is not a plain state dict.
        DataError: its archive is dangerous or damaged.
    """
    if zipfile.is_zipfile(pickle):
        check_archive(pickle)
    command = [sys.executable, "-I", str(Path(unpickle.__file__)), str(pickle), str(out)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, env={}
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{source}: reading took more than {SECONDS} s and was stopped."
        ) from None

    if done.returncode or not out.is_file():
        lines = done.stderr.strip().splitlines()
        reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
        raise CheckpointError(
            f"{source} is not a plain state dict and was not opened: {reason}. Ask the author for safetensors, or for "
            "a dict of names and tensors."
        )
