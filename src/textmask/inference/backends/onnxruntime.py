"""ONNX Runtime: runs exported graphs and quantizes them to int8."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, ConfigError

Feed = Mapping[str, np.ndarray]
# the expensive operators; everything else stays in fp32
QUANTIZED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "ONNX Runtime is not installed: pip install 'textmask[export]'."
        ) from error
    return onnxruntime


class OnnxGraph:
    """A graph that ONNX Runtime runs on the CPU; may be called from several threads.

    Args:
        path: the .onnx file.
        threads: per call.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: the file is damaged.
    """

    def __init__(self, path: Path, threads: int) -> None:
        # warnings of the runtime are about graphs, which users cannot change
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime raises a different class per cause
            raise CheckpointError(
                f"ONNX Runtime cannot read {path}: {error}. Export the run again."
            ) from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def __call__(self, feed: Feed) -> list[np.ndarray]:
        """Arrays by name (unknown names are ignored) -> the outputs in order."""
        inputs = {name: feed[name] for name in self.inputs}
        outputs: list[np.ndarray] = self._session.run(None, inputs)
        return outputs

    @property
    def shapes(self) -> dict[str, tuple[str, list[int | str]]]:
        """Element type and shape of each input and output; a dynamic axis has a name."""
        found = {}
        for value in [*self._session.get_inputs(), *self._session.get_outputs()]:
            element = value.type.removeprefix("tensor(").removesuffix(")")
            found[value.name] = element, list(value.shape)
        return found


def quantise(
    path: Path, out: Path, feeds: Sequence[Feed], *, keep_first: bool, kept: Sequence[str] = ()
) -> None:
    """Write an int8 graph: weights are quantized per channel, inputs of convolutions and products per tensor.

    Ranges are those seen in `feeds`. Results of products stay in fp32, so that a sum of branches loses nothing.
    Products of two activations stay in fp32 too.

    Args:
        path: fp32 graph.
        out: file to write.
        feeds: inputs of the graph by name, one image each.
        keep_first: leave the first convolution in fp32, because all others depend on its result.
        kept: name prefixes of further nodes that stay in fp32.
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
            self.feeds: Iterator[Feed] = ({name: feed[name] for name in names} for feed in feeds)

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    # the quantizer warns about every vector without channels
    prepared = out.with_name(out.stem + ".prepared.onnx")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        quant_pre_process(str(path), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            Reader(OnnxGraph(prepared, 1).inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # symmetric: OpenVINO would subtract a zero point in fp32
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_excluded(prepared, keep_first, kept),
            extra_options={
                "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
                "ActivationSymmetric": True,
            },
        )
    finally:
        logging.root.setLevel(level)
        prepared.unlink(missing_ok=True)


def _excluded(path: Path, keep_first: bool, kept: Sequence[str]) -> list[str]:
    """Nodes that stay in fp32: the first convolution, those named, and products of two activations."""
    # products with a constant are layers, the others are attention
    graph = _onnx().load(str(path)).graph
    constants = {tensor.name for tensor in graph.initializer}
    excluded = []
    if keep_first:
        excluded += [node.name for node in graph.node if node.op_type == "Conv"][:1]
    for node in graph.node:
        is_product = node.op_type in ("MatMul", "Gemm")
        of_activations = is_product and not constants.intersection(node.input)
        if of_activations or node.name.startswith(tuple(kept)):
            excluded.append(node.name)
    return excluded


def fix_outputs(path: Path, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Write the shapes of the outputs into a graph, which the exporter leaves open.

    Args:
        path: the .onnx file, which is replaced.
        shapes: of each output; a name is a free axis.
    """
    onnx = _onnx()
    model = onnx.load(str(path))
    for value in model.graph.output:
        kind = value.type.tensor_type.elem_type
        fixed = onnx.helper.make_tensor_value_info(value.name, kind, list(shapes[value.name]))
        value.CopyFrom(fixed)
    onnx.save(model, str(path))


def add_metadata(path: Path, facts: Mapping[str, str]) -> None:
    """Write facts into a graph; ONNX Runtime shows them as `get_modelmeta().custom_metadata_map`."""
    onnx = _onnx()
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, str(path))


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("onnx is not installed: pip install 'textmask[export]'.") from error
    return onnx
