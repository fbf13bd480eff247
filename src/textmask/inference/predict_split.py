"""Predict a whole split, batch by batch: the one function by which training validates and `evaluate` scores."""

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
from textmask.runs.session import Session, refuse_not_finite


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
    """Probabilities N H W (float16, in [0, 1]) of a split.

    Args:
        method: the model; in eval mode while it predicts.
        data: the decoded split, N images.
        recipe: gives the precision and the tiles.
        prompts: N prompts that replace the split's own; they are parsed again, so that the zones follow them.
        damage: changes the images (B C H W in [0, 1]; C is 1 if all are grey) of the given keys before the model
            sees them.
        device: see `find_device`; None leaves the method where it is.
        batch_size: images per batch; an image that is cut into tiles is a batch of its own.
        progress: called with (done, total).

    Raises:
        DataError: `prompts` has another length than the split.
        CheckpointError: the model returns values that are not finite.
    """
    # other prompts are parsed with the laterality of their rows
    statements = data.statements
    if prompts is None:
        prompts = data.prompts
    elif len(prompts) == len(data):
        statements = read_prompts(tuple(prompts), data.rows)
    else:
        raise DataError(
            f"got {len(prompts)} prompts for {len(data)} images, expected one per image."
        )

    # half precision: a large split must fit into memory
    session = Session(method, recipe, device)
    size = batch_size if recipe.tiles is None else 1
    out = np.empty((len(data), *data.masks.shape[1:]), np.float16)
    with session.running() as model:
        for begin in range(0, len(data), size):
            part = slice(begin, min(begin + size, len(data)))
            pixels, keys = data.images[part], data.keys[part]

            # whole images in a batch, or the tiles of one image
            if recipe.tiles is None:
                image = to_image(pixels, damage, keys).to(session.device)
                text = build_text(prompts[part], statements[part]).to(session.device)
                out[part] = model(image, text).probability[:, 0].cpu().numpy()
            else:
                if damage is not None:
                    pixels = damage(scaled(pixels), keys).numpy()
                planes = predict_tiles(
                    model,
                    pixels[0],
                    prompts[begin],
                    statements[begin],
                    recipe.tiles,
                    device=session.device,
                )
                out[part] = planes["probability"]

            names = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"
            refuse_not_finite(out[part], names)
            if progress:
                progress(part.stop, len(data))
    return out


def resize_probability(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize probabilities H W to `size` (rows, columns), float32, bilinear like `predict`: never the binary mask."""
    rows, columns = size
    return np.asarray(
        cv2.resize(probability.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    )
