"""Commands that train."""

from __future__ import annotations

import shlex
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmask.cli.data_options import NOTHING_GIVEN, GivenOptions, reads_data
from textmask.cli.machine_options import (
    Accelerator,
    BatchSize,
    Devices,
    NumNodes,
    Precision,
    Strategy,
    machine_settings,
    process_options,
)
from textmask.cli.options import (
    AcceptChanges,
    CacheDir,
    Device,
    LabelledFraction,
    LabelledList,
    OptionalData,
    Preset,
    Settings,
    Verify,
    chosen_preset,
    complain,
    find_run,
    read_recipe,
    read_seeds,
    require_file,
    say,
    verify_data,
)
from textmask.config import frozen
from textmask.errors import ConfigError, DataError, choose
from textmask.weights import refuse_missing

if TYPE_CHECKING:
    from textmask.config import Recipe
    from textmask.runs.data_options import DataOptions

DEFAULT_OUT = Path("runs/run")


@dataclass(frozen=True)
class TrainingPlan:
    """What one call of `textmask train` trains.

    Attributes:
        recipe: what is trained and how.
        data: path of the data.
        remembered: the data options of the resumed run, or the defaults.
        out: the run folder.
        labelled_list: text file with the train images that keep their masks; None keeps all.
    """

    recipe: Recipe
    data: Path
    remembered: DataOptions
    out: Path
    labelled_list: Path | None = None


@reads_data(trains=True)
def train_command(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD",
            help="Method name, see `textmask methods list`; not needed with --recipe. The run with --resume.",
        ),
    ] = None,
    data: OptionalData = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/run).")] = None,
    preset: Preset = None,
    settings: Settings = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe file instead of METHOD and --preset (default: none)."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Run, `default` or hub folder whose weights training starts from (default: random weights).",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Parameters that are not trained, e.g. 'net.encoder.*'; repeatable (default: none).",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Train once per seed, e.g. 0,1,2, into OUT/seed0 ... (default: one run)."
        ),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="+N", help="With --resume: more epochs for a finished run (default: none)."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume RUN with its own recipe and data; with METHOD and DATA, start it if there is none.",
        ),
    ] = False,
    accept_changes: AcceptChanges = False,
    save_every_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Checkpoint every so many steps within an epoch (default: after each epoch).",
        ),
    ] = None,
    labelled_fraction: LabelledFraction = None,
    labelled_list: LabelledList = None,
    given: GivenOptions = NOTHING_GIVEN,
    device: Device = "auto",
    devices: Devices = 1,
    num_nodes: NumNodes = 1,
    strategy: Strategy = "auto",
    accelerator: Accelerator = None,
    precision: Precision = None,
    batch_size: BatchSize = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Tracker: tensorboard or mlflow; repeatable (default: none)."
        ),
    ] = None,
    cache_dir: CacheDir = None,
    verify: Verify = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Hide the progress bar.")] = False,
) -> None:
    """Train a method and write a run folder.

    `textmask train --resume RUN` resumes a run and needs nothing else.

    Example: textmask train biclip data/table.csv --out runs/biclip
    """
    changes = list(settings or [])
    if labelled_fraction is not None:
        changes.append(f"stages.*.labelled_fraction={labelled_fraction}")
    changes += machine_settings(precision, batch_size)

    # everything that can be wrong is found before torch is loaded
    more_epochs = _more_epochs(epochs, resume)
    if resume and (init or freeze or seeds):
        raise ConfigError(
            "--resume continues a run with its own weights and settings. Leave out --init, --freeze and --seeds."
        )
    # a job script starts and resumes a training with one command; a kill may have left a folder without a run
    started = method is None or data is None or ((out or DEFAULT_OUT) / "recipe.json").exists()
    if resume and started and not (recipe or preset or changes):
        plan = _resumed(method, data, out, labelled_list)
    else:
        plan = _new(method, data, out, labelled_list, preset, recipe, changes)
        plan = replace(plan, recipe=frozen(plan.recipe, freeze or ()))
    plans = _seed_plans(plan, seeds)
    for one in plans:
        _check_folder(one.out, resume)
    refuse_missing(plan.recipe.model_dump())
    if init is not None:
        find_run(init)
    _check_trackers(tracker or ())
    require_file(plan.labelled_list, "the list of labelled images, one name per line")
    options = given.over(plan.remembered)
    from textmask.runs.read_data import read_data

    manifest = read_data(plan.data, options)
    if verify:
        verify_data(manifest, cache_dir)

    from textmask.training.loop import TrainOptions
    from textmask.training.loop import train as run_training

    processes = process_options(device, devices, num_nodes, strategy, accelerator)
    if more_epochs:
        from textmask.training.longer import with_more_epochs

        longer = with_more_epochs(plan.out, plan.recipe, more_epochs)
        plans = [replace(plan, recipe=longer)]
    scores = []
    for one in plans:
        if len(plans) > 1:
            say(f"seed {one.recipe.seed}: {one.out}")
        result = run_training(
            one.recipe,
            manifest,
            one.out,
            resume=resume,
            cache_dir=cache_dir,
            labelled_list=one.labelled_list,
            progress=not quiet,
            allow_empty_text=options.allow_empty_text,
            options=TrainOptions(
                trackers=tuple(tracker or ()),
                **processes,
                auto_batch=batch_size == "auto",
                data_options=options,
                source=plan.data,
                init=init,
                accept_changes=accept_changes,
                save_every_steps=save_every_steps,
            ),
        )
        for warning in result.warnings:
            complain(f"warning: {warning}", "yellow")

        scores.append(result.best)
        score = f"validation score {result.best:.4f}, " if result.best >= 0 else ""
        split = "test" if "test" in manifest.splits else "valid"
        command = ["textmask", "evaluate", str(result.path), str(plan.data), "--split", split]
        say(
            f"{result.path}: epoch {result.best_epoch} chosen, {score}{result.seconds / 60:.1f} minutes."
        )
        say(f"Next: {shlex.join(command)}")

    if len(scores) > 1 and min(scores) >= 0:
        say(
            f"{len(scores)} seeds: validation score {statistics.mean(scores):.4f}, "
            f"standard deviation {statistics.stdev(scores):.4f}"
        )


def _seed_plans(plan: TrainingPlan, seeds: str | None) -> list[TrainingPlan]:
    """The trainings of `--seeds`, each with its own folder; the plan itself without it."""
    if seeds is None:
        return [plan]
    plans = []
    for seed in dict.fromkeys(read_seeds(seeds)):
        plans.append(
            replace(plan, recipe=plan.recipe.override(f"seed={seed}"), out=plan.out / f"seed{seed}")
        )
    return plans


def _more_epochs(text: str | None, resume: bool) -> int:
    """The N of `--epochs +N`; 0 without it."""
    if text is None:
        return 0
    number = text.removeprefix("+")
    if not resume or not text.startswith("+") or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            f"--epochs is {text!r}; it adds epochs to a finished run: textmask train --resume RUN --epochs +20. "
            "For a new run use --set stages.*.epochs=20."
        )
    return int(number)


def _new(
    method: str | None,
    data: Path | None,
    out: Path | None,
    labelled_list: Path | None,
    preset: str | None,
    recipe: Path | None,
    changes: list[str],
) -> TrainingPlan:
    """A training that is described on the command line."""
    from textmask.methods.registry import preset_recipe
    from textmask.runs.data_options import DataOptions

    # with --recipe, the only argument is the data
    if recipe is not None and data is None:
        method, data = None, Path(method) if method else None
    if data is None:
        raise ConfigError(
            "train needs METHOD and DATA (or --recipe FILE and DATA, or --resume RUN). See textmask train --help."
        )

    if recipe is None:
        chosen = preset_recipe(method or "", chosen_preset(preset))
    else:
        chosen = read_recipe(recipe)
        say(f"recipe: {recipe}")
    if method is not None and method != chosen.method:
        raise ConfigError(
            f"METHOD is {method!r}, but {recipe} is a recipe of {chosen.method!r}. Leave METHOD out."
        )
    changed = chosen.override(*changes)
    return TrainingPlan(changed, data, DataOptions(), out or DEFAULT_OUT, labelled_list)


def _resumed(
    method: str | None,
    data: Path | None,
    out: Path | None,
    labelled_list: Path | None,
) -> TrainingPlan:
    """A run that is resumed with its own recipe, data and labelled images."""
    from textmask.runs.recover import restore_recipe

    # `--resume RUN`: the only argument is the run
    if method is not None and data is None and out is None:
        out, method = Path(method), None
    out = out or DEFAULT_OUT
    if restore_recipe(out):
        say(f"{out / 'recipe.json'} was damaged and is restored from the last checkpoint.")
    record = find_run(out)
    recipe = read_recipe(out / "recipe.json")
    if method is not None and method != recipe.method:
        raise ConfigError(
            f"METHOD is {method!r}, but {out} is a run of {recipe.method!r}. Leave METHOD out."
        )

    source = data or record.source
    again = f"textmask train {recipe.method} DATA --resume --out {out}"
    if source is None:
        raise DataError(
            f"{out} does not record where its data are, because it was started by an earlier version or from Python. "
            f"Name them: {again}"
        )
    if data is None and not source.exists():
        raise DataError(
            f"{source}, the data of {out}, does not exist any more. Name its new place: {again}"
        )
    say(f"resuming {out}: {recipe.method} on {source}, with the recipe and options of the run")
    labels = labelled_list or _stored_labels(out, recipe)
    return TrainingPlan(recipe, source, record.options, out, labels)


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder with a run unless it is resumed."""
    if (out / "recipe.json").is_file() and not resume:
        raise ConfigError(
            f"{out} already contains a run. Use --resume to continue it, or another --out."
        )


def _stored_labels(run: Path, recipe: Recipe) -> Path | None:
    """The list of labelled images of a run; None if all are labelled, or if the stages differ by their fractions."""
    from textmask.runs.layout import labelled_list
    from textmask.runs.record import stored_names

    lists = [labelled_list(run, stage.name) for stage in recipe.stages]
    if not all(path.is_file() for path in lists):
        return None
    found = {tuple(stored_names(run, f"labelled-{stage.name}")) for stage in recipe.stages}
    return lists[0] if len(found) == 1 else None


def _check_trackers(names: list[str] | tuple[str, ...]) -> None:
    from textmask.training.trackers import TRACKERS

    for name in names:
        choose("tracker", name, TRACKERS)


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Time budget in minutes.")] = 3.0,
    preset: Annotated[
        str, typer.Option(help="Training preset: lite, or smoke (seconds, for tests).")
    ] = "lite",
) -> None:
    """Show the package on synthetic radiographs: predict, train, evaluate, report.

    Example: textmask demo --out demo --minutes 3
    """
    started = time.perf_counter()
    choose("preset", preset, ("lite", "smoke"))
    say("Loading PyTorch and the bundled model.")
    from textmask.demo import run_demo

    report = run_demo(out, smoke=preset == "smoke", minutes=minutes, started=started, say=say)
    say(f"report: {report}")
