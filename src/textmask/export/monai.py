"""A run as a MONAI bundle: metadata, a plain state dict, the graphs and a card. A way out, never our own store."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from textmask.export.cards import USE, run_card
from textmask.io.files import write_json
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
MONAI_VERSION = "1.6.1"  # whose bundle specification this follows
DESCRIPTION = "configs/textmask.json"


def write_bundle(run: Run, folder: Path, told: Mapping[str, Any]) -> None:
    """Fill a folder that holds the graphs in `models` already.

    The specification wants `models/model.pt`, a pickle: it is a flat dict of tensors and loads with
    `torch.load(..., weights_only=True)`.

    Args:
        run: the trained run.
        folder: of the bundle.
        told: what `export.json` says.
    """
    for name in ("configs", "docs"):
        (folder / name).mkdir()
    tensors = {key: value.detach().clone() for key, value in run.method.state_dict().items()}
    torch.save(tensors, folder / "models" / "model.pt")
    write_json(folder / "configs" / "metadata.json", metadata(run, told))
    write_json(folder / DESCRIPTION, dict(told))
    (folder / "docs" / "README.md").write_text(run_card(run, told), encoding="utf-8")
    (folder / "docs" / "data_license.txt").write_text(
        "The licence of the training data is not known to this program: fill it in before publishing.\n",
        "utf-8",
    )


def metadata(run: Run, told: Mapping[str, Any]) -> dict[str, Any]:
    """metadata.json with all keys that the specification and the model zoo require.

    There is no tensor format for words: token vectors are described as a series, and `models/text.onnx` with the
    tokenizer beside it makes them from a sentence.
    """
    card = get_method(run.recipe.method).card
    rows, columns = run.recipe.image_size
    picture = {"modality": "n/a", "is_patch_data": run.recipe.tiles is not None, "dtype": "float32"}
    inputs: dict[str, Any] = {
        "image": {
            "type": "image",
            "format": "magnitude",
            "num_channels": 3,
            "spatial_shape": [rows, columns],
            "value_range": [0, 1],
            "channel_def": {"0": "red or grey", "1": "green or grey", "2": "blue or grey"},
            **picture,
        }
    }
    for name, width in _text_inputs(told).items():
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
        "channel_def": {"0": "logit of what the sentence names"},
        **picture,
    }
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by textmask {told['textmask_version']}"},
        "monai_version": MONAI_VERSION,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "optional_packages_version": _versions("onnxruntime", "transformers"),
        "required_packages_version": {"textmask": told["textmask_version"]},
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
        "laterality": told["laterality"],
        "references": [card.paper] if card.paper else [],
        "network_data_format": {"inputs": inputs, "outputs": {"pred": mask}},
    }


def _text_inputs(told: Mapping[str, Any]) -> dict[str, int]:
    """Inputs that come from the sentence, with their width."""
    last = next(graph for name, graph in told["graphs"].items() if name != "text")
    found = {name: value["shape"] for name, value in last["inputs"].items() if name != "image"}
    return {name: shape[-1] if isinstance(shape[-1], int) else 1 for name, shape in found.items()}


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
