"""Predict a whole split, batch by batch; training validates and `evaluate` scores through this one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import cv2
import numpy as np
import torch

from textmask.config import Recipe
from textmask.data.loaders import Damage, SplitData, build_text, scaled, to_image
from textmask.data.manifest import Row
from textmask.errors import DataError
from textmask.method import Method
from textmask.run.tiles import predict_tiles
from textmask.text.grammar import parse
from textmask.text.statement import Statement


def predict_split(
    method: Method,
    data: SplitData,
    recipe: Recipe,
    *,
    prompts: Sequence[str] | None = None,
    damage: Damage | None = None,
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
        batch_size: pictures at a time, where they are not cut up.
        progress: called with (done, total).

    Raises:
        DataError: `prompts` has another length than the split.
    """
    if prompts is not None and len(prompts) != len(data):
        raise DataError(f"got {len(prompts)} sentences for {len(data)} pictures; give one a picture.")
    sentences = data.prompts if prompts is None else tuple(prompts)
    statements = data.statements
    if prompts is not None:
        statements = read_prompts(sentences, data.rows)
    out = np.empty((len(data), *data.masks.shape[1:]), np.float16)
    device = next(chain(method.parameters(), method.buffers()), torch.empty(0)).device
    was_training = method.training
    method.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            size = 1 if recipe.tiles is not None else batch_size  # one picture fills a batch with its tiles
            for begin in range(0, len(data), size):
                part = slice(begin, min(begin + size, len(data)))
                pixels, keys = data.images[part], data.keys[part]
                if recipe.tiles is not None:
                    if damage is not None:
                        pixels = damage(scaled(pixels), keys).numpy()
                    told = sentences[begin], statements[begin]
                    out[part] = predict_tiles(method, pixels[0], *told, recipe.tiles, device=device)["probability"]
                else:
                    image = to_image(pixels, damage, keys).to(device)
                    text = build_text(sentences[part], statements[part]).to(device)
                    out[part] = method(image, text).probability[:, 0].cpu().numpy()
                if progress:
                    progress(part.stop, len(data))
    finally:
        method.train(was_training)
    return out


def read_prompts(prompts: Sequence[str], rows: Sequence[Row]) -> tuple[Statement, ...]:
    """What N sentences claim, each read with the convention of the row it is given to."""
    return tuple(parse(prompt, row.grammar, row.laterality) for prompt, row in zip(prompts, rows, strict=True))


def resize_probability(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities H W to `size` (rows, columns), float32, bilinear as `predict` does it: never the hard mask."""
    rows, columns = size
    return np.asarray(cv2.resize(probability.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR))


def shuffled_prompts(data: SplitData, seed: int) -> tuple[list[str], int]:
    """Every picture gets another picture's sentence, one that names other zones wherever the data allow it.

    A seeded random permutation; then each position whose new sentence claims the same as its own changes places with a
    random position for which neither of the two claims the same afterwards. That reaches the smallest possible number
    of positions left (0 unless one claim makes up more than half of the split).

    Returns:
        The N sentences, and how many positions still hold a sentence that claims the same.
    """
    rng = np.random.default_rng([seed, 0x5FF1E])
    claims = _claims(data)
    order = rng.permutation(len(data))
    for i in rng.permutation(np.flatnonzero(claims[order] == claims)):
        if claims[order[i]] == claims[i]:  # an earlier exchange may have helped already
            partners = np.flatnonzero((claims[order] != claims[i]) & (claims != claims[order[i]]))
            if len(partners):
                j = rng.choice(partners)
                order[i], order[j] = order[j], order[i]
    return [data.prompts[i] for i in order], int((claims[order] == claims).sum())


def _claims(data: SplitData) -> np.ndarray:
    """N numbers, equal where two sentences name the same zones, or are the same sentence where no zone is named."""
    pairs = zip(data.statements, data.prompts, strict=True)
    keys = [statement.bits() if statement.has_location else prompt for statement, prompt in pairs]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
