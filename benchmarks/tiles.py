"""Tiles of a 1000 x 1000 image in batches compared with one tile at a time, and the memory for 4000 x 4000.

Both sides are `Predictor.segment` of `mean_teacher` (lite preset: EfficientNet-Lite0, MiniLM, untrained decoder), one
thread, in bf16 as the recipe has it, with the same tiles and weights. The loop is the simplest code: it passes
each tile to the predictor as an image of its own, encodes the prompt again each time, and adds the results. Batches
save the cost per call: the weights are cast to bf16, the prompt is encoded, and hundreds of operators start for little
work. So the gain is larger for small tiles; the second size is printed without a goal.

Memory is that of a new process: its highest resident size minus the size before the prediction and minus the result,
the only float32 H x W that must grow with the image.
"""

import copy
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from timing import Goals, interleave
from torch import nn

from textmask.config import Tiles
from textmask.inference.predictor import Predictor
from textmask.inference.tiles import blend_weights, predict_tiles, tile_starts
from textmask.methods.registry import build_method, preset_recipe
from textmask.runs.checkpoint import Run
from textmask.runs.environment import prepare_cpu
from textmask.text.grammar import parse

SENTENCE = "The nuclei density in the upper left is high."
SIDE, LARGE = 1000, 4000
TILES = Tiles(size=(128, 128), overlap=32, native=True)
LARGER_TILES = Tiles(size=(256, 256), overlap=64, native=True)
FEW_TILES = LARGER_TILES.model_copy(
    update={"batch": 5}
)  # which the 25 tiles of the small image fill evenly


class EncodedEachTime(nn.Module):
    """The frozen text encoder without its table: a text that brings its tokens bypasses it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def too_long(self, prompts) -> int:
        return self.encoder.too_long(prompts)

    def forward(self, text):
        return self.encoder(self.encoder.tokenize(text))


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def predictor(method, tiles: Tiles | None, size: tuple[int, int], precision: str) -> Predictor:
    changes = {"tiles": tiles, "image_size": size, "precision": precision}
    recipe = preset_recipe("mean_teacher", "lite").model_copy(update=changes)
    # the prompt names a side, so the convention of the model must be known
    return Predictor(Run(Path(), recipe, method, {"laterality": "image"}, {}))


def one_by_one(single: Predictor, pixels: np.ndarray, tiles: Tiles) -> np.ndarray:
    """Each tile an image of its own."""
    (h, w), (rows, columns) = tiles.size, pixels.shape[:2]
    tops, lefts = tile_starts(rows, h, tiles.overlap), tile_starts(columns, w, tiles.overlap)
    down, across = blend_weights(tops, h), blend_weights(lefts, w)
    total = np.zeros((rows, columns), np.float32)
    for (i, top), (j, left) in product(enumerate(tops), enumerate(lefts)):
        tile = pixels[top : top + h, left : left + w]
        found = single.set_image(tile).segment(SENTENCE).probability
        total[top : top + h, left : left + w] += found * down[i][:, None] * across[j]
    return total


def batches_against_loop(method, naive, tiles: Tiles, repeats: int) -> float:
    """How many times faster; checks that both results are equal to 1e-5, also in fp32."""
    pixels = noise(SIDE)
    for side, precision in ((3 * tiles.size[0], "fp32"), (SIDE, "bf16")):
        single, many = (
            predictor(naive, None, tiles.size, precision),
            predictor(method, tiles, tiles.size, precision),
        )
        part = pixels[:side, :side]
        found, expected = (
            many.set_image(part).segment(SENTENCE).probability,
            one_by_one(single, part, tiles),
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        print(
            f"{precision} {side} x {side}: largest difference {np.abs(found - expected).max():.1g}"
        )
    times = interleave(
        {
            "batches": lambda: many.set_image(pixels).segment(SENTENCE),
            "loop": lambda: one_by_one(single, pixels, tiles),
        },
        repeats,
    )
    count = len(tile_starts(SIDE, tiles.size[0], tiles.overlap)) ** 2
    print(
        f"{count} tiles of {tiles.size[0]} x {tiles.size[1]}: batches of at most {tiles.batch} "
        f"{times['batches']:.2f} s, one at a time {times['loop']:.2f} s"
    )
    return times["loop"] / times["batches"]


def memory(side: int) -> int:
    """Bytes beyond image and result, in this process."""
    torch.set_num_threads(1)
    prepare_cpu()
    method = build_method(preset_recipe("mean_teacher", "lite")).eval().requires_grad_(False)
    pixels = noise(side).transpose(2, 0, 1)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = predict_tiles(method, pixels, SENTENCE, parse(SENTENCE), FEW_TILES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak - before - found["probability"].nbytes


def memory_of(side: int) -> float:
    """Likewise in MB, in a process of its own."""
    command = [sys.executable, __file__, "memory", str(side)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6


def main() -> int:
    torch.set_num_threads(1)
    prepare_cpu()
    method = build_method(preset_recipe("mean_teacher", "lite")).eval().requires_grad_(False)
    naive = copy.deepcopy(method)
    naive.text_encoder = EncodedEachTime(method.text_encoder)
    goals = Goals()
    goals.at_least("tiles_over_one_at_a_time", batches_against_loop(method, naive, TILES, 7), 3)
    print(
        f"with larger tiles: {batches_against_loop(method, naive, LARGER_TILES, 7):.2f} times, no goal"
    )
    small, large = memory_of(SIDE), memory_of(LARGE)
    print(
        f"beyond image and result: {SIDE} x {SIDE} {small:.0f} MB, {LARGE} x {LARGE} {large:.0f} MB"
    )
    goals.at_least("tiles_memory_1000_over_4000", small / large, 0.8)
    return goals.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print(memory(int(sys.argv[2])))
        raise SystemExit
    raise SystemExit(main())
