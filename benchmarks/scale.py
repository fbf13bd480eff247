"""How time and memory grow from a thousand rows to a million: the exponent of each step of the work on a data set.

Rows, thumbnails, masks and scores are synthetic, and no image file is needed. Each measurement is a process of its own
with one thread, so that its peak of memory is its own. Times are CPU seconds of that process, which other work on the
machine changes less than the clock. `scale.py STEP` measures one step, `--most N` limits the rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from timing import Goals

SIZES = (1_000, 10_000, 100_000, 1_000_000)
FITTED = 0.05  # seconds; a shorter time says nothing about growth
SIDES = ("left", "right")
LEVELS = ("upper", "middle", "lower")
Work = Callable[[], object]


def texts_of(n: int) -> list[str]:
    """Prompts of n rows: as many distinct ones as captions have, a few hundred, never more than a half of one claim."""
    places = [f"{level} {side} lung" for side in SIDES for level in LEVELS]
    return [f"{'one two three'.split()[i % 3]} infected areas, {places[i % 6]}." for i in range(n)]


def manifest_file(folder: Path, n: int) -> Path:
    path = folder / "manifest.csv"
    with path.open("w") as file:
        file.write("image,mask,text,split,group,laterality\n")
        for i, text in enumerate(texts_of(n)):
            split = ("train", "train", "valid", "test")[i % 4]
            file.write(
                f'images/part{i % 100}/image_{i:07d}.png,masks/part{i % 100}/mask_{i:07d}.png,"{text}",'
                f"{split},patient_{i % 4}_{i // 12},image\n"
            )
    return path


def rows_of(n: int):
    from textmask.data.manifest import read_manifest

    with tempfile.TemporaryDirectory() as folder:
        return read_manifest(manifest_file(Path(folder), n))


def reading(n: int) -> Work:
    from textmask.data.manifest import read_manifest

    folder = tempfile.mkdtemp()
    path = manifest_file(Path(folder), n)
    return lambda: read_manifest(path)


def hashing(n: int) -> Work:
    manifest = rows_of(n)
    return lambda: [manifest.hash() for _ in range(10)]


def checking(n: int) -> Work:
    from textmask.data.checks import check

    manifest = rows_of(n)
    return lambda: check(manifest, pixels=False)


def facts_of(thumbnails: np.ndarray, splits: np.ndarray):
    from textmask.data.facts import Facts
    from textmask.data.manifest import Row

    return [
        Facts(Row(f"{i}.png", None, "", str(split)), "", (32, 32), thumbnail=thumbnail)
        for i, (thumbnail, split) in enumerate(zip(thumbnails, splits, strict=True))
    ]


def smooth(n: int, rng: np.random.Generator) -> np.ndarray:
    """Images N 32 32 that have a common structure, as radiographs have: low frequencies, and an average body."""
    import cv2

    body = cv2.GaussianBlur(np.random.default_rng(7).normal(size=(32, 32)), (0, 0), 6) * 6
    coarse = rng.normal(size=(n, 6, 6)).astype(np.float32)
    found = np.empty((n, 32, 32), np.uint8)
    for i in range(n):
        one = cv2.resize(coarse[i], (32, 32), interpolation=cv2.INTER_CUBIC) * 0.7 + body
        found[i] = np.clip(128 + 40 * one, 0, 255)
    return found


def near_duplicates(n: int) -> Work:
    from textmask.data.near_identical import near_identical

    rng = np.random.default_rng(0)
    thumbnails = smooth(n, rng)
    # one image in a hundred is a brighter copy of another one
    copies = rng.permutation(n)[: 2 * (n // 100)].reshape(2, -1)
    thumbnails[copies[0]] = np.clip(thumbnails[copies[1]] * 0.9 + 9, 0, 255)
    facts = facts_of(thumbnails, rng.choice(["train", "valid", "test"], n, p=[0.7, 0.1, 0.2]))
    return lambda: near_identical(facts)


def video_frames(n: int) -> Work:
    from textmask.data.near_identical import near_identical

    rng = np.random.default_rng(0)
    videos = smooth(max(n // 1000, 1), rng)
    frames = np.repeat(videos, 1000, axis=0)[:n]
    noise = rng.integers(0, 3, frames.shape, dtype=np.uint8)
    facts = facts_of(np.minimum(frames, 250) + noise, rng.choice(["train", "test"], n))
    return lambda: near_identical(facts)


def shuffling(n: int) -> Work:
    from textmask.data.shuffled_text import shuffled_prompts
    from textmask.text.grammar import parse

    prompts = tuple(texts_of(n))
    data = SimpleNamespace(prompts=prompts, statements=tuple(parse(text) for text in prompts))

    class Split(SimpleNamespace):
        def __len__(self) -> int:
            return n

    split = Split(**vars(data))
    return lambda: shuffled_prompts(split, 0)


def resampling(n: int) -> Work:
    """Intervals of ten columns of scores, three images to a patient, 2000 resamples."""
    from textmask.evaluation.bootstrap import Bootstrap

    columns = np.random.default_rng(0).random((10, n))
    bootstrap = Bootstrap([f"p{i // 3}" for i in range(n)])

    def work() -> list[object]:
        bootstrap.prepare(columns)
        return [bootstrap.mean(column) for column in columns]

    return work


class Virtual:
    """Images or masks 64 x 64 of a split that are made when they are asked for, as a memory map reads them."""

    def __init__(self, *shape: int) -> None:
        self.shape = (*shape, 64, 64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        n = len(range(*part.indices(len(self))))
        return np.tile(np.arange(64, dtype=np.uint8) % 2, (n, *self.shape[1:-1], 1))


def validating(n: int) -> Work:
    """Predict and score a split with a model that costs nothing."""
    import torch

    from textmask.data.cache import SplitData
    from textmask.methods.base import Method
    from textmask.methods.registry import get_method
    from textmask.text.grammar import parse
    from textmask.training.validation import validate
    from textmask.types import Output

    class Gray(Method):
        def forward(self, image, text):
            return Output(logits=torch.logit(image.mean(1, keepdim=True).clamp(0.01, 0.99)))

    recipe = get_method("unet").recipe().smoke().model_copy(update={"image_size": (64, 64)})
    rows = rows_of(n).rows
    data = SplitData(
        rows=rows,
        images=Virtual(n, 1),
        masks=Virtual(n),
        has_mask=np.ones(n, bool),
        prompts=tuple(row.text for row in rows),
        statements=tuple(parse(row.text) for row in rows),
        keys=tuple(row.image for row in rows),
        native_sizes=np.full((n, 2), 64),
    )
    return lambda: validate(Gray(), data, recipe)


def writing_scores(n: int) -> Work:
    """The file of the scores of each image."""
    from textmask.evaluation.scores import ImageScores, write_scores
    from textmask.metrics.overlap import Counts

    rows = rows_of(n).rows
    counts = Counts(*np.random.default_rng(0).integers(1, 5000, (3, n)))
    scores = ImageScores.of([row.image for row in rows], rows, [""] * n, counts, "one", {})
    path = Path(tempfile.mkdtemp()) / "scores.csv"
    return lambda: write_scores(path, {"model": scores})


STEPS: dict[str, Callable[[int], Work]] = {
    "manifest": reading,
    "manifest_hash": hashing,
    "checks": checking,
    "near_duplicates": near_duplicates,
    "video_frames": video_frames,
    "shuffled_text": shuffling,
    "bootstrap": resampling,
    "validation": validating,
    "scores_file": writing_scores,
}
# wanted at a million rows: seconds, and MB above what the process had before
SECONDS = {"manifest": 10, "checks": 5, "near_duplicates": 180}
MEGABYTES = {"manifest": 600, "validation": 300, "scores_file": 100}
EXPONENT = 1.1


def peak() -> float:
    """Peak of the memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3


def measure(step: str, n: int) -> None:
    """Measure one step in this process, and print seconds and MB as JSON."""
    work = STEPS[step](n)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = peak()
    begin = time.process_time()
    kept = work()
    seconds = time.process_time() - begin
    print(json.dumps([seconds, peak() - before]))
    del kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest number of rows")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.steps) - set(STEPS):
        parser.error(f"unknown step: {', '.join(unknown)}")
    if given.measure:
        measure(given.steps[0], given.measure)
        return 0

    goals = Goals()
    for step in given.steps or STEPS:
        seconds, memory = {}, {}
        for n in (size for size in SIZES if size <= given.most):
            command = [sys.executable, __file__, step, "--measure", str(n)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            found = subprocess.run(command, capture_output=True, text=True, env=environment)
            if found.returncode:
                raise SystemExit(found.stderr)
            seconds[n], memory[n] = json.loads(found.stdout.splitlines()[-1])
            print(f"{step} n={n}: {seconds[n]:.3f} s, {memory[n]:.0f} MB", flush=True)

        # the growth of those that take long enough to be measured
        long = {n: time for n, time in seconds.items() if time > FITTED}
        if len(long) > 1:
            slope = np.polyfit(np.log(list(long)), np.log(list(long.values())), 1)[0]
            goals.at_most(f"scale_{step}_exponent", float(slope), EXPONENT)
        if SIZES[-1] in seconds and step in SECONDS:
            goals.at_most(f"scale_{step}_seconds", seconds[SIZES[-1]], SECONDS[step])
        if SIZES[-1] in memory and step in MEGABYTES:
            goals.at_most(f"scale_{step}_mb", memory[SIZES[-1]], MEGABYTES[step])

    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
