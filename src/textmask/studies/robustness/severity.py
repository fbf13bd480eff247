"""What breaks a model first? Spoilt sentences and damaged pictures at graded severity, each against the clean ones."""

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
from textmask.evaluation.tables import Value, bar
from textmask.plots.charts import severity_png
from textmask.studies.robustness.perturbations import (
    Perturbation,
    RobustnessOptions,
    each,
    open_bench,
)
from textmask.studies.robustness.summary import (
    PerturbationTable,
    RobustnessStudy,
    Row,
    write_variants,
)
from textmask.text.noise import TEXT_NOISE, spoil

FIGURES = {
    "dice_per_image": "dice_per_image",
    "minus clean": "dice_per_image_minus_clean",
    "dice_pooled": "dice_pooled",
    "minus clean, pooled": "dice_pooled_minus_clean",
    "iou_per_image": "iou_per_image",
    "iou_pooled": "iou_pooled",
    "location F1": "location_own",
    "location minus clean": "location_own_minus_clean",
    "empty masks": "empty_masks",
}
CURVES = {
    "dice_per_image, change in points": "dice_per_image_minus_clean",
    "location F1, change in points": "location_own_minus_clean",
}
Severities = Mapping[str, Sequence[float]]


def study_text_noise(
    run: Path,
    manifest: Manifest,
    split: str = "test",
    kinds: Sequence[str] = (),
    options: RobustnessOptions | None = None,
) -> RobustnessStudy:
    """Spoil the sentences of a split at graded severity and say what that costs.

    Masks are judged by the picture's own sentence and the true masks. How many sentences the grammar still reads as
    before is given beside: methods that take zones from it can only follow those.

    Args:
        run: run folder.
        manifest: the table that holds the split.
        split: its name.
        kinds: keys of `TEXT_NOISE`; none means all.
        options: the rest.

    Raises:
        ConfigError, DataError, CheckpointError: as `open_bench`; an unknown kind.
    """
    options = options or RobustnessOptions()
    chosen = _chosen("text noise", kinds, list(TEXT_NOISE))
    plan = {name: TEXT_NOISE[name].severities for name in chosen}

    def variant(name: str, severity: float) -> Perturbation:
        def edit(text: str, rng: np.random.Generator) -> str | None:
            return spoil(text, name, int(severity), rng)

        return Perturbation(name, severity, text=each(name, edit, options.seed))

    notes = [f"{name}: {TEXT_NOISE[name].meaning}" for name in chosen]
    notes.append(
        "read the same: of the n rewritten sentences, how many the grammar still reads as the same places; a method "
        "without a grammar may understand more of them, or fewer"
    )
    for name in chosen:
        if not TEXT_NOISE[name].keeps:
            notes.append(
                f"{name} reverses the meaning: a model that obeys it loses Dice and leaves its masks empty"
            )
    columns = {"read the same": "read_the_same"} | FIGURES
    return _graded("text-noise", plan, variant, columns, notes, (run, manifest, split, options))


def study_corruption(
    run: Path,
    manifest: Manifest,
    split: str = "test",
    kinds: Sequence[str] = (),
    severities: Severities | None = None,
    options: RobustnessOptions | None = None,
) -> RobustnessStudy:
    """Damage the pictures of a split at graded severity and say what that costs.

    The first rows are the conditions of BiCLIP's Table 3. Sentences stay, so frozen text features are computed once.

    Args:
        run: run folder.
        manifest: the table that holds the split.
        split: its name.
        kinds: keys of `CORRUPTIONS`; none means all.
        severities: values, mild to strong, that replace those of a kind, e.g. {"low_dose": (500, 140)}.
        options: the rest.

    Raises:
        ConfigError, DataError, CheckpointError: as `open_bench`; an unknown kind, or an impossible severity.
    """
    options = options or RobustnessOptions()
    chosen = _chosen("corruption", kinds, list(CORRUPTIONS))
    plan: dict[str, Sequence[float]] = {name: CORRUPTIONS[name].severities for name in chosen}
    for name, values in (severities or {}).items():
        choose("corruption of this study", name, chosen)
        plan[name] = _distinct(name, values)

    def variant(name: str, severity: float) -> Perturbation:
        return Perturbation(name, severity, image=_damage(name, severity, options.seed))

    notes = [f"{name}: {CORRUPTIONS[name].meaning}" for name in chosen]
    if "low_dose" in chosen:
        notes.append(
            "BiCLIP (Table 3) does not say the scale of its doses: do not compare its figures with these"
        )
    return _graded("corruption", plan, variant, FIGURES, notes, (run, manifest, split, options))


def _damage(name: str, severity: float, seed: int) -> Damage:
    """Each picture with a generator of its own, so that batch and limit do not change what happens to it."""
    value: Any = int(severity) if float(severity).is_integer() else severity

    def apply(image: torch.Tensor, keys: Sequence[str]) -> torch.Tensor:
        return corrupt(image, name, value, image_generators(keys, seed))

    return apply


def _graded(
    study: str,
    plan: Severities,
    variant: Callable[[str, float], Perturbation],
    columns: dict[str, str],
    notes: Sequence[str],
    where: tuple[Path, Manifest, str, RobustnessOptions],
) -> RobustnessStudy:
    run, manifest, split, options = where
    bench = open_bench(run, manifest, split, study, options)
    table = PerturbationTable(bench)
    for outcome in bench.outcomes(
        [variant(name, value) for name, values in plan.items() for value in values]
    ):
        table.add(outcome)
    meanings = {name: list(values) for name, values in plan.items()}
    summary = {
        "study": study,
        "protocol": bench.protocol(),
        "severities": meanings,
        "rows": table.rows,
    }
    return write_variants(table, summary, columns, notes, _severity_chart(table.rows, plan))


def _severity_chart(rows: Sequence[Row], plan: Severities) -> bytes:
    """Changes against clean over the steps of severity; a step that no sentence has room for ends its curve."""
    found = {(row["kind"], row["severity"]): row for row in rows}
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for title, key in CURVES.items():
        panel = {}
        for name, values in plan.items():
            points = [(0.0, 0.0, 0.0)]
            for value in values:
                change: Value | None = found[name, value].get(key)
                if change is None:
                    break
                _, estimate, low, high = bar("", change)
                points.append((100 * estimate, 100 * low, 100 * high))
            panel[f"{name} ({', '.join(f'{value:g}' for value in values)})"] = points
        panels[title] = panel
    steps = ["clean", *(str(i + 1) for i in range(max(map(len, plan.values()))))]
    return severity_png(
        panels, steps, "step of severity (values in parentheses); bars: 95 % bootstrap over groups"
    )


def _chosen(what: str, kinds: Sequence[str], known: list[str]) -> list[str]:
    for kind in kinds:
        choose(what, kind, known)
    return list(dict.fromkeys(kinds)) or known


def _distinct(name: str, values: Sequence[float]) -> Sequence[float]:
    """The severities asked for; each tried on a grey picture, so that an impossible one stops the study at once."""
    if not values or len(set(values)) < len(values) or any(value == 0 for value in values):
        raise ConfigError(
            f"severities of {name!r}: got {list(values)}, expected distinct values other than 0."
        )
    for value in values:
        _damage(name, value, 0)(torch.full((1, 1, 512, 512), 0.5), [""])
    return values
