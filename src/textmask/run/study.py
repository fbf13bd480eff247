"""Studies: a grid of (arm, seed, labelled fraction) cells, one run folder and one result row each."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmask.config import Recipe, write_json
from textmask.data.loaders import indices_from_list, labelled_indices, open_split
from textmask.data.manifest import Manifest
from textmask.errors import CheckpointError, ConfigError, DataError, TextMaskError, choose
from textmask.method import Arm, build_method, get_method, load_recipe, preset_recipe
from textmask.metrics.overlap import Counts
from textmask.run.checkpoint import WEIGHTS, file_sha256, load_run, read_json
from textmask.run.evaluate import HD95, overlap_of, refuse_leaks
from textmask.run.scoring import Scorer
from textmask.run.study_table import Finished, summarise, write_study
from textmask.run.train import train

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One training of a grid; `settings` are all assignments that made its recipe of the preset."""

    arm: Arm
    seed: int
    recipe: Recipe
    settings: tuple[str, ...]
    path: Path

    @property
    def fraction(self) -> float:
        """Share of the train split that keeps its masks in the last stage."""
        return self.recipe.stages[-1].labelled_fraction


@dataclass(frozen=True)
class LabelledList:
    """A published list of labelled pictures: the only ones of the `train_rows` of train that keep their masks."""

    path: Path
    sha256: str
    indices: tuple[int, ...]
    train_rows: int

    @classmethod
    def read(cls, path: Path, manifest: Manifest) -> LabelledList:
        """Find the names of a text file among the train rows.

        Raises:
            DataError: the file cannot be read, or names a picture that is not in train.
        """
        keys = [row.image for row in manifest.rows_of("train")]
        try:
            sha256, indices = file_sha256(path), indices_from_list(path, keys)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the list of labelled pictures cannot be read: {error}.") from error
        return cls(path, sha256, tuple(indices.tolist()), len(keys))

    def as_json(self) -> dict[str, Any]:
        """What the protocol says of it."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "rows": len(self.indices),
            "train_rows": self.train_rows,
        }


@dataclass(frozen=True)
class Grid:
    """Cells, and what they share: the data, the split, and the masks (of size `size`) all of them are scored against.

    `labelled_list` names the labelled pictures of every cell; None leaves them to each recipe's fraction and seed.

    Cells know nothing of each other, so that they may run in any order and anywhere; the order here is that of the
    list.
    """

    cells: tuple[Cell, ...]
    manifest: Manifest
    split: str
    base: Recipe
    cache_dir: Path | None
    labelled_list: LabelledList | None = None

    def check(self) -> None:
        """Find out before hours of training what would stop it.

        Raises:
            ConfigError: a folder holds a run of other settings; a labelled list and a labelled fraction are given.
            DataError: a folder holds a run on other data or other labelled pictures; the split cannot be scored.
            WeightsError: a text or image encoder of a cell is not installed.
        """
        rows = self.manifest.rows_of(self.split)
        built = set()
        for cell in self.cells:
            refuse_leaks(cell.path, rows, self.split)
            self._refuse_two_answers(cell)
            _refuse_other(cell, self.manifest, self.labelled_list)
            if cell.arm.name not in built and not (cell.path / "result.json").exists():
                built.add(cell.arm.name)
                build_method(cell.recipe)

    def read(self, cell: Cell) -> Finished | None:
        """The result of a finished cell, None where it still has to be made."""
        paths = self._paths(cell)
        result = cell.path / "result.json"
        if not (paths[0].exists() and result.exists()):
            return None
        row = read_json(paths[0])
        if row.get("weights_sha256") != read_json(result).get("weights_sha256"):
            return None
        try:
            with np.load(io.BytesIO(paths[1].read_bytes())) as file:
                counts = Counts(file["intersection"], file["predicted"], file["true"])
                distances = {f"{name}_px": file[name] for name in ("hd95_pooled", "assd")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Finished(row, counts, distances)

    def make(self, cell: Cell, bar: bool = False) -> Finished:
        """Train a cell (go on where it was stopped), predict the split once, and leave its row.

        Args:
            cell: of this grid.
            bar: draw the progress bar of the training.

        Raises:
            CheckpointError: the cell cannot be written or read.
            DataError: the file of the labelled list is not what it was.
        """
        listed = self.labelled_list
        if listed is not None and LabelledList.read(listed.path, self.manifest) != listed:
            raise DataError(f"{listed.path} changed while the study ran. Restore it, or give another --out.")
        if not (cell.path / "result.json").exists():
            resume = (cell.path / "recipe.json").exists()
            options: dict[str, Any] = {"cache_dir": self.cache_dir, "progress": bar}
            options["labelled_list"] = None if listed is None else listed.path
            train(cell.recipe, self.manifest, cell.path, resume=resume, **options)
        refuse_leaks(cell.path, self.manifest.rows_of(self.split), self.split)
        run = load_run(cell.path)
        masks = open_split(self.manifest, self.split, self.base.image_size, self.cache_dir)
        sized = open_split(self.manifest, self.split, run.recipe.image_size, self.cache_dir)
        scorer = Scorer(self.manifest, self.split, masks, True, False, self.cache_dir, None)
        scored = scorer.score(cell.arm.name, run, scorer.predict(cell.arm.name, run, sized), sized.prompts)
        if scored.surface is None:
            raise CheckpointError(f"{cell.path}: scored without surface distances, expected them.")
        found = overlap_of(scored, self.base.empty_policy)
        row = {
            "arm": cell.arm.name,
            "title": cell.arm.title,
            "seed": cell.seed,
            "fraction": cell.fraction if listed is None else len(listed.indices) / listed.train_rows,
            "labelled_list": "" if listed is None else listed.path.name,
            "labelled_list_sha256": "" if listed is None else listed.sha256,
            "labelled_rows": read_json(cell.path / "data.json")["labelled_rows"][cell.recipe.stages[-1].name],
            "split": self.split,
            "n": found.n,
            "dice_per_image": found.dice_per_image_mean,
            "dice_pooled": found.dice_pooled,
            "iou_per_image": found.iou_per_image_mean,
            "iou_pooled": found.iou_pooled,
            "hd95_pooled_px": float(scored.surface.hd95_pooled.mean()),
            "assd_px": float(scored.surface.assd.mean()),
            "epoch": run.result.get("epoch"),
            "seconds": run.result.get("seconds"),
            "commit": read_json(cell.path / "environment.json").get("git_commit", ""),
            "method": cell.recipe.method,
            "settings": " ".join(cell.settings),
            "weights_sha256": file_sha256(cell.path / WEIGHTS),
        }
        row_path, images_path = self._paths(cell)
        scorer.store(scored, images_path)
        write_json(row_path, row)  # last: it says that the cell is finished
        distances = {"hd95_pooled_px": scored.surface.hd95_pooled, "assd_px": scored.surface.assd}
        return Finished(row, scored.counts, distances)

    def _refuse_two_answers(self, cell: Cell) -> None:
        """Raise where both a list and a fraction say which pictures are labelled."""
        for stage in cell.recipe.stages:
            if self.labelled_list is not None and stage.labelled_fraction < 1:
                raise ConfigError(
                    f"{cell.path.name}: the labelled pictures are those of {self.labelled_list.path}, but stage "
                    f"{stage.name!r} has labelled_fraction={stage.labelled_fraction:g}. Give one of them."
                )

    def _paths(self, cell: Cell) -> tuple[Path, Path]:
        return cell.path / f"study-{self.split}.json", cell.path / f"study-{self.split}.npz"


def find_arms(method: str, study: str, names: Sequence[str] | None = None) -> tuple[Arm, ...]:
    """The arms of a method's list, in its order; `names` keeps some of them.

    Raises:
        ConfigError: unknown method, list or arm (names the valid ones); a list that names an arm twice.
    """
    studies = get_method(method).studies
    if not studies:
        raise ConfigError(f"method {method!r} names no studies (`MethodSpec.studies`); see `textmask methods list`.")
    arms = studies[choose(f"study of {method}", study, list(studies))]
    valid = [arm.name for arm in arms]
    if len(set(valid)) != len(valid):
        raise ConfigError(f"study {study!r} of {method!r} names an arm twice: {', '.join(valid)}. Rename one of them.")
    wanted = valid if names is None else [choose(f"arm of {study}", name, valid) for name in names]
    return tuple(arm for arm in arms if arm.name in wanted)


def plan(
    method: str,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    out: Path,
    *,
    preset: str = "lite",
    settings: Sequence[str] = (),
    labelled_fraction: float | None = None,
) -> tuple[Cell, ...]:
    """Cells seed by seed, so that an early stop leaves whole seeds that can be compared.

    Settings are applied in the order: `settings`, the labelled fraction, those of the arm, the seed. The arm decides.

    Raises:
        ConfigError: a wrong setting, naming its arm; no seed.
    """
    if not seeds or not arms:
        raise ConfigError(f"got {len(arms)} arms and {len(seeds)} seeds, expected at least one of each.")
    fraction = [] if labelled_fraction is None else [f"stages.*.labelled_fraction={labelled_fraction}"]
    cells = []
    for seed in dict.fromkeys(seeds):
        for arm in arms:
            made = (*settings, *fraction, *arm.settings, f"seed={seed}")
            try:
                recipe = preset_recipe(arm.method or method, preset).override(*made)
            except ConfigError as error:
                raise ConfigError(f"arm {arm.name!r}: {error}") from error
            cells.append(Cell(arm, seed, recipe, made, out / f"{arm.name}-seed{seed}"))
    return tuple(cells)


def ablation(
    method: str,
    manifest: Manifest,
    out: Path,
    *,
    study: str,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    preset: str = "lite",
    settings: Sequence[str] = (),
    labelled_fraction: float | None = None,
    labelled_list: Path | None = None,
    split: str = "test",
    n_bootstrap: int = 2000,
    cache_dir: Path | None = None,
    progress: Say | None = None,
) -> dict[str, Any]:
    """Train the arms of a list over seeds and compare them; called again it goes on where it was stopped.

    Leaves in `out`: a run folder `<arm>-seed<k>` per cell, study.csv (one row per finished cell of the folder) and,
    for the arms and seeds asked for, study.json, table.md and study.png. These are written anew after every cell.
    Intervals are of two kinds, named in the table: over images (other patients, the same trained models) and over
    seeds (another training, the same images). The seed changes the initial weights, the order, the augmentation and,
    below a fraction of 1, which pictures keep their masks.

    Args:
        method: whose list it is.
        manifest: the table of the data; trained on `train`, chosen on `valid`.
        out: folder of the study.
        study: name of the list.
        arms: names of some of its arms; None is all of them.
        seeds: of the trainings.
        preset: paper, lite or smoke.
        settings: overrides for all arms.
        labelled_fraction: share of train that keeps its masks.
        labelled_list: a text file of image names: in every cell only these train rows keep their masks.
        split: what is predicted and scored.
        n_bootstrap: resamples of an interval.
        cache_dir: of the decoded pictures.
        progress: called with a line of text per cell; None is silence.

    Returns:
        What is written to study.json.

    Raises:
        ConfigError: unknown list, arm, setting or split; a cell's folder holds a run of other settings; a labelled list
            beside a fraction below 1.
        DataError: pictures that cannot be scored; a cell's folder holds a run on other data or labelled pictures.
        CheckpointError: a folder cannot be written.
    """
    say = progress or (lambda line: None)
    base = preset_recipe(method, preset).override(*settings)
    common: dict[str, Any] = {"settings": tuple(settings), "labelled_fraction": labelled_fraction}
    cells = plan(method, find_arms(method, study, arms), seeds, out, preset=preset, **common)
    listed = None if labelled_list is None else LabelledList.read(labelled_list, manifest)
    grid = Grid(cells, manifest, split, base, cache_dir, listed)
    grid.check()
    groups = [row.group for row in manifest.rows_of(split)]
    shared = {"method": method, "study": study, "preset": preset, **common}
    shared["labelled_list"] = None if listed is None else listed.as_json()
    shared |= {"data": manifest.name, "data_hash": manifest.hash(), "split": split, "size": list(base.image_size)}
    shared |= {"empty_policy": base.empty_policy, "hd95": HD95, "n_bootstrap": n_bootstrap}

    results = [grid.read(cell) for cell in cells]

    def write() -> dict[str, Any]:
        listed = list(dict.fromkeys(cell.arm for cell in cells))
        summary = summarise(listed, [done for done in results if done], groups, shared)
        summary["missing"] = [cell.path.name for cell, done in zip(cells, results, strict=True) if done is None]
        write_study(out, summary)
        return summary

    for i, cell in enumerate(cells):
        where = f"[{i + 1}/{len(cells)}] {cell.path.name} ({cell.arm.title})"
        done = results[i]
        if done is None:
            say(f"{where}: {_time_left(cells, results)}")
            done = results[i] = grid.make(cell, progress is not None)
            write()
        say(f"{where}: dice_per_image {done.row['dice_per_image']:.4f}, dice_pooled {done.row['dice_pooled']:.4f}")
    return write()


def _refuse_other(cell: Cell, manifest: Manifest, listed: LabelledList | None) -> None:
    """Raise where the folder of a cell holds something else; a field that is newer than the run has its default."""
    path = cell.path / "recipe.json"
    if not path.exists():
        return
    try:
        kept = load_recipe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TextMaskError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Remove the folder, or give another --out.") from error
    if kept != cell.recipe:
        fields = (
            name for name in type(cell.recipe).model_fields if getattr(kept, name, None) != vars(cell.recipe)[name]
        )
        raise ConfigError(
            f"{cell.path} holds a run of other settings (it differs in {', '.join(fields)}). A study never mixes them: "
            "ask for the same settings again, or give another --out."
        )
    data_hash, found = manifest.hash(), read_json(cell.path / "data.json").get("hash")
    if found != data_hash:
        raise DataError(
            f"{cell.path} was trained on another table (sha256 {str(found)[:12]}, this one is {data_hash[:12]}). "
            "Give the same data and options, or another --out."
        )
    keys = [row.image for row in manifest.rows_of("train")]
    for stage in cell.recipe.stages:
        wanted = listed.indices if listed else labelled_indices(keys, stage.labelled_fraction, cell.recipe.seed)
        names = cell.path / "splits" / f"labelled-{stage.name}.txt"  # left out where all train rows are labelled
        labelled = names.read_text(encoding="utf-8").splitlines() if names.exists() else keys
        if {keys[i] for i in wanted} != set(labelled):
            raise DataError(
                f"{cell.path} was trained with other labelled pictures ({len(labelled)} in stage {stage.name!r}, this "
                f"study has {len(wanted)}). Give the same --labelled-list, or another --out."
            )


def _time_left(cells: Sequence[Cell], results: Sequence[Finished | None]) -> str:
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
