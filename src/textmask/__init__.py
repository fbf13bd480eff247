"""textmask: text-guided (referring) medical image segmentation. An image and a sentence in, a mask out.

Importing this module is cheap: torch is imported when something that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from textmask.config import Recipe as Recipe
    from textmask.data.layouts import read_layout as read_layout
    from textmask.data.manifest import Manifest as Manifest
    from textmask.method import Method as Method
    from textmask.method import get_method as get_method
    from textmask.method import list_methods as list_methods
    from textmask.run.evaluate import evaluate as evaluate
    from textmask.run.predict import Predictor as Predictor
    from textmask.run.report import report as report
    from textmask.run.train import train as train
    from textmask.text.grammar import parse as parse
    from textmask.text.statement import Statement as Statement

__version__ = "0.1.0"

_HOMES = {
    "Manifest": "textmask.data.manifest",
    "Method": "textmask.method",
    "Predictor": "textmask.run.predict",
    "Recipe": "textmask.config",
    "Statement": "textmask.text.statement",
    "evaluate": "textmask.run.evaluate",
    "get_method": "textmask.method",
    "list_methods": "textmask.method",
    "parse": "textmask.text.grammar",
    "read_layout": "textmask.data.layouts",
    "report": "textmask.run.report",
    "train": "textmask.run.train",
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
    "read_layout",
    "report",
    "train",
]


def load(path: str | Path | None = None) -> Predictor:
    """A trained run, ready to segment: `load("runs/biclip").set_image("film.png").segment("lower left lung").mask`.

    Without a path it is the model that comes with the package, see docs/default-model.md.
    """
    from textmask.run.checkpoint import DEFAULT_RUN
    from textmask.run.predict import Predictor

    return Predictor(DEFAULT_RUN if path is None else path)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'textmask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
