"""`predict` of a folder: images per second compared with the bare model, and two processes compared with one.

    python benchmarks/folder.py

The bundled model, one thread per process, rounds in turn; the medians count. The rate is that between the first and the
last image that is reported, without starting processes and loading the model. Other work on the cores distorts the
second goal: two processes need two free cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from timing import Goals

from textmask.data.loaders import build_text, to_image
from textmask.inference.batch import predict_folder
from textmask.inference.jobs import BatchItem, read_jobs
from textmask.inference.predictor import Predictor
from textmask.text.grammar import parse

PROMPT = "opacity in the lower left lung"


def write_images(folder: Path, count: int) -> list[BatchItem]:
    """Images of 256 x 256 with the size of a real PNG."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        pixels = cv2.GaussianBlur(rng.integers(0, 255, (256, 256), np.uint8), (0, 0), 2)
        cv2.imwrite(str(folder / f"{i:04}.png"), pixels)
    return read_jobs(folder, PROMPT)


def folder_rate(predictor: Predictor, items: list[BatchItem], out: Path, processes: int) -> float:
    """Images per second of `predict`."""
    reports: list[tuple[float, int]] = []

    def note(task: str, done: int, total: int) -> None:
        reports.append((time.perf_counter(), done))

    shutil.rmtree(out, ignore_errors=True)
    predict_folder(predictor.run, items, out, device="cpu", processes=processes, progress=note)
    (begin, first), (end, last) = reports[0], reports[-1]
    return (last - first) / (end - begin)


def bare_rate(predictor: Predictor, count: int) -> float:
    """Images per second of the model on prepared images."""
    size = predictor.run.recipe.image_size
    image = to_image(np.zeros((1, 1, *size), np.uint8))
    text = build_text([PROMPT], [parse(PROMPT, predictor.grammar)])
    begin = time.perf_counter()
    with predictor.session.running() as model:
        for _ in range(count):
            model(image, text)
    return count / (time.perf_counter() - begin)


def main() -> int:
    """Print the figures and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    goals, rates = Goals(), {name: list[float]() for name in ("bare", "one", "two")}
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "images", Path(scratch) / "out"
        items = write_images(folder, options.images)
        predictor = Predictor("default", device="cpu")
        bare_rate(predictor, 3)
        for _ in range(options.rounds):
            rates["bare"].append(bare_rate(predictor, options.images))
            rates["one"].append(folder_rate(predictor, items, out, 1))
            rates["two"].append(folder_rate(predictor, items, out, 2))

    bare, one, two = (statistics.median(found) for found in rates.values())
    print(f"images per second: bare model {bare:.1f}, one process {one:.1f}, two {two:.1f}")
    goals.at_least("predict_folder_over_bare_model", one / bare, 0.9)
    goals.at_least("predict_folder_two_processes_over_one", two / one, 1.8)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
