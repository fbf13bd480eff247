"""Weights on disk and runs read back. Safetensors and JSON only, never a pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textmask.config import Recipe
from textmask.errors import CheckpointError
from textmask.io.files import file_sha256, read_json, replacing, what_to_do
from textmask.methods.base import Method
from textmask.methods.registry import build_method, load_recipe
from textmask.nn.text_cache import TextCache
from textmask.runs.averaged import AveragedMethod
from textmask.runs.data_options import DataOptions
from textmask.runs.layout import ENSEMBLE, is_ensemble, member_folder, weights_file
from textmask.runs.record import RunRecord, read_record, stored_options, stored_source
from textmask.runs.session import Session, find_device

# one entry: safetensors writes several in a random order, and equal weights would hash differently
METADATA = "textmask"
CHECKSUM = "checksum"  # in the metadata: of the tensors of the same file


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
        return weights_file(self.path)

    @property
    def options(self) -> DataOptions:
        """How its data were read, see `stored_options`."""
        return stored_options(self.data)

    @property
    def source(self) -> Path | None:
        """Where its data were, see `stored_source`."""
        return stored_source(self.data)

    def session(self, device: str | None = None) -> Session:
        """The method on a device, ready to run; None leaves it where it is. See `Session`."""
        return Session(self.method, self.recipe, device)


def load_run(run: Path | str, device: str = "cpu") -> Run:
    """Read a run folder, or one made by `textmask export --target hf`, back with its chosen weights.

    Args:
        run: the folder; `default` is the bundled model.
        device: where the method is put: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: the device is unknown, or this machine does not have it; nothing is read then.
        CheckpointError: not a run folder, no weights yet, or weights that are damaged, not finite or do not fit.
    """
    # before anything is read: a wrong device is answered at once
    find_device(device)
    record = read_record(run)
    recipe = load_recipe(json.dumps(record.recipe))
    if is_ensemble(record.path):
        averaged = AveragedMethod(_member_methods(record.path))
        ensemble = Run(record.path, recipe, averaged.eval(), record.data, record.result)
        ensemble.session(device)
        return ensemble
    _check_hash(weights_file(record.path), record)
    tensors, metadata = read_tensors(weights_file(record.path))

    # a run that is read back predicts; it is never trained further
    method = build_method(recipe)
    load_weights(method, tensors, metadata, recipe)
    method.eval().requires_grad_(False)

    found = Run(record.path, recipe, method, record.data, record.result)
    found.session(device)
    return found


def _member_methods(path: Path) -> list[Method]:
    """The methods of an ensemble.

    Raises:
        CheckpointError: a member is damaged, or is not the one that the ensemble was made of.
    """
    described = read_json(path / ENSEMBLE).get("members")
    if not isinstance(described, list) or not described:
        raise CheckpointError(
            f"{path / ENSEMBLE} lists no members. Make the ensemble again with textmask ensemble."
        )

    methods = []
    for number, member in enumerate(described, start=1):
        folder = member_folder(path, number)
        if is_ensemble(folder):
            raise CheckpointError(f"{folder} is an ensemble, expected a run.")
        run = load_run(folder)
        expected = member.get("weights_sha256") if isinstance(member, dict) else None
        if (found := file_sha256(run.weights)) != expected:
            raise CheckpointError(
                f"the sha256 of {run.weights} is {found}, expected {expected}. Make the ensemble again with "
                "textmask ensemble."
            )
        methods.append(run.method)
    return methods


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: the file.
        tensors: from any device; stored contiguous.
        metadata: a JSON object, stored in the header of the file.

    Raises:
        CheckpointError: the disk is full or not writable. An existing file is left unchanged.
    """
    stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # before anything is written: the last good file stays
    check_finite(stored, f"{path} is not written")

    # sorted keys: equal metadata are equal bytes
    text = json.dumps({**metadata, CHECKSUM: tensor_checksum(stored)}, sort_keys=True)
    try:
        with replacing(path) as part:
            save_file(stored, part, metadata={METADATA: text})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}. The previous file is untouched. {what_to_do(_error_number(error))} "
            "Then --resume."
        ) from error


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that contain NaN or an infinite number.

    Args:
        tensors: name -> weights.
        what: beginning of the message, such as "weights.safetensors cannot be used".

    Raises:
        CheckpointError: naming the first of them.
    """
    for name, value in tensors.items():
        if not value.is_floating_point() or bool(torch.isfinite(value).all()):
            continue
        bad = int((~torch.isfinite(value)).sum())
        raise CheckpointError(
            f"{what}: {bad} of {value.numel()} numbers in {name} are NaN or infinite, expected finite numbers. "
            "If this was a training, lower the learning rate and start again; if it was a file, copy it again from "
            "where it was made."
        )


def tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    """Checksum of names, types, shapes and numbers; it finds damage, and is no protection against forgery."""
    found = xxhash.xxh3_128()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return str(found.hexdigest())


def _error_number(error: Exception) -> int | None:
    """The number of a system error; safetensors gives it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _check_hash(path: Path, record: RunRecord) -> None:
    """Compare the weights of a finished run with the sha256 that was stored when it was finished.

    Raises:
        CheckpointError: they differ.
    """
    expected = record.result.get("weights_sha256")
    if expected is None or not path.is_file():
        return
    found = file_sha256(path)
    if found != expected:
        raise CheckpointError(
            f"{path} is not the file that the run has chosen: its sha256 is {found}, expected {expected}. It is "
            "damaged or was replaced. Copy the whole run folder again from where it was made."
        )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by `write_tensors`.

    Raises:
        CheckpointError: missing, a pickle, damaged, truncated, or without metadata of textmask.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist. Is this a run folder, and has it finished an epoch?"
        )

    if path.name == ENSEMBLE:
        raise CheckpointError(
            f"{path.parent} is an ensemble, which has no weights of its own. Name one of its members, such as "
            f"{member_folder(path.parent, 1)}."
        )

    # a safetensors file is 8 bytes of length and a JSON object; the length may begin like a pickle
    with path.open("rb") as stream:
        head = stream.read(9)
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when opened; only safetensors files are read. "
            "Convert it with a tool you trust, or train again."
        )

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if METADATA in header:
                metadata = json.loads(header[METADATA])
            else:  # runs of earlier versions have one entry per key
                metadata = {}
                for key, value in header.items():
                    metadata[key] = json.loads(value)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or truncated ({error}). Copy it again, or --resume the run that wrote it."
        ) from error

    # files of earlier versions have no checksum
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != (found := tensor_checksum(tensors)):
        raise CheckpointError(
            f"{path} is damaged: the checksum of its tensors is {found}, expected {expected}. Copy it again from "
            "where it was made, or train again."
        )
    return tensors, metadata


def load_weights(
    method: Method, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], recipe: Recipe
) -> None:
    """Put weights into a method.

    Raises:
        CheckpointError: they belong to another method, do not fit the recipe, or are not finite.
    """
    # a clear message for what load_state_dict would report key by key
    name = metadata.get("method")
    if name != recipe.method:
        raise CheckpointError(
            f"these weights are of method {name!r}, the recipe says {recipe.method!r}."
        )

    # the frozen text encoder is not in the file, so the installed one must be the same
    fingerprint = text_fingerprint(method)
    if metadata.get("text_encoder") != fingerprint:
        raise CheckpointError(
            f"trained with the frozen text encoder {metadata.get('text_encoder')!r}, this one is {fingerprint!r}. "
            "Install the encoder that the run used."
        )
    # a network with NaN marks nothing, which reads as "nothing found"
    check_finite(tensors, f"the weights of {recipe.method!r} cannot be used")
    try:
        method.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the recipe of {recipe.method!r}: {error}"
        ) from error


def text_fingerprint(method: Method) -> str:
    """Identity of a method's frozen text encoder, "" if it has none: the encoder itself is never stored."""
    encoder = method.text_encoder
    return encoder.fingerprint if isinstance(encoder, TextCache) else ""


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state as flat tensors `optim/<parameter number>/<name>`."""
    packed = {}
    for number, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            packed[f"optim/{number}/{name}"] = torch.as_tensor(value)
    return packed


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` packed."""
    # keys are optim/<parameter number>/<name>; the file also holds other tensors
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim/"):
            _, number, name = key.split("/")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
