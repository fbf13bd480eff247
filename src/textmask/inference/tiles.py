"""Predict a picture tile by tile: overlapping tiles in batches, blended without seams."""

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
    """Raised cosines of the tiles along one axis, N x size; those over a pixel sum to 1."""
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
    """Probability of a picture, float32 H W, and what the method publishes of `maps` in its `aux`, blended likewise.

    The probabilities of the tiles are averaged, not their logits. Beside the picture, memory grows with its size by
    one float32 H W for each entry of the result, and by nothing else: tiles are cut, predicted and added
    `tiles.batch` at a time, and the weights of a pixel sum to 1 by the way they are made.

    Args:
        method: a method in eval mode, or a backend, within `torch.inference_mode` and the autocast of its recipe.
        pixels: C H W, C 1 or 3, of any size, uint8 or floats in [0, 1]; black is put beside a picture smaller than a
            tile, and cut off.
        prompt: the sentence of the picture.
        statement: what it claims; every tile is given both, see `Tiles.places`.
        tiles: how to cut.
        maps: names of B 1 h w entries of `Output.aux`.
        device: of the method.
    """
    channels, *whole = pixels.shape
    axes = [tile_starts(n, size, tiles.overlap) for n, size in zip(whole, tiles.size, strict=True)]
    weights = [blend_weights(starts, size) for starts, size in zip(axes, tiles.size, strict=True)]
    places = list(product(*(range(len(starts)) for starts in axes)))
    prompts, statements = for_tiles([prompt], [statement], tiles)
    sums: dict[str, np.ndarray] = {}
    for part in np.array_split(np.array(places), -(-len(places) // tiles.batch)):
        cut = np.zeros((len(part), channels, *tiles.size), pixels.dtype)
        windows = [
            tuple(
                slice(s[i], min(s[i] + size, n))
                for s, i, size, n in zip(axes, place, tiles.size, whole, strict=True)
            )
            for place in part
        ]
        for tile, (rows, columns) in zip(cut, windows, strict=True):
            tile[:, : rows.stop - rows.start, : columns.stop - columns.start] = pixels[
                :, rows, columns
            ]
        output = method(
            to_image(cut).to(device),
            build_text(prompts * len(part), statements * len(part)).to(device),
        )
        planes = {"probability": output.probability} | {
            n: output.aux[n] for n in maps if n in output.aux
        }
        for name, plane in planes.items():
            if name not in sums:
                sums[name] = np.zeros(whole, np.float32)
            for (i, j), window, values in zip(
                part, windows, _of_size(plane, tiles.size), strict=True
            ):
                weighted = values * weights[0][i][:, None] * weights[1][j]
                target = sums[name][window]
                target += weighted[: target.shape[0], : target.shape[1]]
    return sums


def _of_size(plane: Tensor, size: tuple[int, int]) -> np.ndarray:
    """B 1 h w -> float32 B H W."""
    plane = plane.float()
    if plane.shape[-2:] != size:
        plane = torch.nn.functional.interpolate(plane, size, mode="bilinear", align_corners=False)
    return plane[:, 0].cpu().numpy()
