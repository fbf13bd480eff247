"""Run folders: what is written, atomically, and how it is read back. Safetensors and JSON only, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textmask.config import Recipe
from textmask.errors import CheckpointError
from textmask.io.files import read_json
from textmask.methods.base import Method
from textmask.methods.registry import build_method, load_recipe
from textmask.nn.text_cache import TextCache

WEIGHTS = "weights.safetensors"
LAST = "last.safetensors"
# one entry: safetensors writes several in a random order, and equal weights would hash differently
METADATA = "textmask"
# the model inside the package, made by `textmask export --target hf`; its README.md is its card
DEFAULT_RUN = Path(__file__).resolve().parents[1] / "default"
HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"  # of a folder as model hubs hold it


@dataclass(frozen=True)
class Run:
    """A trained run, read back: `method` holds the chosen weights and is in eval mode."""

    path: Path
    recipe: Recipe
    method: Method
    data: dict[str, Any]
    result: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The weights file."""
        return _weights(self.path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file; a reader sees the old or the new file, never half of one.

    Raises:
        CheckpointError: the disk is full or not writable; the previous file survives.
    """
    part = path.with_name(path.name + ".part")
    text = json.dumps(dict(metadata), sort_keys=True)
    try:
        save_file(
            {key: value.detach().contiguous() for key, value in tensors.items()},
            part,
            metadata={METADATA: text},
        )
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}. The previous file is untouched; free some space and --resume."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by `write_tensors`.

    Raises:
        CheckpointError: missing, a pickle, truncated, or without our metadata.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist. Is this a run folder, and has it finished an epoch?"
        )
    with path.open("rb") as stream:
        head = stream.read(9)
    # a safetensors file is 8 bytes of length and a JSON object; the length may begin like a pickle
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when opened; only safetensors files are read. "
            "Convert it with a tool you trust, or train again."
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            # runs of earlier versions have one entry a key
            metadata = (
                json.loads(found[METADATA])
                if METADATA in found
                else {k: json.loads(v) for k, v in found.items()}
            )
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or truncated ({error}). Copy it again, or --resume the run that wrote it."
        ) from error


def load_weights(
    method: Method, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], recipe: Recipe
) -> None:
    """Put weights into a method.

    Raises:
        CheckpointError: they are another method's, or do not fit the recipe.
    """
    name = metadata.get("method")
    if name != recipe.method:
        raise CheckpointError(
            f"these weights are of method {name!r}, the recipe says {recipe.method!r}."
        )
    fingerprint = text_fingerprint(method)
    if metadata.get("text_encoder") != fingerprint:
        raise CheckpointError(
            f"trained with the frozen text encoder {metadata.get('text_encoder')!r}, this one is {fingerprint!r}. "
            "Install the encoder that the run used."
        )
    try:
        method.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the recipe of {recipe.method!r}: {error}"
        ) from error


def text_fingerprint(method: Method) -> str:
    """Identity of a method's frozen text encoder, "" when it has none: the tower itself is never stored."""
    encoder = method.text_encoder
    return encoder.fingerprint if isinstance(encoder, TextCache) else ""


def load_run(path: Path | str) -> Run:
    """Read a run folder, or one made by `textmask export --target hf`, back with its chosen weights.

    Raises:
        CheckpointError: not a run folder, no weights yet, or weights that do not fit.
    """
    path = Path(path)
    told = _described(path)
    recipe = load_recipe(json.dumps(told["recipe"]))
    tensors, metadata = read_tensors(_weights(path))
    method = build_method(recipe)
    load_weights(method, tensors, metadata, recipe)
    method.eval().requires_grad_(False)
    return Run(path, recipe, method, told["data"], told["result"])


def is_run(path: Path) -> bool:
    """Whether a folder looks like a run or like one made by `textmask export --target hf`."""
    return (path / "recipe.json").is_file() or _is_hub_folder(path)


def _is_hub_folder(path: Path) -> bool:
    return (path / HUB_CONFIG).is_file() and not (path / "recipe.json").exists()


def _weights(path: Path) -> Path:
    return path / (HUB_WEIGHTS if _is_hub_folder(path) else WEIGHTS)


def _described(path: Path) -> dict[str, dict[str, Any]]:
    """`recipe`, `data` and `result` of a folder."""
    names = ("recipe", "data", "result")
    if not _is_hub_folder(path):
        found = {name: read_json(path / f"{name}.json") for name in names[:2]}
        result = path / "result.json"
        return found | {"result": read_json(result) if result.exists() else {}}
    config = read_json(path / HUB_CONFIG)
    if not all(isinstance(config.get(name), dict) for name in names):
        raise CheckpointError(
            f"{path / HUB_CONFIG} is not one of textmask: it lacks {', '.join(names)}."
        )
    return {name: config[name] for name in names}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser state as flat tensors `optim/<parameter number>/<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optim/{i}/{key}": torch.as_tensor(value)
        for i, entry in state.items()
        for key, value in entry.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` packed."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim/"):
            _, number, name = key.split("/")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
