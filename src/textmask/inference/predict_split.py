"""Predict a whole split, batch by batch; training validates and `evaluate` scores through this one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from textmask.config import Recipe
from textmask.data.loaders import Damage, SplitData, build_text, scaled, to_image
from textmask.data.shuffled_text import read_prompts
from textmask.errors import DataError
from textmask.inference.tiles import predict_tiles
from textmask.methods.base import Method
from textmask.runs.session import Session


def predict_split(
    method: Method,
    data: SplitData,
    recipe: Recipe,
    *,
    prompts: Sequence[str] | None = None,
    damage: Damage | None = None,
    device: str | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Probabilities N H W (float16) of a split.

    Args:
        method: the model; put into eval mode meanwhile.
        data: the decoded split.
        recipe: says the precision, and how pictures are cut into tiles.
        prompts: N sentences that replace the split's own; they are parsed again, so that the zones follow them.
        damage: changes the pictures (B C H W in [0, 1]; C is 1 when all are grey) of the given keys before they are
            shown to the model.
        device: see `find_device`; None means where the method is.
        batch_size: pictures at a time, where they are not cut up.
        progress: called with (done, total).

    Raises:
        DataError: `prompts` has another length than the split.
    """
    if prompts is not None and len(prompts) != len(data):
        raise DataError(
            f"got {len(prompts)} sentences for {len(data)} pictures; give one a picture."
        )
    sentences = data.prompts if prompts is None else tuple(prompts)
    statements = data.statements
    if prompts is not None:
        statements = read_prompts(sentences, data.rows)
    out = np.empty((len(data), *data.masks.shape[1:]), np.float16)
    session = Session(method, recipe, device)
    size = 1 if recipe.tiles is not None else batch_size  # the tiles of one image fill a batch
    with session.running() as model:
        for begin in range(0, len(data), size):
            part = slice(begin, min(begin + size, len(data)))
            pixels, keys = data.images[part], data.keys[part]

            if recipe.tiles is not None:
                if damage is not None:
                    pixels = damage(scaled(pixels), keys).numpy()
                found = predict_tiles(
                    model,
                    pixels[0],
                    sentences[begin],
                    statements[begin],
                    recipe.tiles,
                    device=session.device,
                )
                out[part] = found["probability"]
            else:
                image = to_image(pixels, damage, keys).to(session.device)
                text = build_text(sentences[part], statements[part]).to(session.device)
                out[part] = model(image, text).probability[:, 0].cpu().numpy()

            if progress:
                progress(part.stop, len(data))
    return out


def resize_probability(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities H W to `size` (rows, columns), float32, bilinear as `predict` does it: never the hard mask."""
    rows, columns = size
    return np.asarray(
        cv2.resize(probability.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    )
