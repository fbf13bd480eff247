"""The one place where a trained method runs under its recipe: device, precision, memory format, inference mode."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from threading import Lock

import numpy as np
import torch

from textmask.config import Recipe
from textmask.errors import CheckpointError, ConfigError
from textmask.methods.base import Method
from textmask.runs.environment import prepare_cpu

DEVICES = "auto, cpu, cuda, cuda:N or mps"


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if there is any, else MPS, else the CPU.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        ConfigError: the name is unknown, or this machine does not have the device.
    """
    # the fastest device that this machine has
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,2})?", name):
        raise ConfigError(f"unknown device {name!r}, expected {DEVICES}.")

    # a device that is named must be there: nothing falls back to the CPU in silence
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device {name} is not available: torch {torch.__version__} finds {count} CUDA devices on this "
                "machine. Use auto or cpu, or install a CUDA build of torch."
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps is not available on this machine. Use auto or cpu.")
    return device


def fabric_device(name: str) -> tuple[str, int | list[int]]:
    """The same device as `accelerator` and `devices` of `textmask.train`."""
    kind, _, index = name.partition(":")
    return kind, [int(index)] if index else 1


def device_of(method: torch.nn.Module) -> torch.device:
    """Where the parameters of a method are; the CPU if it has none."""
    return next(chain(method.parameters(), method.buffers()), torch.empty(0)).device


def slow_bf16(device: str) -> bool:
    """Whether a device is a CPU that computes bf16 in software, which is many times slower than fp32.

    Args:
        device: `cpu`, or `auto` for the device that this machine prefers.
    """
    if device not in ("cpu", "auto") or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if device == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available()):
        return False
    # the same question that torch asks before it chooses a kernel
    return not bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def computed_precision(declared: str, device: str) -> str:
    """The precision in which a device computes what a recipe declares: fp32 where half precision is slow.

    Args:
        declared: `bf16`, `fp16` or `fp32`.
        device: as in `slow_bf16`; CPUs have no fast fp16.
    """
    slow = slow_bf16(device) if declared == "bf16" else declared == "fp16" and is_cpu(device)
    return "fp32" if slow else declared


def is_cpu(device: str) -> bool:
    """Whether a device is the CPU; `auto` is if this machine has no other."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return device == "cpu" or (device == "auto" and not gpu)


def refuse_not_finite(probability: np.ndarray, what: str) -> None:
    """Refuse probabilities with NaN: thresholded they are an empty mask, which reads as "nothing found".

    Args:
        probability: of any shape.
        what: beginning of the message: what was predicted.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    finite = np.isfinite(probability)
    if not finite.all():
        bad = int(finite.size - np.count_nonzero(finite))
        raise CheckpointError(
            f"{what}: the model returned {bad} of {finite.size} probabilities that are NaN or infinite, expected "
            "numbers in [0, 1]. No mask is made of them. The weights are damaged or the training has diverged; if "
            "the recipe computes in bf16, try fp32."
        )


class Session:
    """A trained method on one device, ready to run any number of times, from any number of threads.

    Args:
        method: moved to `device`.
        recipe: gives the precision.
        device: see `find_device`; None leaves the method where it is, as validation inside training needs it. On a CPU
            the process also keeps the memory that it frees, see `prepare_cpu`.
        precision: `fp32`, `bf16` or `fp16` instead of that of the recipe.

    Example:
        >>> session = run.session("auto")  # doctest: +SKIP
        >>> with session.running() as model:  # doctest: +SKIP
        ...     output = model(image.to(session.device), text.to(session.device))

    Raises:
        ConfigError: this machine does not have the device.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        device: str | None = None,
        *,
        precision: str | None = None,
    ) -> None:
        self.method = method
        self.device = device_of(method) if device is None else find_device(device)
        self.precision = precision or computed_precision(recipe.precision, self.device.type)
        if device is not None and self.device.type == "cpu":
            prepare_cpu()
        if device is not None:
            method.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def running(self) -> Iterator[Method]:
        """The method in eval mode, without gradients, in the precision of its recipe; fp32 where half is software."""
        # fp32 means fp32 on every device, so that masks do not depend on it
        half, kind = self.precision != "fp32", self.device.type
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        exact = nullcontext() if half or kind != "cuda" else _TF32_OFF

        # validation interrupts a training, which goes back to its own mode
        was_training = self.method.training
        if was_training:
            self.method.eval()
        try:
            with torch.inference_mode(), torch.autocast(kind, dtype, enabled=half), exact:
                yield self.method
        finally:
            if was_training:
                self.method.train()


class _WithoutTF32:
    """Convolutions in real fp32 on CUDA: torch rounds their inputs to 10 bits (TF32) by default.

    The setting is one for the process, so the first thread that enters changes it and the last one that leaves
    restores it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *problem: object) -> None:
        with self._lock:
            self._inside -= 1
            # the last thread that leaves
            if not self._inside:
                torch.backends.cudnn.allow_tf32 = self._before


_TF32_OFF = _WithoutTF32()
