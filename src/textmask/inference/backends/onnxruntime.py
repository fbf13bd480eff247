"""ONNX Runtime: runs exported graphs, and turns them into int8."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, ConfigError

Feed = Mapping[str, np.ndarray]
QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # what costs; all else stays in fp32


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "ONNX Runtime is not installed: pip install 'textmask[export]'."
        ) from error
    return onnxruntime


class OnnxGraph:
    """A graph run by ONNX Runtime on the CPU; may be called from several threads.

    Args:
        path: of the .onnx file.
        threads: within one call.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: the file is damaged.
    """

    def __init__(self, path: Path, threads: int) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime has an exception class of its own for each cause
            raise CheckpointError(
                f"ONNX Runtime cannot read {path}: {error}. Export the run again."
            ) from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def __call__(self, feed: Feed) -> list[np.ndarray]:
        """Arrays by name (more than needed do no harm) -> the outputs in order."""
        found: list[np.ndarray] = self._session.run(
            None, {name: feed[name] for name in self.inputs}
        )
        return found

    @property
    def shapes(self) -> dict[str, tuple[str, list[int | str]]]:
        """Element type and shape of each input and output; a free axis is named."""
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        return {
            v.name: (v.type.removeprefix("tensor(").removesuffix(")"), list(v.shape))
            for v in values
        }


def quantise(
    path: Path, out: Path, feeds: Sequence[Feed], *, keep_first: bool, kept: Sequence[str] = ()
) -> None:
    """Write an int8 graph: weights per channel, what enters a convolution or matrix product per tensor.

    Ranges are those seen in `feeds`. Results of products stay in fp32, so that a sum of branches loses nothing, and so
    does a product of two activations.

    Args:
        path: fp32 graph.
        out: file to write.
        feeds: inputs of the graph by name, one picture each.
        keep_first: leave the first convolution in fp32: what it makes of a picture everything else reads.
        kept: starts of the names of further nodes that stay in fp32.
    """
    _onnxruntime()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, names: Sequence[str]) -> None:
            self.feeds: Iterator[Feed] = iter(
                [{name: feed[name] for name in names} for feed in feeds]
            )

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    prepared = out.with_name(out.stem + ".prepared.onnx")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # a warning for every vector that has no channels
    try:
        quant_pre_process(str(path), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            Reader(OnnxGraph(prepared, 1).inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,  # symmetric: no zero point to subtract, which OpenVINO does in fp32
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=_excluded(prepared, keep_first, kept),
            extra_options={
                "OpTypesToExcludeOutputQuantization": list(QUANTISED),
                "ActivationSymmetric": True,
            },
        )
    finally:
        logging.root.setLevel(level)
        prepared.unlink(missing_ok=True)


def _excluded(path: Path, keep_first: bool, kept: Sequence[str]) -> list[str]:
    """Nodes that stay in fp32: the first convolution, those named, and products of two activations."""
    from onnx import load  # comes with the same extra

    graph = load(str(path)).graph
    constants = {tensor.name for tensor in graph.initializer}
    first = [node.name for node in graph.node if node.op_type == "Conv"][: int(keep_first)]
    return first + [
        node.name
        for node in graph.node
        if node.name.startswith(tuple(kept))
        or (node.op_type in ("MatMul", "Gemm") and not constants.intersection(node.input))
    ]
