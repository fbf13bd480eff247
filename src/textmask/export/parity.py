"""The gate of an export: compare its masks with those of eager fp32, and measure the loss of Dice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from textmask.data.loaders import SplitData, build_text, to_image
from textmask.errors import DataError
from textmask.inference.backends.graphs import Backend
from textmask.inference.tiles import predict_tiles
from textmask.metrics.overlap import counts, dice_per_image
from textmask.runs.checkpoint import Run
from textmask.runs.session import Session, refuse_not_finite

BOUNDS = {"fp32": 1e-4, "bf16": 0.005, "int8": 0.005}  # share of flipped pixels; loss of mean Dice


@dataclass(frozen=True)
class Parity:
    """An exported model compared with eager fp32 on the same images and prompts.

    Attributes:
        n: number of images; `n_masks` of them have a true mask.
        flipped: fraction of pixels whose mask differs.
        max_dp: largest difference of two probabilities.
        dice_eager, dice_exported: mean Dice per image of both; None if no image has a true mask.
        dice_loss: the first minus the second.
        ms_eager, ms_exported: milliseconds per image on this machine, in batches, with the text encoder once per
            distinct prompt.
    """

    n: int
    n_masks: int
    flipped: float
    max_dp: float
    dice_eager: float | None
    dice_exported: float | None
    dice_loss: float | None
    ms_eager: float
    ms_exported: float

    def measured(self, precision: str) -> float:
        """The figure that the bound of a precision limits: flipped pixels in fp32, else the loss of Dice.

        Raises:
            DataError: the loss of Dice is needed, and no image has a true mask.
        """
        if precision == "fp32":
            return self.flipped
        if self.dice_loss is None:
            raise DataError(
                f"the gate of {precision} needs Dice, and none of these rows has a mask. Give rows with masks."
            )
        return self.dice_loss

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        return asdict(self)


def compare_backends(
    run: Run,
    backends: Mapping[str, Backend],
    data: SplitData,
    *,
    batch_size: int = 8,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Parity]:
    """Run eager fp32 and every backend over a split.

    Args:
        run: the trained run.
        backends: the exported graphs, by runtime.
        data: the split.
        batch_size: images per call; 1 with tiles.
        device: device of eager fp32; None means where the model is. Backends run on the CPU.
        progress: called with (done, total).

    Returns:
        The figures of each backend.

    Raises:
        DataError: the split is empty.
    """
    if not len(data):
        raise DataError("the split is empty; the gate needs at least one row.")
    recipe, models = run.recipe, {"eager": run.method, **backends}
    masks: dict[str, list[np.ndarray]] = {name: [] for name in models}
    seconds, worst = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0.0)
    size = batch_size if recipe.tiles is None else 1
    session = Session(run.method, recipe, device, precision="fp32")
    places = {name: session.device if name == "eager" else torch.device("cpu") for name in models}

    # all models take turns on each batch, so that their times are comparable
    with session.running():
        for begin in range(0, len(data), size):
            part = slice(begin, min(begin + size, len(data)))
            found = {}
            for name, model in models.items():
                started = time.perf_counter()
                found[name] = _probability(run, model, data, part, places[name])
                seconds[name] += time.perf_counter() - started
                refuse_not_finite(found[name], f"{name}, rows {part.start} to {part.stop - 1}")
                masks[name].append(found[name] > recipe.threshold)
                worst[name] = max(worst[name], float(np.abs(found[name] - found["eager"]).max()))
            if progress:
                progress(part.stop, len(data))

    whole = {name: np.concatenate(parts) for name, parts in masks.items()}
    dice = {name: _dice(mask, data) for name, mask in whole.items()}
    milliseconds = {name: 1000 * value / len(data) for name, value in seconds.items()}
    results = {}
    for name in backends:
        eager, exported = dice["eager"], dice[name]
        results[name] = Parity(
            n=len(data),
            n_masks=int(np.count_nonzero(data.has_mask)),
            flipped=float((whole[name] != whole["eager"]).mean()),
            max_dp=worst[name],
            dice_eager=eager,
            dice_exported=exported,
            dice_loss=None if eager is None or exported is None else eager - exported,
            ms_eager=milliseconds["eager"],
            ms_exported=milliseconds[name],
        )
    return results


def _probability(
    run: Run, model: Backend, data: SplitData, part: slice, device: torch.device
) -> np.ndarray:
    """Probabilities of some rows, float32 B H W."""
    tiles = run.recipe.tiles
    if tiles is not None:
        prompt, statement = data.prompts[part.start], data.statements[part.start]
        image = data.images[part][0]
        found = predict_tiles(model, image, prompt, statement, tiles, device=device)
        return found["probability"][None]

    text = build_text(data.prompts[part], data.statements[part])
    output = model(to_image(data.images[part]).to(device), text.to(device))
    return output.probability[:, 0].cpu().numpy()


def _dice(masks: np.ndarray, data: SplitData) -> float | None:
    rows = np.flatnonzero(data.has_mask)
    if not len(rows):
        return None
    return float(dice_per_image(counts(masks[rows], data.masks[rows])).mean())
