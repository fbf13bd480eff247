"""Inference: exported graphs compared with eager PyTorch fp32, at 224 x 224, batch 1 and 16, cached text, one thread.

    python benchmarks/predict.py --run RUN --data DATA

`RUN` is a trained run of a method that encodes the image without the text (`guide_decoder`, lite preset); masks and
loss of Dice are measured on its validation rows. Without `--run` the same architecture is used untrained on synthetic
images: the times are the same, the masks are meaningless and their goals are left out.

Everything runs in this process, turn by turn; the medians count. For each precision the faster runtime counts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from timing import Goals, interleave

from textmask.data.loaders import SplitData, build_text, open_split, to_image
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.export.export import CALIBRATION_IMAGES, RUNTIMES, graph_feeds
from textmask.export.graphs import write_graphs
from textmask.export.parity import compare_backends
from textmask.inference.backends.graphs import (
    DECODER,
    IMAGE,
    TEXT,
    GraphBackend,
    graph_backend,
    load_graphs,
)
from textmask.inference.backends.onnxruntime import quantise
from textmask.layouts.read import read_layout
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import Run, load_run

REPEATS = {1: 21, 16: 7}
SPEED = {"fp32": 1.3, "bf16": 2.5, "int8": 4.0}
# of the nodes of OpenVINO: those that int8 can speed up; depthwise convolutions wait for memory in any type
QUANTIZABLE = ("Convolution", "FullyConnected")
PEAK = 4.0  # of int8 over fp32 with VNNI; without it (AVX2) at most 2
ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
FLIPPED, DICE_LOSS = 1e-4, 0.005


def untrained() -> Run:
    """The lite architecture with random weights."""
    recipe = get_method("guide_decoder").recipe().lite()
    method = build_method(recipe).eval().requires_grad_(False)
    return Run(Path(), recipe, method, {}, {})


def write_all(run: Run, train: SplitData, folder: Path) -> dict[str, dict[str, Path]]:
    """Graphs of each precision; bf16 has those of fp32."""
    for name in ("fp32", "int8"):
        (folder / name).mkdir()
    files = write_graphs(run.method, run.recipe.image_size, folder / "fp32")
    chosen = np.random.default_rng(0).permutation(len(train))[:CALIBRATION_IMAGES]
    feeds = graph_feeds(run, files, train.take(np.sort(chosen)))
    eight = {name: folder / "int8" / path.name for name, path in files.items() if name != TEXT}
    for name, path in eight.items():
        quantise(files[name], path, feeds, keep_first=name != DECODER)
    return {"fp32": files, "bf16": files, "int8": eight | {TEXT: files[TEXT]}}


def time_batch(
    run: Run, backends: dict[str, GraphBackend], data: SplitData, n: int, goals: Goals
) -> None:
    """Print milliseconds of each candidate and the goals on their ratio to eager."""
    image = to_image(data.images[:n])
    text = build_text(data.prompts[:n], data.statements[:n])
    models = {"eager fp32": run.method} | backends
    features = {name: model.image_features(image) for name, model in models.items()}

    def whole(name: str) -> Callable[[], object]:
        return lambda: models[name].decode(models[name].image_features(image), image, text)

    def second(name: str) -> Callable[[], object]:
        return lambda: models[name].decode(features[name], image, text)

    jobs = {name: whole(name) for name in models} | {
        f"{name}, again": second(name) for name in models
    }
    with torch.inference_mode():
        seconds = interleave(jobs, REPEATS[n])
    base = seconds["eager fp32"]
    print(
        f"batch {n}: milliseconds for image and prompt, for a second prompt, speed compared with eager"
    )
    for name in models:
        first, more = seconds[name], seconds[f"{name}, again"]
        print(f"  {name:<20}{1000 * first:>9.1f}{1000 * more:>9.1f}{base / first:>8.2f}")
    for precision, wanted in SPEED.items():
        best = min((name for name in backends if name.endswith(precision)), key=seconds.__getitem__)
        goals.at_least(
            f"{precision}_over_eager_batch_{n} ({best.split()[0]})", base / seconds[best], wanted
        )
    if n == 1:
        best = min((name for name in backends if name.endswith("fp32")), key=seconds.__getitem__)
        goals.at_least("first_over_second_sentence", seconds[best] / seconds[f"{best}, again"], 2.0)


def profile(files: dict[str, dict[str, Path]], repeats: int = 9) -> None:
    """Print where OpenVINO spends its time in fp32 and int8, and the best that int8 could reach over fp32."""
    rng = np.random.default_rng(0)
    taken: dict[str, Counter[tuple[str, str]]] = {"fp32": Counter(), "int8": Counter()}
    for precision, nodes in taken.items():
        for name in (IMAGE, DECODER):
            settings = {**ONE_THREAD, "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
            model = openvino.Core().compile_model(str(files[precision][name]), "CPU", settings)
            request = model.create_infer_request()
            feed = {port.get_any_name(): example(port, rng) for port in model.inputs}

            # the best of some calls, because the machine may be busy
            best: dict[str, tuple[float, str, str]] = {}
            for _ in range(repeats):
                request.infer(feed)
                for node in request.profiling_info:
                    found = (node.real_time.total_seconds(), node.node_type, node.exec_type)
                    best[node.node_name] = min(best.get(node.node_name, found), found)
            for seconds, kind, kernel in best.values():
                nodes[kind, kernel] += 1000 * seconds

        total = nodes.total()
        print(f"OpenVINO {precision}, batch 1: {total:.1f} ms in nodes")
        for (kind, kernel), ms in nodes.most_common(8):
            print(f"  {kind:<32}{kernel:<28}{ms:>7.2f} ms {ms / total:>6.0%}")
    fast = sum(ms for (kind, _), ms in taken["fp32"].items() if kind in QUANTIZABLE)
    total = taken["fp32"].total()
    print(
        f"nodes that int8 can speed up: {fast / total:.0%} of fp32. With {PEAK:g}x for them int8 would be "
        f"{total / (total - fast + fast / PEAK):.2f}x fp32 in OpenVINO; here it is {total / taken['int8'].total():.2f}x"
    )


def example(port: Any, rng: np.random.Generator) -> np.ndarray:
    """Numbers for an input of a graph: batch 1, eight words."""
    shape = [
        dimension.get_length() if dimension.is_static else (8 if axis else 1)
        for axis, dimension in enumerate(port.partial_shape)
    ]
    kind = np.dtype(port.element_type.to_dtype())
    return np.ones(shape, bool) if kind == np.bool_ else rng.random(shape).astype(kind)


def judge(run: Run, backends: dict[str, GraphBackend], data: SplitData, goals: Goals) -> None:
    """Print the difference of the masks on all rows; goals are on the better runtime, and negative: less is better."""
    found = compare_backends(run, backends, data)
    for name, parity in found.items():
        print(
            f"{name}: flipped {parity.flipped:.2e}, largest difference {parity.max_dp:.1e}, Dice per image "
            f"{parity.dice_exported:.4f}, eager {parity.dice_eager:.4f}, loss {parity.dice_loss:.5f}, n = {parity.n}"
        )
    for precision in SPEED:
        measured = [
            parity.measured(precision) for name, parity in found.items() if name.endswith(precision)
        ]
        what, bound = (
            ("minus_flipped", FLIPPED) if precision == "fp32" else ("minus_dice_loss", DICE_LOSS)
        )
        goals.at_least(f"{precision}_{what}", -min(measured), -bound)


def main() -> int:
    """Print the tables and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache-dir", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    goals = Goals()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.run is None:
            run = untrained()
            manifest = read_manifest(
                write_phantoms(folder / "data", {"train": 64, "valid": 16}, PhantomConfig(), 0)
            )
        else:
            run, manifest = load_run(arguments.run), read_layout(arguments.data, "auto")
        cache = arguments.cache_dir or folder / "cache"
        train, valid = (
            open_split(manifest, split, run.recipe.image_size, cache)
            for split in ("train", "valid")
        )
        files = write_all(run, train, folder)
        backends = {
            f"{engine} {precision}": graph_backend(
                run, load_graphs(files[precision], engine, precision=precision)
            )
            for precision, engines in RUNTIMES.items()
            for engine in engines
        }
        profile(files)
        for n in REPEATS:
            time_batch(run, backends, valid, n, goals)
        if arguments.run is not None:
            judge(run, backends, valid, goals)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
