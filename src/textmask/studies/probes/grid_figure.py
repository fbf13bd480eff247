"""Several runs side by side on the same images, also damaged ones, with their prompts: the papers' figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from textmask.data.loaders import Damage, SplitData, build_text, open_split, scaled, to_image
from textmask.data.manifest import Manifest
from textmask.errors import ConfigError, DataError, choose
from textmask.inference.predict_split import predict_split
from textmask.io.images import write_png
from textmask.metrics.overlap import counts, dice_per_image
from textmask.plots.overlays import (
    LEGEND,
    Bytes,
    contour,
    error_overlay,
    heat,
    side_by_side,
    stacked,
)
from textmask.runs.checkpoint import Run, load_run
from textmask.studies.robustness.severity import damage_by

Show = Literal["errors", "attention"]
SHOWN: tuple[Show, ...] = ("errors", "attention")
CLEAN = ""


@dataclass(frozen=True)
class GridOptions:
    """What a figure shows.

    Attributes:
        split: name of the split.
        rows: keys or file names of its images, in order; or how many to draw at random.
        corruptions: (name, severity) pairs; each image has one strip undamaged and one per pair.
        show: `errors` draws hits, misses and false alarms; `attention` the map that each run publishes.
        seed: of the choice of images and of the damage.
        side_px: width of a panel.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: called with (done, total) runs.
    """

    split: str = "test"
    rows: tuple[str, ...] | int = 4
    corruptions: tuple[tuple[str, float], ...] = ()
    show: Show = "errors"
    seed: int = 0
    side_px: int = 224
    cache_dir: Path | None = None
    device: str = "auto"
    progress: Callable[[int, int], None] | None = None


def draw_grid(
    runs: Sequence[Path], manifest: Manifest, out: Path, options: GridOptions
) -> list[str]:
    """Draw one strip per image and damage: the image, its mask, and each run's answer with its Dice.

    Source: C2Seg Fig. 4 and 5, SSA Fig. 3, BiCLIP Fig. 2, DuSSS Fig. 4, Semi-MedRef Fig. 2.

    Args:
        runs: run folders, from left to right.
        manifest: the manifest that holds the split.
        out: PNG to write.
        options: see `GridOptions`.

    Returns:
        The keys of the images, from top to bottom.

    Raises:
        ConfigError: no run; a run that publishes no attention; an unknown corruption.
        DataError: a row is not in the split.
    """
    if not runs:
        raise ConfigError("a figure needs at least one run.")
    choose("show", options.show, list(SHOWN))
    numbers = _rows_to_draw(manifest, options)
    damages: list[tuple[str, Damage | None]] = [(CLEAN, None)]
    for name, severity in options.corruptions:
        damages.append((f"{name} {severity:g}", damage_by(name, severity, options.seed)))

    # folders of equal names are told apart by the folders that they are in
    names = [path.resolve().name for path in runs]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in runs]

    # run by run, so that one network is in memory at a time
    panels: dict[tuple[int, int], list[tuple[Bytes, str]]] = {}
    headings: dict[int, str] = {}
    keys: list[str] = []
    for done, path in enumerate(runs):
        run = load_run(path, options.device)
        data = open_split(manifest, options.split, run.recipe.image_size, options.cache_dir).take(
            numbers
        )
        keys = list(data.keys)
        for j, (_, damage) in enumerate(damages):
            images = scaled(np.asarray(data.images))
            seen = images if damage is None else damage(images, data.keys)
            pixels = (seen.numpy().transpose(0, 2, 3, 1) * 255 + 0.5).astype(np.uint8)
            probabilities = predict_split(run.method, data, run.recipe, damage=damage)
            maps = _attention_of(run, data, damage) if options.show == "attention" else None
            for i in range(len(data)):
                shown = _panel(pixels[i], options.side_px)
                truth = _mask_at(data.masks[i], shown)
                strip = panels.setdefault((i, j), [])
                if not strip:
                    strip += [
                        (shown, "image"),
                        (contour(shown, truth, thickness_px=2), "true mask"),
                    ]
                hard = probabilities[i] > run.recipe.threshold
                score = dice_per_image(counts(hard[None], data.masks[i : i + 1] > 0))[0]
                title = f"{names[done]} {100 * score:.1f}"
                if maps is not None:
                    drawn = heat(shown, _map_at(maps[i], shown))
                else:
                    drawn = error_overlay(shown, _mask_at(hard, shown), truth)
                strip.append((drawn, title))
        for i, prompt in enumerate(data.prompts):
            headings[i] = f"{data.keys[i]}: {prompt or '(no prompt)'}"
        if options.progress:
            options.progress(done + 1, len(runs))

    rows, titles = [], []
    for (i, j), strip in sorted(panels.items()):
        rows.append(side_by_side([panel for panel, _ in strip], [title for _, title in strip]))
        titles.append(f"{headings[i]} [{damages[j][0]}]" if j else headings[i])
    if options.show == "errors":
        rows.append(_color_legend())
        titles.append("Dice in percent after the name of each run")
    write_png(out, stacked(rows, titles))
    return keys


def _rows_to_draw(manifest: Manifest, options: GridOptions) -> np.ndarray:
    """Numbers of the rows to draw."""
    rows = manifest.rows_of(options.split)
    if isinstance(options.rows, int):
        usable = [i for i, row in enumerate(rows) if row.mask is not None]
        if not usable:
            raise DataError(f"split {options.split} has no masks to compare with.")
        drawn = np.random.default_rng(options.seed).permutation(usable)[: options.rows]
        return np.sort(drawn)

    numbers = []
    for name in options.rows:
        found = [
            i
            for i, row in enumerate(rows)
            if name in (row.image, Path(row.image).name, Path(row.image).stem)
        ]
        if not found:
            raise DataError(
                f"--rows {name}: no such image in split {options.split}. Its first is {Path(rows[0].image).name}."
            )
        numbers.append(found[0])
    return np.array(numbers)


def _attention_of(run: Run, data: SplitData, damage: Damage | None) -> np.ndarray:
    """The map that a run publishes of each image, N H W in [0, 1].

    Raises:
        ConfigError: its method publishes none.
    """
    session = run.session()
    maps = []
    with session.running() as model:
        for i in range(len(data)):
            part = slice(i, i + 1)
            image = to_image(np.asarray(data.images[part]), damage, data.keys[part])
            text = build_text(data.prompts[part], data.statements[part]).to(session.device)
            found = model(image.to(session.device), text).aux.get("attention")
            if found is None:
                raise ConfigError(
                    f"{run.path}: {run.recipe.method} publishes no attention map. Leave the run out, or use "
                    "--show errors."
                )
            maps.append(found[0, 0].float().cpu().numpy())
    return np.array(maps)


def _panel(pixels: Bytes, side_px: int) -> Bytes:
    """An image at the width of a panel."""
    rows = max(round(pixels.shape[0] * side_px / pixels.shape[1]), 1)
    plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return np.asarray(cv2.resize(plain, (side_px, rows), interpolation=cv2.INTER_LINEAR), np.uint8)


def _mask_at(mask: np.ndarray, panel: Bytes) -> np.ndarray:
    size = (panel.shape[1], panel.shape[0])
    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))


def _map_at(values: np.ndarray, panel: Bytes) -> np.ndarray:
    size = (panel.shape[1], panel.shape[0])
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR))


def _color_legend() -> Bytes:
    """The meaning of the colors of `error_overlay`."""
    swatches = []
    for color in LEGEND.values():
        swatch = np.full((8, 120, 3), 255, np.uint8)
        swatch[:, :] = color
        swatches.append(swatch)
    return side_by_side(swatches, list(LEGEND))
