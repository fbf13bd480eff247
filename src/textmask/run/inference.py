"""Predict a whole split, batch by batch; training validates and `evaluate` scores through this one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from textmask.config import Recipe
from textmask.data.loaders import SplitData, build_text
from textmask.errors import DataError
from textmask.method import Method
from textmask.text.grammar import parse


def predict_split(
    method: Method,
    data: SplitData,
    recipe: Recipe,
    *,
    prompts: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Probabilities N H W (float16) of a split.

    Args:
        method: the model; put into eval mode meanwhile.
        data: the decoded split.
        recipe: says the precision.
        prompts: N sentences that replace the split's own; they are parsed again, so that the zones follow them.
        batch_size: pictures at a time.
        progress: called with (done, total).

    Raises:
        DataError: `prompts` has another length than the split.
    """
    if prompts is not None and len(prompts) != len(data):
        raise DataError(f"got {len(prompts)} sentences for {len(data)} pictures; give one a picture.")
    sentences = data.prompts if prompts is None else tuple(prompts)
    statements = data.statements if prompts is None else tuple(parse(p) for p in sentences)
    out = np.empty((len(data), *data.masks.shape[1:]), np.float16)
    device = next(iter([*method.parameters(), *method.buffers()])).device
    was_training = method.training
    method.eval()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    with torch.inference_mode(), autocast:
        for begin in range(0, len(data), batch_size):
            part = slice(begin, min(begin + batch_size, len(data)))
            image = to_image(data.images[part]).to(device)
            text = build_text(sentences[part], statements[part]).to(device)
            out[part] = method(image, text).probability[:, 0].cpu().numpy()
            if progress:
                progress(part.stop, len(data))
    method.train(was_training)
    return out


def to_image(images: np.ndarray) -> torch.Tensor:
    """Images uint8 N C H W -> float N 3 H W in [0, 1], channels last."""
    image = torch.from_numpy(np.array(images)).float().div_(255)
    return image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
