"""OpenVINO: runs exported graphs on CPUs, in fp32 unless bf16 is asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from textmask.errors import CheckpointError, ConfigError


class OpenVinoGraph:
    """A graph run by OpenVINO on the CPU; may be called from several threads.

    Args:
        path: of the .onnx file.
        threads: within one call.
        bf16: compute in bf16. Left to itself OpenVINO does so on every CPU that can, and flips pixels; hence the hint
            is always given.

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
        self._own = threading.local()  # a request serves one thread

    def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays by name (more than needed do no harm) -> the outputs in order."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        found = self._own.request.infer(
            {name: feed[name] for name in self.inputs}, share_inputs=True
        )
        return [np.array(found[port]) for port in self._compiled.outputs]


def _name(port: Any) -> str:
    return str(min(port.get_names()))
