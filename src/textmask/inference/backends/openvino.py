"""OpenVINO: runs exported graphs on the CPU, in fp32 unless bf16 is requested."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, ConfigError


class OpenVinoGraph:
    """A graph that OpenVINO runs on the CPU; may be called from several threads.

    Args:
        path: the .onnx file.
        threads: per call.
        bf16: compute in bf16. By default OpenVINO does so on every CPU that supports it, which flips pixels; so the
            hint is always set.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: the file is damaged.
    """

    def __init__(self, path: Path, threads: int, bf16: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ConfigError(
                "OpenVINO is not installed: pip install 'textmask[export]'."
            ) from error
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise CheckpointError(
                f"OpenVINO cannot read {path}: {error}. Export the run again."
            ) from error
        self.inputs = tuple(_name(port) for port in self._compiled.inputs)
        self.outputs = tuple(_name(port) for port in self._compiled.outputs)
        # a request serves one thread
        self._own = threading.local()

    def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays by name (unknown names are ignored) -> the outputs in order."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        inputs = {name: feed[name] for name in self.inputs}
        found = self._own.request.infer(inputs, share_inputs=True)
        return [np.array(found[port]) for port in self._compiled.outputs]


def _name(port: Any) -> str:
    return str(min(port.get_names()))
