"""Write a trained method as ONNX graphs: image tower, text tower, decoder; or one graph if the method has no split."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn

from textmask.data.loaders import build_text
from textmask.errors import ConfigError
from textmask.inference.backends.graphs import DECODER, IMAGE, TEXT, WHOLE, feature_names
from textmask.inference.backends.onnxruntime import fix_outputs
from textmask.methods.base import Method
from textmask.nn.text_cache import TextCache
from textmask.nn.text_encoders import TextEncoder
from textmask.text.grammar import parse
from textmask.types import Image, Output, Text, TextFeatures

OPSET = 17
EXAMPLES = (
    "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung.",
    "lower left lung.",
)
Axes = dict[str, dict[int, str]]


class _Given(nn.Module):
    """Replaces the text encoder, whose output is an input of the graph."""

    features: TextFeatures | None = None

    def forward(self, text: Text) -> TextFeatures | None:
        return self.features


class _ImageTower(nn.Module):
    """Image -> features."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Image) -> tuple[Tensor, ...] | None:
        return self.method.image_features(image)


class _Rest(nn.Module):
    """Image, text features, zones and, if the method has a split, image features -> logits."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = deepcopy(method)
        self.given = _Given()
        if method.text_encoder is not None:
            self.method.set_submodule("text_encoder", self.given)

    def forward(
        self,
        image: Image,
        tokens: Tensor,
        embedding: Tensor,
        token_mask: Tensor,
        zones: Tensor,
        *features: Tensor,
    ) -> Tensor:
        self.given.features = TextFeatures(tokens, embedding, token_mask)
        text = Text(("",) * len(EXAMPLES), zones, token_mask=token_mask)
        found: Output = (
            self.method.decode(features, image, text) if features else self.method(image, text)
        )
        return found.logits


class _TextTower(nn.Module):
    """Token ids -> token vectors and text vector, standardized if the method does so."""

    def __init__(self, encoder: TextEncoder | TextCache) -> None:
        super().__init__()
        self.encoder = encoder.encoder if isinstance(encoder, TextCache) else encoder
        self.standards = (
            (encoder.embedding_mean, encoder.embedding_std)
            if isinstance(encoder, TextCache) and encoder.standardise
            else None
        )

    def forward(self, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        found: TextFeatures = self.encoder(
            Text(("",) * len(EXAMPLES), torch.zeros(2, 9), token_ids, token_mask)
        )
        embedding = found.text_embedding
        if self.standards is not None:
            embedding = (embedding - self.standards[0]) / self.standards[1]
        return found.text_tokens, embedding


def write_graphs(
    method: Method, size: tuple[int, int], folder: Path, split: bool = True
) -> dict[str, Path]:
    """Write the graphs of a method in eval mode. Batch size and number of tokens are free, the image size is fixed.

    Args:
        method: on the CPU.
        size: rows and columns of the image.
        folder: existing folder.
        split: False writes one graph even if the method has separate image features.

    Returns:
        Files by name: `image` and `decoder`, or `model`; and `text` if there is a text encoder.

    Raises:
        ConfigError: the words of a prompt decide what is computed, which no fixed graph can do.
    """
    if method.reads_words:
        raise ConfigError(
            f"{type(method).__name__} cannot be exported: its prompts are programs, and each computes something else. "
            "Use the run itself (backend torch), or export a method that reads prompts as vectors, such as mmi_unet."
        )
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(len(EXAMPLES), 3, *size, generator=generator)
    text = build_text(EXAMPLES, tuple(map(parse, EXAMPLES)))
    encoder = method.text_encoder
    features: tuple[Tensor, ...] = ()
    written: dict[str, Path] = {}

    with torch.no_grad():
        maps = method.image_features(image) if split else None
        if maps is not None:
            features = maps
            outputs: Axes = {key: {} for key in feature_names(len(features))}
            tower = _ImageTower(method)
            written[IMAGE] = _trace(tower, (image,), {"image": {}}, outputs, folder / IMAGE)

        # without an encoder the text inputs are placeholders, which the exporter drops
        if encoder is None:
            token_mask = torch.ones(2, 4, dtype=torch.bool)
            words = TextFeatures(torch.zeros(2, 4, 8), torch.zeros(2, 8), token_mask)
        else:
            words = encoder(text)
        inputs: Axes = {
            "image": {},
            "text_tokens": {1: "tokens"},
            "text_embedding": {},
            "token_mask": {1: "tokens"},
            "zones": {},
        }
        for key in feature_names(len(features)):
            inputs[key] = {}
        rest = DECODER if features else WHOLE
        given = (image, *words, text.zones, *features)
        written[rest] = _trace(_Rest(method), given, inputs, {"logits": {}}, folder / rest)

        if encoder is not None:
            tokens = encoder.tokenize(text)
            free: Axes = {"token_ids": {1: "tokens"}, "token_mask": {1: "tokens"}}
            out: Axes = {"text_tokens": {1: "tokens"}, "text_embedding": {}}
            ids = (tokens.token_ids, tokens.token_mask)
            written[TEXT] = _trace(_TextTower(encoder), ids, free, out, folder / TEXT)
    return written


def _trace(
    module: nn.Module, given: Sequence[Any], inputs: Axes, outputs: Axes, path: Path
) -> Path:
    """Trace a module; every input and output has a free batch axis in addition to the named axes.

    The tracing exporter is deprecated, but it exports all methods with a free batch size and number of tokens, in a
    tenth of the time. The newer exporter fails for methods that read the number of tokens.
    """
    path = path.with_suffix(".onnx")
    axes: dict[str, dict[int, str]] = {}
    for named in (inputs, outputs):
        for name, more in named.items():
            axes[name] = {0: "batch", **more}

    with warnings.catch_warnings(), _unchecked():
        warnings.simplefilter("ignore")  # about numbers that become constants, and the deprecation
        torch.onnx.export(
            module.eval(),  # the exporter keeps the mode
            tuple(given),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        found = module(*given)

    # the exporter leaves the outputs open, except for the named axes
    arrays = [found] if isinstance(found, Tensor) else list(found)
    shapes: dict[str, list[int | str]] = {}
    for name, array in zip(outputs, arrays, strict=True):
        shape: list[int | str] = list(array.shape)
        for axis, word in axes[name].items():
            shape[axis] = word
        shapes[name] = shape
    fix_outputs(path, shapes)
    return path


@contextmanager
def _unchecked() -> Iterator[None]:
    """Disable shape checks, which expect numbers instead of the tensors of tracing."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
