"""Weights from pickles: opened in a process of their own, checked against a recipe, kept as safetensors."""

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
from textmask.io.files import read_json, write_json
from textmask.methods.registry import build_method, load_recipe
from textmask.runs.checkpoint import load_weights, text_fingerprint, write_tensors
from textmask.runs.layout import DATA, RECIPE, RESULT, WEIGHTS

SECONDS = 600


def import_weights(
    source: Path, out: Path, *, recipe: Path | None = None, laterality: str = "unknown"
) -> Path:
    """Make a run folder from a state dict (.pt) or from a MONAI bundle of `textmask export` (folder or .zip).

    Args:
        source: file or folder. It is never unpickled in this process.
        out: run folder to make, or one that holds recipe.json and no weights yet.
        recipe: recipe.json of the weights; a bundle and a prepared folder bring theirs.
        laterality: what left means in the sentences they were trained on, where nothing else says it.

    Returns:
        The weights file that was written.

    Raises:
        ConfigError: no recipe, or `out` holds weights already.
        CheckpointError: the file is not a plain state dict, or does not fit the recipe.
        DataError: the archive is dangerous or damaged.
    """
    if (out / WEIGHTS).exists():
        raise ConfigError(f"{out} holds weights already. Name another folder.")
    with tempfile.TemporaryDirectory() as scratch:
        pickle, told = _opened(source, Path(scratch))
        told = _told(told, out, recipe, laterality)
        converted = Path(scratch) / "converted.safetensors"
        _convert(pickle, converted, source)
        try:
            tensors = load_file(converted)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{source}: its weights cannot be read back ({error})."
            ) from error
    chosen = load_recipe(json.dumps(told["recipe"]))
    method = build_method(chosen)
    fingerprint = text_fingerprint(method)
    trained_with = told["text"].get("fingerprint", fingerprint)
    metadata = {
        "method": chosen.method,
        "stage": chosen.stages[-1].name,
        "epoch": -1,
        "text_encoder": trained_with,
    }
    load_weights(method, tensors, metadata, chosen)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(
        out / WEIGHTS,
        tensors,
        metadata | {"laterality": told["data"].get("laterality", laterality)},
    )
    if not (out / RECIPE).exists():
        (out / RECIPE).write_text(chosen.to_json(), encoding="utf-8")
    if not (out / DATA).exists():
        write_json(out / DATA, told["data"])
    if told["result"] and not (out / RESULT).exists():
        write_json(out / RESULT, told["result"])
    return out / WEIGHTS


def _opened(source: Path, scratch: Path) -> tuple[Path, dict[str, Any] | None]:
    """The pickle, and what a bundle says of it."""
    if not source.exists():
        raise CheckpointError(
            f"{source} does not exist. Give a state dict (.pt) or a MONAI bundle (folder or .zip)."
        )
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
            f"{source} has no models/model.pt. Expected a MONAI bundle made by textmask export."
        )
    return pickle, read_json(source / DESCRIPTION)


def _told(
    told: dict[str, Any] | None, out: Path, recipe: Path | None, laterality: str
) -> dict[str, Any]:
    """`recipe`, `data`, `result` and `text` of the weights."""
    if told is None:
        path = recipe if recipe is not None else out / RECIPE
        if not path.is_file():
            raise ConfigError(
                f"which method are these weights of? {path} does not exist; name a recipe.json (--recipe)."
            )
        data = out / DATA
        told = {
            "recipe": read_json(path),
            "data": read_json(data) if data.exists() else {"laterality": laterality},
        }
    found = {name: told.get(name) or {} for name in ("recipe", "data", "result", "text")}
    if not all(isinstance(value, dict) for value in found.values()):
        raise CheckpointError(
            f"the description in the bundle is damaged: expected objects for {', '.join(found)}."
        )
    return found


def _convert(pickle: Path, out: Path, source: Path) -> None:
    """Unpickle in a child, which is told nothing of us and may use torch's restricted reader only."""
    if zipfile.is_zipfile(pickle):
        check_archive(pickle)
    command = [sys.executable, "-I", str(Path(unpickle.__file__)), str(pickle), str(out)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, env={}
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{source}: reading it took more than {SECONDS} seconds and was stopped."
        ) from None
    if done.returncode or not out.is_file():
        lines = done.stderr.strip().splitlines()
        reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
        raise CheckpointError(
            f"{source} is not a plain state dict and was not opened: {reason}. Ask its author for safetensors, or for "
            "a dict of names and tensors."
        )
