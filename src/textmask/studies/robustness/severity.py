"""What breaks a model first? Corrupted prompts and damaged images at graded severity, compared with the clean ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textmask.data.corruptions import CORRUPTIONS, corrupt, image_generators
from textmask.data.loaders import Damage
from textmask.data.manifest import Manifest
from textmask.errors import ConfigError, choose
from textmask.evaluation.records import PerturbationRow, Value
from textmask.evaluation.summary import RobustnessKind, RobustnessSummary
from textmask.evaluation.tables import bar
from textmask.plots.charts import severity_png
from textmask.studies.robustness.perturbations import (
    Perturbation,
    RobustnessBench,
    RobustnessOptions,
    each,
    open_bench,
)
from textmask.studies.robustness.summary import (
    Column,
    PerturbationTable,
    RobustnessStudy,
    write_robustness,
)
from textmask.text.noise import TEXT_NOISE, spoil

FIGURES: dict[str, Column] = {
    "dice_per_image": lambda row: row.dice_per_image,
    "minus clean": lambda row: row.dice_per_image_minus_clean,
    "dice_pooled": lambda row: row.dice_pooled,
    "minus clean, pooled": lambda row: row.dice_pooled_minus_clean,
    "iou_per_image": lambda row: row.iou_per_image,
    "iou_pooled": lambda row: row.iou_pooled,
    "location F1": lambda row: row.location_own,
    "location minus clean": lambda row: row.location_own_minus_clean,
    "empty masks": lambda row: row.empty_masks,
}
CURVES: dict[str, Callable[[PerturbationRow], Value | None]] = {
    "dice_per_image, change in points": lambda row: row.dice_per_image_minus_clean,
    "location F1, change in points": lambda row: row.location_own_minus_clean,
}
Severities = Mapping[str, Sequence[float]]
Maker = Callable[[str, float], Perturbation]


def study_text_noise(
    run: Path,
    manifest: Manifest,
    split: str = "test",
    kinds: Sequence[str] = (),
    options: RobustnessOptions | None = None,
) -> RobustnessStudy:
    """Corrupt the prompts of a split at graded severity and measure what that costs.

    Masks are judged by the image's own prompt and the true masks. The table also says how many prompts the grammar
    still reads as before: methods that take zones from the grammar can only follow those.

    Args:
        run: run folder.
        manifest: the manifest that holds the split.
        split: its name.
        kinds: keys of `TEXT_NOISE` (default: all).
        options: the rest.

    Raises:
        ConfigError, DataError, CheckpointError: as `open_bench`; an unknown kind.
    """
    options = options or RobustnessOptions()
    chosen = _chosen("text noise", kinds, list(TEXT_NOISE))
    severities = {name: TEXT_NOISE[name].severities for name in chosen}
    seed = options.seed

    def perturbation(name: str, severity: float) -> Perturbation:
        def edit(prompt: str, rng: np.random.Generator) -> str | None:
            return spoil(prompt, name, int(severity), rng)

        return Perturbation(name, severity, prompts=each(name, edit, seed))

    notes = [f"{name}: {TEXT_NOISE[name].meaning}" for name in chosen]
    notes.append(
        "read the same: of the n rewritten prompts, how many the grammar still reads as the same places; a method "
        "without a grammar may understand more of them, or fewer"
    )
    for name in chosen:
        if not TEXT_NOISE[name].keeps:
            notes.append(
                f"{name} reverses the meaning: a model that obeys it loses Dice and leaves its masks empty"
            )

    bench = open_bench(run, manifest, split, "text-noise", options)
    columns = {"read the same": _read_the_same, **FIGURES}
    return _graded("text-noise", bench, severities, perturbation, columns, notes)


def study_corruption(
    run: Path,
    manifest: Manifest,
    split: str = "test",
    kinds: Sequence[str] = (),
    severities: Severities | None = None,
    options: RobustnessOptions | None = None,
) -> RobustnessStudy:
    """Damage the images of a split at graded severity and measure what that costs.

    The first rows are the conditions of BiCLIP's Table 3. Prompts stay, so frozen text features are computed once.

    Args:
        run: run folder.
        manifest: the manifest that holds the split.
        split: its name.
        kinds: keys of `CORRUPTIONS` (default: all).
        severities: values, mild to strong, that replace those of a kind, e.g. {"low_dose": (500, 140)}.
        options: the rest.

    Raises:
        ConfigError, DataError, CheckpointError: as `open_bench`; an unknown kind, or an impossible severity.
    """
    options = options or RobustnessOptions()
    chosen = _chosen("corruption", kinds, list(CORRUPTIONS))
    steps: dict[str, Sequence[float]] = {name: CORRUPTIONS[name].severities for name in chosen}
    for name, values in (severities or {}).items():
        choose("corruption of this study", name, chosen)
        steps[name] = _distinct(name, values)
    seed = options.seed

    def perturbation(name: str, severity: float) -> Perturbation:
        return Perturbation(name, severity, image=damage_by(name, severity, seed))

    notes = [f"{name}: {CORRUPTIONS[name].meaning}" for name in chosen]
    if "low_dose" in chosen:
        notes.append(
            "BiCLIP (Table 3) does not give the scale of its doses: do not compare its figures with these"
        )
    bench = open_bench(run, manifest, split, "corruption", options)
    return _graded("corruption", bench, steps, perturbation, FIGURES, notes)


def _read_the_same(row: PerturbationRow) -> int | None:
    return row.read_the_same


def damage_by(name: str, severity: float, seed: int) -> Damage:
    """The damage that a corruption of this severity does to images.

    Each image has a random generator of its own, so that batch and limit do not change what happens to it.
    """
    value: Any = int(severity) if float(severity).is_integer() else severity

    def apply(image: torch.Tensor, keys: Sequence[str]) -> torch.Tensor:
        return corrupt(image, name, value, image_generators(keys, seed))

    return apply


def _graded(
    study: RobustnessKind,
    bench: RobustnessBench,
    severities: Severities,
    perturbation: Maker,
    columns: Mapping[str, Column],
    notes: Sequence[str],
) -> RobustnessStudy:
    """Try every kind at each of its severities and write the study."""
    perturbations = []
    for name, values in severities.items():
        perturbations += [perturbation(name, value) for value in values]
    table = PerturbationTable(bench)
    for result in bench.results(perturbations):
        table.add(result)

    summary = RobustnessSummary(
        study=study,
        protocol=bench.protocol(),
        severities={name: tuple(values) for name, values in severities.items()},
        rows=tuple(table.rows),
    )
    chart = _severity_chart(table.rows, severities)
    return write_robustness(table, summary, columns, notes, chart)


def _severity_chart(rows: Sequence[PerturbationRow], severities: Severities) -> bytes:
    """Changes against clean over the steps of severity; a step for which no prompt has room ends its curve."""
    found = {(row.kind, row.severity): row for row in rows}
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for title, figure in CURVES.items():
        panel = {}
        for name, values in severities.items():
            points = [(0.0, 0.0, 0.0)]
            for value in values:
                change = figure(found[name, value])
                if change is None:
                    break
                _, estimate, low, high = bar("", change)
                points.append((100 * estimate, 100 * low, 100 * high))
            panel[f"{name} ({', '.join(f'{value:g}' for value in values)})"] = points
        panels[title] = panel

    longest = max(len(values) for values in severities.values())
    steps = ["clean", *(str(i + 1) for i in range(longest))]
    return severity_png(
        panels, steps, "step of severity (values in parentheses); bars: 95 % bootstrap over groups"
    )


def _chosen(what: str, kinds: Sequence[str], known: list[str]) -> list[str]:
    for kind in kinds:
        choose(what, kind, known)
    return list(dict.fromkeys(kinds)) or known


def _distinct(name: str, values: Sequence[float]) -> Sequence[float]:
    """Check severities; each is tried on a gray image, so that an impossible one stops the study at once."""
    if not values or len(set(values)) < len(values) or any(value == 0 for value in values):
        raise ConfigError(
            f"severities of {name!r}: got {list(values)}, expected distinct values other than 0."
        )
    for value in values:
        damage_by(name, value, 0)(torch.full((1, 1, 512, 512), 0.5), [""])
    return values
