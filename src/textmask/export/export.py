"""A trained run for other programs: ONNX graphs, a MONAI bundle, or a folder as model hubs hold it.

Graphs are written only where their masks equal those of eager fp32 within a bound, on the run's validation rows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textmask.data.loaders import SplitData, build_text, open_split, to_image
from textmask.data.manifest import Manifest
from textmask.errors import ConfigError, DataError, choose
from textmask.export.cards import describe_graphs, gate_lines, hub_card, run_card
from textmask.export.graphs import write_graphs
from textmask.export.monai import write_bundle
from textmask.export.parity import BOUNDS, Parity, compare_backends
from textmask.inference.backends.graphs import (
    DECODER,
    IMAGE,
    TEXT,
    TEXT_INPUTS,
    WHOLE,
    feature_names,
    graph_backend,
    load_graphs,
)
from textmask.inference.backends.onnxruntime import OnnxGraph, quantise
from textmask.io.files import file_sha256, write_json
from textmask.progress import Progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import CALIBRATION, EXPORT, HUB_CONFIG, HUB_WEIGHTS, RECIPE
from textmask.runs.session import find_device

TARGETS = ("onnx", "monai", "hf")
PRECISIONS = ("fp32", "bf16", "int8")
RUNTIMES = {
    "fp32": ("onnxruntime", "openvino"),
    "bf16": ("openvino",),
    "int8": ("onnxruntime", "openvino"),
}
CALIBRATION_IMAGES = 64  # train pictures that int8 takes its ranges from
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Exported:
    """What was written; `gate` holds the figures of each engine that was asked, `engines` those that passed."""

    path: Path
    target: str
    precision: str
    bound: float
    gate: dict[str, Parity] = field(default_factory=dict)
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportRows:
    """The rows that the gate compares on, and those that int8 takes its ranges from."""

    gate: SplitData
    train: SplitData | None
    hash: str
    split: str


def export(
    run: Run | Path,
    out: Path,
    target: str = "onnx",
    *,
    data: Manifest | None = None,
    precision: str = "fp32",
    bound: float | None = None,
    gate: bool = True,
    split: str = "valid",
    kept: Sequence[str] = (),
    notes: Sequence[str] = (),
    cache_dir: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Exported:
    """Write a run for other programs; where the gate refuses it nothing is left behind.

    Args:
        run: the trained run.
        out: folder to make.
        target: `onnx`; `monai`, a bundle with the same graphs; `hf`, the weights as they are, without graphs or gate.
        data: the run's data; needed by the gate, and by int8 for its ranges.
        precision: `fp32`; `bf16`, the same graphs for OpenVINO to compute in bf16; `int8`.
        bound: on the share of flipped pixels in fp32, else on the loss of mean Dice; None means `BOUNDS`.
        gate: False writes unchecked graphs and says so in the card.
        split: rows that the gate compares on.
        kept: starts of the names of graph nodes that stay in fp32 in an int8 export.
        notes: sentences for the card of `hf`, such as the licence of the data.
        cache_dir: where decoded pictures are kept.
        device: where eager fp32 runs for the gate: auto, cpu, cuda, cuda:N or mps.
        progress: called with (task, done, total).

    Raises:
        ConfigError: a wrong option, `out` exists, or a package is missing.
        DataError: no data for the gate, or the export did not pass it.
    """
    choose("target", target, TARGETS)
    choose("precision", precision, PRECISIONS)
    find_device(device)
    if out.exists():
        raise ConfigError(f"{out} exists. Name a folder that does not, or remove this one.")
    loaded = run if isinstance(run, Run) else load_run(run)
    bound = BOUNDS[precision] if bound is None else bound
    if target == "hf":
        if precision != "fp32":
            raise ConfigError(
                f"target hf holds the weights as they are; precision {precision} is for onnx and monai."
            )
        with _staged(out) as folder:
            write_hub_folder(loaded, folder, notes)
        return Exported(out, target, precision, bound)
    rows = _export_rows(loaded, data, precision, gate, split, cache_dir, progress)
    with _staged(out) as folder:
        graphs = folder / "models" if target == "monai" else folder
        graphs.mkdir(exist_ok=True)
        files = _write_graphs(loaded, graphs, target == "onnx", precision, rows, kept)
        found = (
            _gate(loaded, files, rows, precision, device, progress)
            if gate and rows is not None
            else {}
        )
        passed = tuple(
            sorted(
                (name for name, parity in found.items() if parity.measured(precision) <= bound),
                key=lambda name: found[name].ms_exported,
            )
        )
        if found and not passed:
            raise DataError(_refusal(found, precision, bound))
        result = Exported(
            out, target, precision, bound, found, passed or (() if gate else RUNTIMES[precision])
        )
        told = _description(loaded, files, result, gate, rows)
        write_json(graphs / EXPORT, told)
        if target == "monai":
            write_bundle(loaded, folder, told)
        else:
            (folder / RECIPE).write_text(loaded.recipe.to_json(), encoding="utf-8")
            (folder / "README.md").write_text(run_card(loaded, told), encoding="utf-8")
    return result


def write_hub_folder(run: Run, folder: Path, notes: Sequence[str] = ()) -> None:
    """config.json, model.safetensors, tokenizer, model card and what it was calibrated to; `textmask.load` reads it.

    The frozen text tower is not in it: config.json names it, with the sha256 of its weights.
    """
    shutil.copyfile(run.weights, folder / HUB_WEIGHTS)
    shutil.copymode(Path(__file__), folder / HUB_WEIGHTS)
    _save_tokenizer(run, folder)
    write_json(folder / HUB_CONFIG, describe_graphs(run))
    if (run.path / CALIBRATION).exists():
        shutil.copyfile(run.path / CALIBRATION, folder / CALIBRATION)
    (folder / "README.md").write_text(hub_card(run, notes), encoding="utf-8")


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, or disappears."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"cannot make {out} ({error.strerror}). Name another folder.") from error
    try:
        yield folder
        folder.chmod(0o755)
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _export_rows(
    run: Run,
    data: Manifest | None,
    precision: str,
    gate: bool,
    split: str,
    cache_dir: Path | None,
    progress: Progress | None,
) -> ExportRows | None:
    if data is None:
        if gate or precision == "int8":
            raise DataError(
                "the export is compared with eager fp32 on the run's validation rows, and int8 takes its ranges from "
                "its train rows: give the data of the run (--data), or leave the check out (--no-gate, fp32 and bf16)."
            )
        return None

    def opened(name: str) -> SplitData:
        return open_split(data, name, run.recipe.image_size, cache_dir, progress)

    train = None
    if precision == "int8":
        whole = opened("train")
        chosen = np.random.default_rng(run.recipe.seed).permutation(len(whole))[:CALIBRATION_IMAGES]
        train = whole.take(np.sort(chosen))
    return ExportRows(opened(split), train, data.hash(), split)


def _write_graphs(
    run: Run,
    folder: Path,
    split: bool,
    precision: str,
    rows: ExportRows | None,
    kept: Sequence[str],
) -> dict[str, Path]:
    """The graphs, and the tokenizer where one is needed."""
    size = run.recipe.image_size if run.recipe.tiles is None else run.recipe.tiles.size
    files = write_graphs(run.method, size, folder, split)
    rest = files.get(DECODER) or files[WHOLE]
    if TEXT in files and not set(TEXT_INPUTS) & set(OnnxGraph(rest, 1).inputs):
        files.pop(TEXT).unlink()  # the sentence guides training only
    if TEXT in files:
        _save_tokenizer(run, folder)
    if precision == "int8" and rows is not None and rows.train is not None:
        feeds = graph_feeds(run, files, rows.train)
        for name in files.keys() - {TEXT}:
            eight = folder / f"{name}.int8.onnx"
            quantise(files[name], eight, feeds, keep_first=name != DECODER, kept=kept)
            eight.replace(files[name])
    return files


def graph_feeds(
    run: Run, files: Mapping[str, Path], data: SplitData
) -> list[dict[str, np.ndarray]]:
    """Inputs of all graphs for some pictures, one at a time; of the first tile where pictures are cut."""
    image_tower = OnnxGraph(files[IMAGE], torch.get_num_threads()) if IMAGE in files else None
    feeds = []
    for i in range(len(data)):
        pixels = data.images[i : i + 1]
        if run.recipe.tiles is not None:
            rows, columns = run.recipe.tiles.size
            pixels = pixels[:, :, :rows, :columns]
            short = (rows - pixels.shape[2], columns - pixels.shape[3])
            pixels = np.pad(pixels, ((0, 0), (0, 0), (0, short[0]), (0, short[1])))
        text = build_text(data.prompts[i : i + 1], data.statements[i : i + 1])
        feed = {"image": to_image(pixels).contiguous().numpy(), "zones": text.zones.numpy()}
        if TEXT in files:
            words = run.method.get_submodule("text_encoder")(text)
            feed |= dict(zip(TEXT_INPUTS, (x.detach().numpy() for x in words), strict=True))
        if image_tower is not None:
            maps = image_tower(feed)
            feed |= dict(zip(feature_names(len(maps)), maps, strict=True))
        feeds.append(feed)
    return feeds


def _gate(
    run: Run,
    files: Mapping[str, Path],
    rows: ExportRows,
    precision: str,
    device: str,
    progress: Progress | None,
) -> dict[str, Parity]:
    backends = {
        engine: graph_backend(run, load_graphs(files, engine, precision=precision))
        for engine in RUNTIMES[precision]
    }

    def step(done: int, total: int) -> None:
        if progress:
            progress("comparing", done, total)

    return compare_backends(run, backends, rows.gate, device=device, progress=step)


def _refusal(found: Mapping[str, Parity], precision: str, bound: float) -> str:
    what = "share of flipped pixels" if precision == "fp32" else "loss of mean Dice"
    measured = ", ".join(
        f"{engine} {parity.measured(precision):.2g}" for engine, parity in found.items()
    )
    n = next(iter(found.values())).n
    hint = "" if precision == "fp32" else " Keep more layers in fp32 (--keep), or export fp32."
    return f"the {precision} export is refused: {what} {measured} on {n} rows, the bound is {bound:g}.{hint}"


def _description(
    run: Run, files: Mapping[str, Path], result: Exported, gate: bool, rows: ExportRows | None
) -> dict[str, Any]:
    """export.json: what each file takes and gives, what the caller must know, and what the gate measured."""
    graphs = {}
    for name, path in files.items():
        graph = OnnxGraph(path, 1)
        shapes = {
            key: {"type": kind, "shape": shape} for key, (kind, shape) in graph.shapes.items()
        }
        graphs[name] = {
            "file": path.name,
            "sha256": file_sha256(path),
            "inputs": {key: shapes[key] for key in graph.inputs},
            "outputs": {key: shapes[key] for key in graph.outputs},
        }
    told: dict[str, Any] = describe_graphs(run) | {
        "precision": result.precision,
        "engines": list(result.engines),
        "graphs": graphs,
        "gate": {"checked": False},
    }
    if gate and rows is not None:
        told["gate"] = {
            "checked": True,
            "split": rows.split,
            "data_sha256": rows.hash,
            "data_of_the_run": rows.hash == run.data.get("hash"),
            "bound_on": "flipped" if result.precision == "fp32" else "dice_loss",
            "bound": result.bound,
            "measured": {name: parity.as_dict() for name, parity in result.gate.items()},
        }
    return told


def gate_report(result: Exported) -> list[str]:
    """The figures of the gate in lines for people."""
    return gate_lines({name: parity.as_dict() for name, parity in result.gate.items()})


def _save_tokenizer(run: Run, folder: Path) -> None:
    """Files of the tokenizer where it has any; the tiny encoder of the tests hashes words and has none."""
    encoder = run.method.text_encoder
    tokenizer = getattr(getattr(encoder, "encoder", encoder), "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder / TOKENIZER))
