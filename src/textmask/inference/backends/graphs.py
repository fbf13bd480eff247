"""What answers a sentence about a picture: eager torch, or exported graphs in ONNX Runtime or OpenVINO."""

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
MAX_SENTENCES = 20_000  # then the table starts again


class Backend(Protocol):
    """The part of `Method` that prediction needs; every backend has it."""

    def __call__(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its sentences -> logits B 1 H W."""

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
    """Exported graphs in the place of a method; the text tower runs once per distinct sentence.

    Args:
        graphs: `image` and `decoder`, or `model`; and `text` where a graph reads the sentence's words.
        tokenize: of the method's text encoder, where there is one.
    """

    def __init__(
        self, graphs: Mapping[str, Graph], tokenize: Callable[[Text], Text] | None
    ) -> None:
        self.graphs, self._tokenize = graphs, tokenize
        self._rest = graphs[DECODER if IMAGE in graphs else WHOLE]
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its sentences -> logits B 1 H W."""
        return self.decode(None, image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...] | None:
        """What the image tower makes of B pictures; None where the export is one graph."""
        if IMAGE not in self.graphs:
            return None
        return tuple(map(torch.from_numpy, self.graphs[IMAGE]({"image": _array(image)})))

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The features (None computes them), the image and B sentences -> logits."""
        maps = self.image_features(image) if features is None else features
        feed = {"image": _array(image), "zones": _array(text.zones)} | self._words(text)
        feed |= dict(zip(feature_names(len(maps or ())), map(_array, maps or ()), strict=True))
        return Output(torch.from_numpy(self._rest(feed)[0]))

    def _words(self, text: Text) -> dict[str, np.ndarray]:
        """What the text tower says, as inputs of the last graph; nothing where that reads no words."""
        if not set(TEXT_INPUTS) & set(self._rest.inputs):
            return {}
        rows = {
            prompt: self._rows[prompt]
            for prompt in dict.fromkeys(text.prompts)
            if prompt in self._rows
        }
        rows |= self._encoded(
            [prompt for prompt in dict.fromkeys(text.prompts) if prompt not in rows]
        )
        found = [rows[prompt] for prompt in text.prompts]
        tokens = pad_sequence([row for row, _ in found], batch_first=True)
        lengths = torch.tensor([len(row) for row, _ in found])
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        return dict(
            zip(
                TEXT_INPUTS,
                map(_array, (tokens, torch.stack([e for _, e in found]), mask)),
                strict=True,
            )
        )

    def _encoded(self, prompts: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Token vectors without padding and the sentence vector of new sentences, which are remembered."""
        if not prompts:
            return {}
        if self._tokenize is None:
            raise CheckpointError(
                "the exported graph reads words, but the run has no text encoder. Export it again."
            )
        told = self._tokenize(Text(tuple(prompts), torch.zeros(len(prompts), 9)))
        if told.token_ids is None or told.token_mask is None:
            raise ConfigError("the text encoder of the run did not tokenize the sentences.")
        feed = {"token_ids": told.token_ids.numpy(), "token_mask": told.token_mask.numpy()}
        tokens, embedding = map(torch.from_numpy, self.graphs[TEXT](feed))
        new = {
            prompt: (row[real].clone(), vector.clone())
            for prompt, row, vector, real in zip(
                prompts, tokens, embedding, told.token_mask, strict=True
            )
        }
        if len(self._rows) + len(new) > MAX_SENTENCES:
            self._rows = {}
        self._rows.update(new)
        return new


def _array(x: Tensor) -> np.ndarray:
    """A plain row-major array."""
    return np.ascontiguousarray(x.detach().numpy())


def load_graphs(
    files: Mapping[str, Path], engine: str, *, precision: str = "fp32", threads: int | None = None
) -> dict[str, Graph]:
    """Open exported graphs.

    Args:
        files: name -> .onnx file.
        engine: `onnxruntime` or `openvino`.
        precision: of the export; OpenVINO computes what is not int8 in bf16 for `bf16` and `int8`, but for the text
            tower, which stays in fp32: its result is kept.
        threads: within one call; None means as torch does.
    """
    threads = torch.get_num_threads() if threads is None else threads
    if engine == "onnxruntime":
        return {name: OnnxGraph(path, threads) for name, path in files.items()}
    return {
        name: OpenVinoGraph(path, threads, precision != "fp32" and name != TEXT)
        for name, path in files.items()
    }


def graph_backend(run: Run, graphs: Mapping[str, Graph]) -> GraphBackend:
    """Graphs in the place of a run's method."""
    encoder = run.method.text_encoder
    return GraphBackend(graphs, None if encoder is None else encoder.tokenize)


def open_backend(run: Run, name: str, folder: Path | None = None) -> Backend:
    """What answers for a run: its method, or an export of exactly its weights that passed the gate of `export`.

    Args:
        run: the trained run.
        name: `torch`, `onnxruntime` or `openvino`.
        folder: made by `textmask export`; None means `onnx` within the run.

    Raises:
        ConfigError: unknown name, or the package is not installed.
        CheckpointError: no export, of other weights, changed files, or one that this engine may not run.
    """
    choose("backend", name, BACKENDS)
    if name == "torch":
        return run.method
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
    files = {}
    for graph, entry in found["graphs"].items():
        files[graph] = folder / Path(entry["file"]).name
        if not files[graph].is_file() or file_sha256(files[graph]) != entry["sha256"]:
            raise CheckpointError(
                f"{files[graph]} is missing or was changed after the export. Export the run again."
            )
    return graph_backend(run, load_graphs(files, name, precision=found["precision"]))


def feature_names(count: int) -> list[str]:
    """Names of the image's features in the graphs."""
    return [f"feature_{i}" for i in range(count)]
