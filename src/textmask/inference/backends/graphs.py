"""Backends that predict: eager torch, or exported graphs in ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from textmask.errors import CheckpointError, ConfigError, choose
from textmask.inference.backends.onnxruntime import OnnxGraph
from textmask.inference.backends.openvino import OpenVinoGraph
from textmask.io.files import file_sha256, read_json
from textmask.runs.checkpoint import Run
from textmask.runs.layout import EXPORT, EXPORT_FOLDER
from textmask.types import Image, Output, Text

TEXT_INPUTS = ("text_tokens", "text_embedding", "token_mask")
WHOLE, IMAGE, TEXT, DECODER = "model", "image", "text", "decoder"

BACKENDS = ("torch", "onnxruntime", "openvino")
MAX_PROMPTS = 20_000  # cached encoded prompts; a full cache is emptied


class Backend(Protocol):
    """The part of `Method` that prediction needs; every backend has it."""

    def __call__(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and B prompts -> logits B 1 H W."""

    def image_features(self, image: Image) -> tuple[Tensor, ...] | None:
        """See `Method.image_features`."""

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """See `Method.decode`."""


class Graph(Protocol):
    """An exported graph, ready to run."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays by name -> the outputs in order."""


class GraphBackend:
    """Exported graphs instead of a method; the text encoder runs once per distinct prompt.

    Args:
        graphs: `image` and `decoder`, or `model`; and `text` if a graph reads the words of the prompt.
        tokenize: of the method's text encoder, if it has one.
    """

    def __init__(
        self, graphs: Mapping[str, Graph], tokenize: Callable[[Text], Text] | None
    ) -> None:
        self.graphs, self._tokenize = graphs, tokenize
        self._rest = graphs[DECODER if IMAGE in graphs else WHOLE]
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and B prompts -> logits B 1 H W."""
        return self.decode(None, image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...] | None:
        """Features of B images; None if the export is one graph."""
        if IMAGE not in self.graphs:
            return None
        return tuple(map(torch.from_numpy, self.graphs[IMAGE]({"image": _array(image)})))

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The features (None computes them), the image and B prompts -> logits."""
        # every input that any graph may have; each takes what it names
        maps = self.image_features(image) if features is None else features
        feed = {"image": _array(image), "zones": _array(text.zones)}
        feed.update(self._text_inputs(text))
        for name, value in zip(feature_names(len(maps or ())), maps or (), strict=True):
            feed[name] = _array(value)
        return Output(torch.from_numpy(self._rest(feed)[0]))

    def _text_inputs(self, text: Text) -> dict[str, np.ndarray]:
        """The encoded prompts as inputs of the last graph; nothing if that graph reads no words."""
        if not set(TEXT_INPUTS) & set(self._rest.inputs):
            return {}
        # a batch often repeats a prompt, and a session repeats those of earlier batches
        distinct = list(dict.fromkeys(text.prompts))
        known = {prompt: self._rows[prompt] for prompt in distinct if prompt in self._rows}
        known.update(self._encoded([prompt for prompt in distinct if prompt not in known]))

        # pad to the longest prompt of the batch
        rows = [known[prompt][0] for prompt in text.prompts]
        tokens = pad_sequence(rows, batch_first=True)
        embedding = torch.stack([known[prompt][1] for prompt in text.prompts])
        lengths = torch.tensor([len(row) for row in rows])
        token_mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        return {
            "text_tokens": _array(tokens),
            "text_embedding": _array(embedding),
            "token_mask": _array(token_mask),
        }

    def _encoded(self, prompts: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Token vectors without padding and the vector of each new prompt; both are cached."""
        if not prompts:
            return {}
        if self._tokenize is None:
            raise CheckpointError(
                "the exported graph reads words, but the run has no text encoder. Export it again."
            )
        tokenized = self._tokenize(Text(tuple(prompts), torch.zeros(len(prompts), 9)))
        if tokenized.token_ids is None or tokenized.token_mask is None:
            raise ConfigError("the text encoder of the run did not tokenize the prompts.")
        token_mask = tokenized.token_mask
        feed = {"token_ids": tokenized.token_ids.numpy(), "token_mask": token_mask.numpy()}
        tokens, embedding = map(torch.from_numpy, self.graphs[TEXT](feed))

        # without padding, whose length differs from batch to batch
        new = {}
        for i, prompt in enumerate(prompts):
            new[prompt] = tokens[i][token_mask[i]].clone(), embedding[i].clone()
        if len(self._rows) + len(new) > MAX_PROMPTS:
            self._rows = {}
        self._rows.update(new)
        return new


def _array(x: Tensor) -> np.ndarray:
    """A C-contiguous array."""
    return np.ascontiguousarray(x.detach().numpy())


def load_graphs(
    files: Mapping[str, Path], runtime: str, *, precision: str = "fp32", threads: int | None = None
) -> dict[str, Graph]:
    """Open exported graphs.

    Args:
        files: name -> .onnx file.
        runtime: `onnxruntime` or `openvino`.
        precision: of the export. For `bf16` and `int8` OpenVINO computes what is not int8 in bf16, except the text
            encoder, which stays in fp32 because its result is cached.
        threads: per call; None means the number that torch uses.
    """
    threads = torch.get_num_threads() if threads is None else threads
    if runtime == "onnxruntime":
        return {name: OnnxGraph(path, threads) for name, path in files.items()}
    return {
        name: OpenVinoGraph(path, threads, precision != "fp32" and name != TEXT)
        for name, path in files.items()
    }


def graph_backend(run: Run, graphs: Mapping[str, Graph]) -> GraphBackend:
    """Graphs instead of the method of a run."""
    encoder = run.method.text_encoder
    return GraphBackend(graphs, None if encoder is None else encoder.tokenize)


def open_backend(run: Run, name: str, folder: Path | None = None) -> Backend:
    """The backend of a run: its method, or an export of exactly its weights that passed the gate of `export`.

    Args:
        run: the trained run.
        name: `torch`, `onnxruntime` or `openvino`.
        folder: made by `textmask export`; None means `onnx` inside the run.

    Raises:
        ConfigError: unknown name, or the package is not installed.
        CheckpointError: there is no export, it has other weights or changed files, or it did not pass the gate with
            this runtime.
    """
    choose("backend", name, BACKENDS)
    if name == "torch":
        return run.method

    # an export is used only for the weights that it was made of, and only if it passed
    folder = run.path / EXPORT_FOLDER if folder is None else folder
    if not (folder / EXPORT).is_file():
        raise CheckpointError(
            f"{folder} holds no export for --backend {name}. Make one: "
            f"textmask export {run.path} {folder} --target onnx --data DATA"
        )
    found = read_json(folder / EXPORT)
    if found.get("weights_sha256") != file_sha256(run.weights):
        raise CheckpointError(
            f"{folder} was exported from other weights than {run.weights}. Export the run again."
        )
    if name not in found.get("engines", ()):
        raise CheckpointError(
            f"{folder} may not be run by {name}: it was not checked there, or did not pass. "
            f"Allowed: {', '.join(found.get('engines', ())) or 'none'}."
        )

    # the files that were checked
    files = {}
    for graph, entry in found["graphs"].items():
        files[graph] = folder / Path(entry["file"]).name
        if not files[graph].is_file() or file_sha256(files[graph]) != entry["sha256"]:
            raise CheckpointError(
                f"{files[graph]} is missing or was changed after the export. Export the run again."
            )
    return graph_backend(run, load_graphs(files, name, precision=found["precision"]))


def feature_names(count: int) -> list[str]:
    """Names of the image features in the graphs."""
    return [f"feature_{i}" for i in range(count)]
