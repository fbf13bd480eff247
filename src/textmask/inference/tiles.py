"""Predict an image tile by tile: overlapping tiles in batches, blended without seams."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import product

import numpy as np
import torch
from torch import Tensor

from textmask.config import Tiles
from textmask.data.loaders import build_text, for_tiles, to_image
from textmask.statement import Statement
from textmask.types import Image, Output, Text


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one axis: as few as `overlap` allows, evenly spread, from end to end."""
    if length <= size:
        return [0]
    last = -(-(length - overlap) // (size - overlap)) - 1
    return [i * (length - size) // last for i in range(last + 1)]


def blend_weights(starts: list[int], size: int) -> np.ndarray:
    """Raised cosines of the tiles along one axis, N x size; the weights of a pixel sum to 1."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    total = np.zeros(starts[-1] + size)
    for start in starts:
        total[start : start + size] += window
    return np.stack([window / total[start : start + size] for start in starts]).astype(np.float32)


def predict_tiles(
    method: Callable[[Image, Text], Output],
    pixels: np.ndarray,
    prompt: str,
    statement: Statement,
    tiles: Tiles,
    *,
    maps: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Probability of an image, float32 H W, and the `maps` that the method publishes in its `aux`, blended likewise.

    The probabilities of the tiles are averaged, not their logits. Besides the image, memory grows with its size only
    by one float32 H W per entry of the result: tiles are cut, predicted and added `tiles.batch` at a time.

    Args:
        method: a method inside a running session, or a backend.
        pixels: C H W, C 1 or 3, of any size, uint8 or floats in [0, 1]; an image smaller than a tile is padded with
            black, which is cut off again.
        prompt: of the image.
        statement: what the prompt claims; every tile gets both, see `Tiles.places`.
        tiles: how to cut.
        maps: names of B 1 h w entries of `Output.aux`.
        device: of the method.
    """
    # where the tiles are, and how much each counts per pixel
    channels, *whole = pixels.shape
    axes = [tile_starts(n, size, tiles.overlap) for n, size in zip(whole, tiles.size, strict=True)]
    weights = [blend_weights(starts, size) for starts, size in zip(axes, tiles.size, strict=True)]
    places = list(product(range(len(axes[0])), range(len(axes[1]))))
    prompts, statements = for_tiles([prompt], [statement], tiles)

    sums: dict[str, np.ndarray] = {}
    for part in np.array_split(np.array(places), -(-len(places) // tiles.batch)):
        # cut; what lies outside a small image stays black
        cut = np.zeros((len(part), channels, *tiles.size), pixels.dtype)
        windows = []
        for tile, (i, j) in zip(cut, part, strict=True):
            top, left = axes[0][i], axes[1][j]
            rows = slice(top, min(top + tiles.size[0], whole[0]))
            columns = slice(left, min(left + tiles.size[1], whole[1]))
            windows.append((rows, columns))
            tile[:, : rows.stop - top, : columns.stop - left] = pixels[:, rows, columns]

        # predict
        output = method(
            to_image(cut).to(device),
            build_text(prompts * len(part), statements * len(part)).to(device),
        )
        planes = {"probability": output.probability}
        planes.update({name: output.aux[name] for name in maps if name in output.aux})

        # add
        for name, plane in planes.items():
            if name not in sums:
                sums[name] = np.zeros(whole, np.float32)
            sized = _at_tile_size(plane, tiles.size)
            for (i, j), window, values in zip(part, windows, sized, strict=True):
                weighted = values * weights[0][i][:, None] * weights[1][j]
                target = sums[name][window]
                target += weighted[: target.shape[0], : target.shape[1]]
    return sums


def _at_tile_size(plane: Tensor, size: tuple[int, int]) -> np.ndarray:
    """B 1 h w -> float32 B H W."""
    plane = plane.float()
    if plane.shape[-2:] != size:
        plane = torch.nn.functional.interpolate(plane, size, mode="bilinear", align_corners=False)
    return plane[:, 0].cpu().numpy()
