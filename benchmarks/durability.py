"""What durability costs: content hashes of a new cache, a warm start of 100,000 rows, and flushing a checkpoint.

One process, one thread, candidates in turn. Usage: python benchmarks/durability.py [ROWS].
"""

import contextlib
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from timing import Goals, interleave

from textmask.data import cache, content
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.io import files
from textmask.methods.registry import build_method, preset_recipe
from textmask.runs.checkpoint import write_tensors

IMAGES, ROWS, SIZE, REPEATS = 200, 100_000, (224, 224), 9


def by_stamp(path: Path) -> str:
    """An identity that reads nothing: what a cache without content hashes would compare."""
    return str(content.file_stamp(path))


def building_with_and_without_hashes(goals: Goals) -> None:
    """Decode 200 images and masks of 256 x 256 into a new cache, with and without reading them for their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        config = PhantomConfig(size=(256, 256))
        manifest = read_manifest(write_phantoms(Path(folder), {"train": IMAGES}, config, seed=0))
        numbers = count()

        def build() -> object:
            return cache.open_split(manifest, "train", SIZE, Path(folder) / f"c{next(numbers)}")

        def build_without() -> object:
            with patch.object(content, "hash_file", by_stamp):
                return build()

        np.testing.assert_array_equal(build().images, build_without().images)
        # seconds of the CPU: hashing is little work next to the noise of a disk or of other processes
        spent: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(REPEATS):
            for name, run in (("with", build), ("without", build_without)):
                begin = time.process_time()
                run()
                spent[name].append(time.process_time() - begin)
        times = {name: statistics.median(values) for name, values in spent.items()}
    cost = times["with"] / times["without"] - 1
    print(
        f"{IMAGES} images, seconds of the CPU: {times['with']:.3f} with content hashes, {times['without']:.3f} without"
    )
    goals.at_most("cache_hash_cost_percent", 100 * cost, 2)


def write_many(folder: Path, rows: int) -> Path:
    """A table of that many rows, each with an image and a mask of its own: hard links to 50 tiny files."""
    rng = np.random.default_rng(0)
    for kind in ("image", "mask"):
        (folder / kind).mkdir()
        for i in range(50):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            pixels = pixels if kind == "image" else (pixels > 127).astype(np.uint8) * 255
            cv2.imwrite(str(folder / kind / f"source{i}.png"), pixels)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "mask", "text", "split"])
        for row in range(rows):
            for kind in ("image", "mask"):
                os.link(folder / kind / f"source{row % 50}.png", folder / kind / f"{row}.png")
            place = ("upper", "middle", "lower")[row % 3]
            writer.writerow(
                [
                    f"image/{row}.png",
                    f"mask/{row}.png",
                    f"opacity in the {place} left lung",
                    "train",
                ]
            )
    return folder / "table.csv"


def warm_start(goals: Goals, rows: int) -> None:
    """Open a split whose cache is there: what every later command does before its first batch."""
    with tempfile.TemporaryDirectory() as name:
        table = write_many(Path(name), rows)
        begin = time.perf_counter()
        manifest = read_manifest(table)
        read = time.perf_counter() - begin
        cache.open_split(manifest, "train", (8, 8), Path(name) / "cache")
        built = time.perf_counter() - begin - read

        times, busy = [], []
        for _ in range(3):
            begin, before = time.perf_counter(), time.process_time()
            opened = cache.open_split(read_manifest(table), "train", (8, 8), Path(name) / "cache")
            times.append(time.perf_counter() - begin)
            busy.append(time.process_time() - before)
    assert len(opened) == rows
    print(
        f"{rows} rows: table {read:.1f} s, cache {built:.0f} s, warm start {min(times):.2f} s, of which the CPU "
        f"{min(busy):.2f} s; load {os.getloadavg()[0]:.1f}"
    )
    # of the CPU, because a shared machine says nothing about the wall
    goals.at_most("warm_start_of_100k_rows_s", min(busy) * ROWS / rows, 5)


@contextlib.contextmanager
def without_flush() -> Iterator[None]:
    """Writes that do not wait for the disk."""
    with patch.object(files, "flush_to_disk", lambda path: None):
        yield


def checkpoint_with_and_without_flush() -> None:
    """Write the weights of the U-Net of the lite preset, with and without waiting for the disk."""
    tensors = build_method(preset_recipe("unet", "lite")).state_dict()
    megabytes = sum(value.nbytes for value in tensors.values()) / 1e6
    with tempfile.TemporaryDirectory() as folder:

        def write() -> None:
            write_tensors(Path(folder) / "last.safetensors", tensors, {})

        def write_without() -> None:
            with without_flush():
                write()

        times = interleave({"with": write, "without": write_without}, 15)
    print(
        f"checkpoint of {megabytes:.1f} MB: {times['with'] * 1e3:.1f} ms with fsync, "
        f"{times['without'] * 1e3:.1f} ms without"
    )


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    goals = Goals()
    building_with_and_without_hashes(goals)
    warm_start(goals, int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
    checkpoint_with_and_without_flush()
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
