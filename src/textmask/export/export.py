"""Export a trained run for other programs: ONNX graphs, a MONAI bundle, or a folder for model hubs.

Graphs are written only if their masks equal those of eager fp32 within a bound, on the validation rows of the run.
"""

from __future__ import annotations

import shutil
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
from textmask.export.cards import describe_graphs, gate_lines, graph_facts, hub_card, run_card
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
from textmask.inference.backends.onnxruntime import OnnxGraph, add_metadata, quantise
from textmask.io.files import file_sha256, what_to_do, write_json, write_whole
from textmask.io.staging import staged
from textmask.progress import Progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import (
    CALIBRATION,
    EXPORT,
    HUB_CONFIG,
    HUB_WEIGHTS,
    RECIPE,
    is_ensemble,
    member_folder,
)
from textmask.runs.session import find_device

TARGETS = ("onnx", "monai", "hf")
PRECISIONS = ("fp32", "bf16", "int8")
RUNTIMES = {
    "fp32": ("onnxruntime", "openvino"),
    "bf16": ("openvino",),
    "int8": ("onnxruntime", "openvino"),
}
CALIBRATION_IMAGES = 64  # train images for the ranges of int8
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Exported:
    """The result of an export; `gate` has the figures of each runtime, `runtimes` are those that passed."""

    path: Path
    target: str
    precision: str
    bound: float
    gate: dict[str, Parity] = field(default_factory=dict)
    runtimes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportRows:
    """The rows that the gate compares, the train rows for the ranges of int8, and the hash of the data."""

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
    """Export a run for other programs; if the gate refuses the export, nothing is left behind.

    Args:
        run: the trained run.
        out: folder to create.
        target: `onnx`; `monai`, a bundle with the same graphs; `hf`, the weights without graphs and without gate.
        data: data of the run; needed by the gate, and by int8 for its ranges.
        precision: `fp32`; `bf16`, the same graphs, computed in bf16 by OpenVINO; `int8`.
        bound: maximum fraction of flipped pixels (fp32) or loss of mean Dice (others); None means `BOUNDS`.
        gate: False writes unchecked graphs, which the card says.
        split: rows that the gate compares.
        kept: name prefixes of graph nodes that stay in fp32 in an int8 export.
        notes: sentences for the card of `hf`, such as the license of the data.
        cache_dir: folder of the decoded images; None means the cache folder of the user.
        device: device of eager fp32 in the gate: auto, cpu, cuda, cuda:N or mps.
        progress: called with (step, done, total).

    Raises:
        ConfigError: an option is invalid, `out` exists, or a package is missing.
        DataError: the gate has no data, or the export did not pass it.
    """
    choose("target", target, TARGETS)
    choose("precision", precision, PRECISIONS)
    find_device(device)
    if out.exists():
        raise ConfigError(f"{out} exists. Give a folder that does not exist, or remove this one.")

    loaded = run if isinstance(run, Run) else load_run(run)
    if is_ensemble(loaded.path):
        raise ConfigError(
            f"{loaded.path} is an ensemble, which cannot be exported. Export one of its members, such as "
            f"{member_folder(loaded.path, 1)}."
        )
    bound = BOUNDS[precision] if bound is None else bound
    if target == "hf":
        if precision != "fp32":
            raise ConfigError(
                f"target hf contains the unchanged weights; precision {precision} is for onnx and monai."
            )
        with _new_folder(out) as folder:
            write_hub_folder(loaded, folder, notes)
        return Exported(out, target, precision, bound)

    rows = _export_rows(loaded, data, precision, gate, split, cache_dir, progress)
    with _new_folder(out) as folder:
        graphs = folder / "models" if target == "monai" else folder
        graphs.mkdir(exist_ok=True)
        files = _write_graphs(loaded, graphs, target == "onnx", precision, rows, kept)

        # the gate: runtimes within the bound, the fastest first
        found: dict[str, Parity] = {}
        if gate and rows is not None:
            found = _gate(loaded, files, rows, precision, device, progress)
        passed = [name for name, parity in found.items() if parity.measured(precision) <= bound]
        passed.sort(key=lambda name: found[name].ms_exported)
        if found and not passed:
            raise DataError(_refusal(found, precision, bound))
        runtimes = tuple(passed) if gate else RUNTIMES[precision]

        # what programs and people need to know
        result = Exported(out, target, precision, bound, found, runtimes)
        description = _description(loaded, files, result, gate, rows)
        write_json(graphs / EXPORT, description)
        if target == "monai":
            write_bundle(loaded, folder, description)
        else:
            write_whole(folder / RECIPE, loaded.recipe.to_json().encode())
            write_whole(folder / "README.md", run_card(loaded, description).encode())
    return result


def write_hub_folder(run: Run, folder: Path, notes: Sequence[str] = ()) -> None:
    """Write config.json, model.safetensors, tokenizer, model card and calibration; `textmask.load` reads the folder.

    The frozen text encoder is not included: config.json names it, with the sha256 of its weights.

    Args:
        run: the trained run.
        folder: existing folder.
        notes: sentences for the card.
    """
    shutil.copyfile(run.weights, folder / HUB_WEIGHTS)
    shutil.copymode(Path(__file__), folder / HUB_WEIGHTS)
    _save_tokenizer(run, folder)
    write_json(folder / HUB_CONFIG, describe_graphs(run))
    if (run.path / CALIBRATION).exists():
        shutil.copyfile(run.path / CALIBRATION, folder / CALIBRATION)
    write_whole(folder / "README.md", hub_card(run, notes).encode())


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder next to `out` that is renamed to `out` at the end; after an error it is removed."""
    try:
        with staged(out) as folder:
            yield folder
            if out.exists():
                raise ConfigError(
                    f"{out} was made by another process meanwhile. Give another folder, or remove that one."
                )
    except OSError as error:
        raise ConfigError(
            f"cannot create {out} ({error.strerror}: {error.filename}). {what_to_do(error.errno)}"
        ) from error


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
                "the gate compares the export with eager fp32 on the validation rows of the run, and int8 takes its "
                "ranges from the train rows. Give the data of the run with --data, or skip the gate with --no-gate "
                "(fp32 and bf16 only)."
            )
        return None

    def opened(name: str) -> SplitData:
        return open_split(data, name, run.recipe.image_size, cache_dir, progress)

    # a fixed sample of the train rows
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
    """Write the graphs, and the tokenizer if one is needed."""
    size = run.recipe.image_size if run.recipe.tiles is None else run.recipe.tiles.size
    files = write_graphs(run.method, size, folder, split)
    rest = files.get(DECODER) or files[WHOLE]
    if TEXT in files and not set(TEXT_INPUTS) & set(OnnxGraph(rest, 1).inputs):
        files.pop(TEXT).unlink()  # the prompt only guides training
    if TEXT in files:
        _save_tokenizer(run, folder)

    if precision == "int8" and rows is not None and rows.train is not None:
        feeds = graph_feeds(run, files, rows.train)
        for name in files.keys() - {TEXT}:
            eight = folder / f"{name}.int8.onnx"
            quantise(files[name], eight, feeds, keep_first=name != DECODER, kept=kept)
            eight.replace(files[name])

    # a file that is passed on alone still says what it is
    facts = graph_facts(run)
    for path in files.values():
        add_metadata(path, facts)
    return files


def graph_feeds(
    run: Run, files: Mapping[str, Path], data: SplitData
) -> list[dict[str, np.ndarray]]:
    """Inputs of all graphs for each image of a split; with tiles, those of the first tile."""
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
            words = [x.detach().numpy() for x in run.method.get_submodule("text_encoder")(text)]
            feed.update(zip(TEXT_INPUTS, words, strict=True))
        if image_tower is not None:
            maps = image_tower(feed)
            feed.update(zip(feature_names(len(maps)), maps, strict=True))
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
        runtime: graph_backend(run, load_graphs(files, runtime, precision=precision))
        for runtime in RUNTIMES[precision]
    }

    def step(done: int, total: int) -> None:
        if progress:
            progress("comparing", done, total)

    return compare_backends(run, backends, rows.gate, device=device, progress=step)


def _refusal(found: Mapping[str, Parity], precision: str, bound: float) -> str:
    what = "fraction of flipped pixels" if precision == "fp32" else "loss of mean Dice"
    each = [f"{runtime} {parity.measured(precision):.2g}" for runtime, parity in found.items()]
    measured, n = ", ".join(each), next(iter(found.values())).n
    hint = "" if precision == "fp32" else " Keep more layers in fp32 (--keep), or export fp32."
    return f"the {precision} export is refused: {what} {measured} on {n} rows, the bound is {bound:g}.{hint}"


def _description(
    run: Run, files: Mapping[str, Path], result: Exported, gate: bool, rows: ExportRows | None
) -> dict[str, Any]:
    """The content of export.json: inputs and outputs of each file, how to use them, and the figures of the gate."""
    graphs = {}
    for name, path in files.items():
        graph = OnnxGraph(path, 1)
        shapes = {}
        for key, (kind, shape) in graph.shapes.items():
            shapes[key] = {"type": kind, "shape": shape}
        graphs[name] = {
            "file": path.name,
            "sha256": file_sha256(path),
            "inputs": {key: shapes[key] for key in graph.inputs},
            "outputs": {key: shapes[key] for key in graph.outputs},
        }

    checked: dict[str, Any] = {"checked": False}
    if gate and rows is not None:
        checked = {
            "checked": True,
            "split": rows.split,
            "data_sha256": rows.hash,
            "data_of_the_run": rows.hash == run.data.get("hash"),
            "bound_on": "flipped" if result.precision == "fp32" else "dice_loss",
            "bound": result.bound,
            "measured": {name: parity.as_dict() for name, parity in result.gate.items()},
        }
    return {
        **describe_graphs(run),
        "precision": result.precision,
        "engines": list(result.runtimes),
        "graphs": graphs,
        "gate": checked,
    }


def gate_report(result: Exported) -> list[str]:
    """The figures of the gate as lines of text."""
    return gate_lines({name: parity.as_dict() for name, parity in result.gate.items()})


def _save_tokenizer(run: Run, folder: Path) -> None:
    """Write the files of the tokenizer if there is one; the tiny encoder hashes words and has none."""
    encoder = run.method.text_encoder
    tokenizer = getattr(getattr(encoder, "encoder", encoder), "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder / TOKENIZER))
