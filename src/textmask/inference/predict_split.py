"""Predict a whole split, batch by batch: the one function by which training validates and `evaluate` scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
    """Probabilities N H W (float16, in [0, 1]) of a split: 100 KB for each image of 224 x 224.

    What can be measured batch by batch should use `predict_batches`, whose memory does not grow with the split.

    Args:
        method: the model.
        data: the decoded split, N images.
        recipe: gives the precision and the tiles.
        prompts: N prompts that replace the split's own.
        damage: changes the images before the model sees them.
        device: see `find_device`.
        batch_size: images per batch.
        progress: called with (done, total).

    Raises:
        DataError, CheckpointError: as `predict_batches`.
    """
    out = np.empty((len(data), *data.masks.shape[1:]), np.float16)
    done = 0
    for batch in predict_batches(
        method,
        data,
        recipe,
        prompts=prompts,
        damage=damage,
        device=device,
        batch_size=batch_size,
        progress=progress,
    ):
        out[done : done + len(batch)] = batch
        done += len(batch)
    return out


def predict_batches(
    method: Method,
    data: SplitData,
    recipe: Recipe,
    *,
    prompts: Sequence[str] | None = None,
    damage: Damage | None = None,
    device: str | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Probabilities B H W (float16, in [0, 1]) of a split, one batch after the other, in the order of its rows.

    Args:
        method: the model; in eval mode while it predicts.
        data: the decoded split, N images.
        recipe: gives the precision and the tiles.
        prompts: N prompts that replace the split's own; they are parsed again, so that the zones follow them.
        damage: changes the images (B C H W in [0, 1]; C is 1 if all are grey) of the given keys before the model
            sees them.
        device: see `find_device`; None leaves the method where it is.
        batch_size: images per batch; an image that is cut into tiles is a batch of its own.
        progress: called with (done, total) after each batch.

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

    session = Session(method, recipe, device)
    size = batch_size if recipe.tiles is None else 1
    for begin in range(0, len(data), size):
        part = slice(begin, min(begin + size, len(data)))
        pixels, keys = data.images[part], data.keys[part]

        # the model is back in its own mode while the caller works on a batch
        with session.running() as model:
            # whole images in a batch, or the tiles of one image
            if recipe.tiles is None:
                image = to_image(pixels, damage, keys).to(session.device)
                text = build_text(prompts[part], statements[part]).to(session.device)
                found = model(image, text).probability[:, 0].cpu().numpy()
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
                found = planes["probability"][None]

        # half precision, as it was always scored
        batch = found.astype(np.float16)
        refuse_not_finite(batch, keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}")
        if progress:
            progress(part.stop, len(data))
        yield batch


def in_batches(array: np.ndarray, size: int = 32) -> Iterator[np.ndarray]:
    """The rows of an array in batches, as `predict_batches` returns them."""
    for begin in range(0, len(array), size):
        yield array[begin : begin + size]


def resize_probability(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize probabilities H W to `size` (rows, columns), float32, bilinear like `predict`: never the binary mask."""
    rows, columns = size
    return np.asarray(
        cv2.resize(probability.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    )
