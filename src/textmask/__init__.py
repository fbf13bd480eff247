"""textmask: text-guided (referring) medical image segmentation. An image and a prompt in, a mask out.

Importing this module does not import torch. That happens when something that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from textmask.config import Recipe as Recipe
    from textmask.data.manifest import Manifest as Manifest
    from textmask.functions import evaluate_on as evaluate
    from textmask.functions import train_on as train
    from textmask.inference.batch import predict_folder as predict
    from textmask.inference.predictor import Predictor as Predictor
    from textmask.layouts.read import read_layout as read_layout
    from textmask.methods.base import Method as Method
    from textmask.methods.registry import get_method as get_method
    from textmask.methods.registry import list_methods as list_methods
    from textmask.reports.page import write_report as report
    from textmask.statement import Statement as Statement
    from textmask.text.grammar import parse as parse

__version__ = "0.1.0"

_HOMES = {  # public name -> module and the name in it
    "Manifest": ("textmask.data.manifest", "Manifest"),
    "Method": ("textmask.methods.base", "Method"),
    "Predictor": ("textmask.inference.predictor", "Predictor"),
    "Recipe": ("textmask.config", "Recipe"),
    "Statement": ("textmask.statement", "Statement"),
    "evaluate": ("textmask.functions", "evaluate_on"),
    "get_method": ("textmask.methods.registry", "get_method"),
    "list_methods": ("textmask.methods.registry", "list_methods"),
    "parse": ("textmask.text.grammar", "parse"),
    "predict": ("textmask.inference.batch", "predict_folder"),
    "read_layout": ("textmask.layouts.read", "read_layout"),
    "report": ("textmask.reports.page", "write_report"),
    "train": ("textmask.functions", "train_on"),
}

__all__ = [
    "Manifest",
    "Method",
    "Predictor",
    "Recipe",
    "Statement",
    "__version__",
    "evaluate",
    "get_method",
    "list_methods",
    "load",
    "parse",
    "predict",
    "read_layout",
    "report",
    "train",
]


def load(path: str | Path | None = None, device: str = "auto", *, tta: str = "none") -> Predictor:
    """Load a trained run, ready to segment.

    Args:
        path: run folder; None or "default" is the bundled model, see docs/default-model.md.
        device: auto, cpu, cuda, cuda:N or mps.
        tta: `flip` averages with the mirrored image and the mirrored prompt, see `Predictor`.

    Returns:
        The predictor: `load("runs/biclip").segment("image.png", "lower left lung").mask`.

    Raises:
        ConfigError: the device is unknown, or this machine does not have it.
        CheckpointError: not a run folder, or its weights cannot be read.
    """
    from textmask.inference.predictor import Predictor
    from textmask.runs.layout import DEFAULT_RUN

    return Predictor(DEFAULT_RUN if path is None else path, device=device, tta=tta)


def __getattr__(name: str) -> Any:
    if name == "data":  # textmask.data.from_rows needs no other import
        return import_module("textmask.data")
    if name not in _HOMES:
        raise AttributeError(f"module 'textmask' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
