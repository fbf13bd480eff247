"""The one runner of studies: cells of a design over seeds, made by an engine, summarised after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from textmask.cluster import Launcher
from textmask.data.manifest import Manifest, interval_groups
from textmask.errors import CheckpointError, ConfigError, TextMaskError
from textmask.evaluation.protocol import HD95
from textmask.methods.registry import Arm, preset_recipe
from textmask.runs.session import find_device
from textmask.studies.grid.cells import LabelledList, Trial, TrialSet
from textmask.studies.grid.design import StudyPlan
from textmask.studies.grid.launch import TrialOutcome, run_trials
from textmask.studies.grid.summary import Finished, summarise, write_study

Say = Callable[[str], None]
PATIENCE_S = 60.0  # for the row of a cell made on another machine to appear


def plan(
    method: str,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    out: Path,
    *,
    preset: str = "lite",
    settings: Sequence[str] = (),
    labelled_fraction: float | None = None,
) -> tuple[Trial, ...]:
    """Cells seed by seed, so that an early stop leaves whole seeds that can be compared.

    Settings are applied in the order: `settings`, the labelled fraction, those of the arm, the seed. The arm decides.

    Raises:
        ConfigError: a wrong setting, naming its arm; no seed.
    """
    if not seeds or not arms:
        raise ConfigError(
            f"got {len(arms)} arms and {len(seeds)} seeds, expected at least one of each."
        )
    fraction = (
        [] if labelled_fraction is None else [f"stages.*.labelled_fraction={labelled_fraction}"]
    )
    cells = []
    for seed in dict.fromkeys(seeds):
        for arm in arms:
            made = (*settings, *fraction, *arm.settings, f"seed={seed}")
            try:
                recipe = preset_recipe(arm.method or method, preset).override(*made)
            except ConfigError as error:
                raise ConfigError(f"arm {arm.name!r}: {error}") from error
            cells.append(Trial(arm, seed, recipe, made, out / f"{arm.name}-seed{seed}"))
    return tuple(cells)


def run_study(
    design: StudyPlan,
    manifest: Manifest,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    preset: str = "lite",
    settings: Sequence[str] = (),
    labelled_fraction: float | None = None,
    labelled_list: Path | None = None,
    split: str = "test",
    n_bootstrap: int = 2000,
    cache_dir: Path | None = None,
    device: str = "auto",
    engine: Launcher | None = None,
    progress: Say | None = None,
) -> dict[str, Any]:
    """Train the arms of a design over seeds and compare them; called again it goes on where it was stopped.

    Leaves in `out`: a run folder `<arm>-seed<k>` per cell, study.csv (one row per finished cell of the folder) and,
    for the arms and seeds asked for, study.json, table.md and study.png. These are written anew after every cell.
    Intervals are of two kinds, named in the table: over images (other patients, the same trained models) and over
    seeds (another training, the same images). The seed changes the initial weights, the order, the augmentation and,
    below a fraction of 1, which pictures keep their masks.

    Args:
        design: the arms and what is compared.
        manifest: the table of the data; trained on `train`, chosen on `valid`.
        out: folder of the study.
        seeds: of the trainings.
        preset: paper, lite or smoke.
        settings: overrides for all arms.
        labelled_fraction: share of train that keeps its masks.
        labelled_list: a text file of image names: in every cell only these train rows keep their masks.
        split: what is predicted and scored.
        n_bootstrap: resamples of an interval.
        cache_dir: of the decoded pictures.
        device: auto, cpu, cuda, cuda:N or mps.
        engine: where the cells run; None is here, one after another.
        progress: called with a line of text per cell; None is silence.

    Returns:
        What is written to study.json.

    Raises:
        ConfigError: a wrong setting or split; a cell's folder holds a run of other settings; a labelled list beside a
            fraction below 1; an engine that is not installed.
        DataError: pictures that cannot be scored; a cell's folder holds a run on other data or labelled pictures.
        CheckpointError: a folder cannot be written.
        TextMaskError: cells that failed on other machines, when all others are finished.
    """
    if engine is None or engine.name == "local":
        find_device(device)  # other machines have devices of their own
    out, manifest = (
        out.absolute(),
        replace(manifest, root=manifest.root.absolute()),
    )  # workers may start elsewhere
    base = preset_recipe(design.method, preset).override(*settings)
    common: dict[str, Any] = {"settings": tuple(settings), "labelled_fraction": labelled_fraction}
    cells = plan(design.method, design.arms, seeds, out, preset=preset, **common)
    listed = (
        None if labelled_list is None else LabelledList.read(labelled_list.absolute(), manifest)
    )
    grid = TrialSet(
        cells, manifest, split, base, cache_dir and cache_dir.absolute(), listed, device
    )
    grid.check()
    groups = interval_groups(manifest.rows_of(split))
    shared: dict[str, Any] = {
        "kind": design.kind,
        "title": design.title,
        "method": design.method,
        "study": design.study,
    }
    shared |= {
        "preset": preset,
        **common,
        "labelled_list": None if listed is None else listed.as_json(),
    }
    shared |= {
        "data": manifest.name,
        "data_hash": manifest.hash(),
        "split": split,
        "size": list(base.image_size),
    }
    shared |= {"empty_policy": base.empty_policy, "hd95": HD95, "n_bootstrap": n_bootstrap}

    say = progress or (lambda line: None)
    results = [grid.read(cell) for cell in cells]
    failed: list[TrialOutcome] = []

    def write() -> dict[str, Any]:
        summary = summarise(
            design.arms, [done for done in results if done], groups, shared, design.pairs
        )
        summary["missing"] = [
            cell.path.name for cell, done in zip(cells, results, strict=True) if done is None
        ]
        write_study(out, summary)
        return summary

    def name(cell: Trial) -> str:
        return f"[{cells.index(cell) + 1}/{len(cells)}] {cell.path.name} ({cell.arm.title})"

    def tell(cell: Trial, done: Finished) -> None:
        row = done.row
        say(
            f"{name(cell)}: dice_per_image {row['dice_per_image']:.4f}, dice_pooled {row['dice_pooled']:.4f}"
        )

    def started(cell: Trial, where: str) -> None:
        say(f"{name(cell)}: {f'{where}, ' if where else ''}{_time_left(cells, results)}")

    for cell, done in zip(cells, results, strict=True):
        if done is not None:
            tell(cell, done)
    left = [cell for cell, done in zip(cells, results, strict=True) if done is None]
    for outcome in run_trials(engine or Launcher(), grid, left, started, progress is not None):
        if outcome.error:
            failed.append(outcome)
            say(f"{name(outcome.cell)}: {outcome.error}")
            continue
        done = results[cells.index(outcome.cell)] = _row_of(grid, outcome.cell)
        write()
        tell(outcome.cell, done)
    broken = [
        f"  {outcome.cell.path.name}: {outcome.error}" for outcome in failed if not outcome.busy
    ]
    if broken:
        more = "The same command makes them again."
        raise TextMaskError(
            f"{len(broken)} of {len(cells)} cells failed:\n" + "\n".join([*broken, more])
        )
    return write()


def _row_of(grid: TrialSet, cell: Trial) -> Finished:
    """The row that a cell left; a network file system may show it late."""
    deadline = time.monotonic() + PATIENCE_S
    while (done := grid.read(cell)) is None:
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{cell.path} was made, but its row is not here. All machines must see the same folder: give an --out "
                "on a file system that they share."
            )
        time.sleep(1)
    return done


def _time_left(cells: Sequence[Trial], results: Sequence[Finished | None]) -> str:
    """Training time of what is left, from the finished cells of the same arm, or of any."""
    seconds: dict[str, list[float]] = {}
    for done in results:
        if done is not None:
            seconds.setdefault(done.row["arm"], []).append(done.row["seconds"])
    left = [cell.arm.name for cell, done in zip(cells, results, strict=True) if done is None]
    if not seconds:
        return f"{len(left)} cells left"
    anyone = [value for values in seconds.values() for value in values]
    total = sum(float(np.mean(seconds.get(name, anyone))) for name in left)
    return f"{len(left)} cells left, about {total / 60:.0f} minutes of training"
