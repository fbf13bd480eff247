"""Write a run as a MONAI bundle: metadata, a plain state dict, the graphs and a card. Export only."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from textmask.export.cards import USE, run_card
from textmask.io.files import write_json, write_whole
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
MONAI_VERSION = "1.6.1"  # of the bundle specification
DESCRIPTION = "configs/textmask.json"


def write_bundle(run: Run, folder: Path, description: Mapping[str, Any]) -> None:
    """Fill a folder that already contains the graphs in `models`.

    The specification requires `models/model.pt`, a pickle. It is a flat dict of tensors and loads with
    `torch.load(..., weights_only=True)`.

    Args:
        run: the trained run.
        folder: the bundle.
        description: the content of `export.json`.
    """
    for name in ("configs", "docs"):
        (folder / name).mkdir()
    tensors = {key: value.detach().clone() for key, value in run.method.state_dict().items()}
    torch.save(tensors, folder / "models" / "model.pt")

    write_json(folder / "configs" / "metadata.json", metadata(run, description))
    write_json(folder / DESCRIPTION, dict(description))
    write_whole(folder / "docs" / "README.md", run_card(run, description).encode())
    license_note = "The license of the training data is unknown to this program. Fill it in before publishing.\n"
    write_whole(folder / "docs" / "data_license.txt", license_note.encode())


def metadata(run: Run, description: Mapping[str, Any]) -> dict[str, Any]:
    """The content of metadata.json, with all keys that the specification and the model zoo require.

    The specification has no tensor format for text: token vectors are described as a series, and `models/text.onnx`
    with the tokenizer next to it computes them from a prompt.

    Args:
        run: the trained run.
        description: the content of `export.json`.
    """
    card = get_method(run.recipe.method).card
    rows, columns = run.recipe.image_size
    image = {"modality": "n/a", "is_patch_data": run.recipe.tiles is not None, "dtype": "float32"}
    inputs: dict[str, Any] = {
        "image": {
            "type": "image",
            "format": "magnitude",
            "num_channels": 3,
            "spatial_shape": [rows, columns],
            "value_range": [0, 1],
            "channel_def": {"0": "red or gray", "1": "green or gray", "2": "blue or gray"},
            **image,
        }
    }

    for name, width in _text_inputs(description).items():
        inputs[name] = {
            "type": "series",
            "format": "sequence",
            "modality": "text",
            "num_channels": width,
            "spatial_shape": ["*"],
            "dtype": "float32",
            "value_range": [],
            "is_patch_data": False,
            "channel_def": {},
        }

    mask = {
        "type": "image",
        "format": "segmentation",
        "num_channels": 1,
        "spatial_shape": [rows, columns],
        "value_range": [],
        "channel_def": {"0": "logit of what the prompt names"},
        **image,
    }
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by textmask {description['textmask_version']}"},
        "monai_version": MONAI_VERSION,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "optional_packages_version": _versions("onnxruntime", "transformers"),
        "required_packages_version": {"textmask": description["textmask_version"]},
        "name": f"textmask {run.recipe.method}",
        "task": "text-guided segmentation",
        "description": card.title,
        "authors": "the user of textmask who trained it",
        "copyright": "as the training data and pre-trained weights allow; see docs",
        "license": "see docs/data_license.txt",
        "data_source": str(run.data.get("name") or "own data"),
        "data_type": "image and sentence",
        "intended_use": USE,
        "eval_metrics": {
            key: value for key, value in run.result.items() if key.startswith("valid/")
        },
        "laterality": description["laterality"],
        "references": [card.paper] if card.paper else [],
        "network_data_format": {"inputs": inputs, "outputs": {"pred": mask}},
    }


def _text_inputs(description: Mapping[str, Any]) -> dict[str, int]:
    """Inputs that are computed from the prompt, with their width."""
    last = next(graph for name, graph in description["graphs"].items() if name != "text")
    widths = {}
    for name, value in last["inputs"].items():
        if name != "image":
            width = value["shape"][-1]
            widths[name] = width if isinstance(width, int) else 1
    return widths


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
