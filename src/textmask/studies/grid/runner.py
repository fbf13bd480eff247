"""The one runner of studies: trials of a plan over seeds, run by a launcher, summarised after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from textmask.cluster import Launcher
from textmask.data.manifest import Manifest, interval_groups
from textmask.errors import CheckpointError, ConfigError, TextMaskError
from textmask.evaluation.protocol import HD95, count_groups
from textmask.evaluation.scores import ImageScores
from textmask.evaluation.summary import StudyProtocol, StudySummary
from textmask.methods.registry import Arm, preset_recipe
from textmask.runs.data_options import DataOptions
from textmask.runs.session import find_device
from textmask.studies.grid.design import StudyPlan
from textmask.studies.grid.equal_steps import equal_steps
from textmask.studies.grid.launch import TrialOutcome, run_trials
from textmask.studies.grid.summary import FinishedTrial, summarise, write_study
from textmask.studies.grid.trials import LabelledList, Trial, TrialSet

Say = Callable[[str], None]
PATIENCE_S = 60.0  # for the row of a trial trained on another machine to appear


@dataclass(frozen=True)
class StudyOptions:
    """How the trials of a study are trained and scored.

    Attributes:
        seeds: random seeds of the trainings.
        preset: paper, lite or smoke.
        settings: overrides of the preset for all arms.
        labelled_fraction: share of train that keeps its masks, above 0 and at most 1; None as the recipes say.
        labelled_list: a text file of image names: in every trial only these train rows keep their masks.
        split: predicted and scored.
        n_bootstrap: resamples of an interval.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.
        launcher: where the trials run (default: here, one after another).
        data_options: how the data were read; kept in each run.
        source: path of the data; kept in each run.
        accept_changes: resume stopped trainings although data or machine differ, see `TrainOptions`.
        progress: called with a line of text per trial; None is silence.
    """

    seeds: Sequence[int] = (0,)
    preset: str = "lite"
    settings: Sequence[str] = ()
    labelled_fraction: float | None = None
    labelled_list: Path | None = None
    split: str = "test"
    n_bootstrap: int = 2000
    cache_dir: Path | None = None
    device: str = "auto"
    launcher: Launcher = field(default_factory=Launcher)
    data_options: DataOptions = field(default_factory=DataOptions)
    source: Path | None = None
    accept_changes: bool = False
    progress: Say | None = None

    def __post_init__(self) -> None:
        """Refuse a setting that the seeds of the study would replace without a word.

        Raises:
            ConfigError: `seed` is among the settings.
        """
        if any(setting.partition("=")[0].strip() == "seed" for setting in self.settings):
            raise ConfigError(
                "the seeds of a study are given by --seeds (or --seed); leave seed out of --set."
            )


def plan_trials(
    method: str, arms: Sequence[Arm], out: Path, options: StudyOptions
) -> tuple[Trial, ...]:
    """Trials seed by seed, so that an early stop leaves whole seeds that can be compared.

    Settings are applied in the order: those of the study, the labelled fraction, those of the arm, the seed. The arm
    decides.

    Raises:
        ConfigError: a wrong setting, naming its arm; no seed.
    """
    if not options.seeds or not arms:
        raise ConfigError(
            f"got {len(arms)} arms and {len(options.seeds)} seeds, expected at least one of each."
        )
    shared = list(options.settings)
    if options.labelled_fraction is not None:
        shared.append(f"stages.*.labelled_fraction={options.labelled_fraction}")

    trials = []
    for seed in dict.fromkeys(options.seeds):
        for arm in arms:
            settings = (*shared, *arm.settings, f"seed={seed}")
            try:
                recipe = preset_recipe(arm.method or method, options.preset).override(*settings)
            except ConfigError as error:
                raise ConfigError(f"arm {arm.name!r}: {error}") from error
            trials.append(Trial(arm, seed, recipe, settings, out / f"{arm.name}-seed{seed}"))
    return tuple(trials)


def run_study(
    plan: StudyPlan, manifest: Manifest, out: Path, options: StudyOptions | None = None
) -> StudySummary:
    """Train the arms of a plan over seeds and compare them; the same call again resumes the study.

    Leaves in `out`: a run folder `<arm>-seed<k>` per trial, study.csv (one row per finished trial of the folder) and,
    for the arms and seeds asked for, scores.csv, study.json, table.md and study.png. They are rewritten after every
    trial.

    Intervals are of two kinds, named in the table: over images (other patients, the same trained models) and over
    seeds (another training, the same images). The seed changes the initial weights, the order, the augmentation and,
    below a fraction of 1, which images keep their masks.

    Args:
        plan: the arms and what is compared.
        manifest: of the data; trained on `train`, chosen on `valid`.
        out: folder of the study.
        options: the rest.

    Returns:
        What is written to study.json.

    Raises:
        ConfigError: a wrong setting or split; a trial's folder holds a run with other settings; a labelled list
            together with a fraction below 1; a launcher that is not installed.
        DataError: images that cannot be scored; a trial's folder holds a run on other data or labelled images.
        CheckpointError: a folder cannot be written.
        TextMaskError: trials that failed on other machines, when all others are finished.
    """
    options = options or StudyOptions()
    if options.launcher.name == "local":
        find_device(options.device)  # other machines have devices of their own

    # workers may start in another folder
    out, manifest = out.absolute(), replace(manifest, root=manifest.root.absolute())
    listed = None
    if options.labelled_list is not None:
        listed = LabelledList.read(options.labelled_list.absolute(), manifest)
    cache_dir = options.cache_dir and options.cache_dir.absolute()

    base = preset_recipe(plan.method, options.preset).override(*options.settings)
    trials = plan_trials(plan.method, plan.arms, out, options)
    trials = equal_steps(trials, manifest.splits.get("train", 0))
    study = TrialSet(
        trials,
        manifest,
        options.split,
        base,
        cache_dir,
        labelled_list=listed,
        device=options.device,
        data_options=options.data_options,
        source=options.source and options.source.absolute(),
        accept_changes=options.accept_changes,
    )
    study.check()
    return _StudyRun(plan, study, out, options).run()


class _StudyRun:
    """A study while it runs: which trials are finished, and what is written and printed after each."""

    def __init__(self, plan: StudyPlan, study: TrialSet, out: Path, options: StudyOptions) -> None:
        self.plan, self.study, self.out, self.options = plan, study, out, options
        self.trials = study.trials
        self.rows = study.manifest.rows_of(study.split)
        self.results = [study.read(trial) for trial in self.trials]

    def run(self) -> StudySummary:
        left = []
        for trial, done in zip(self.trials, self.results, strict=True):
            if done is None:
                left.append(trial)
            else:
                self._say_result(trial, done)

        # an early stop loses at most the trial at work
        bar = self.options.progress is not None
        broken = []
        for outcome in run_trials(self.options.launcher, self.study, left, self._say_start, bar):
            if outcome.error:
                self._say(f"{self._title(outcome.trial)}: {outcome.error}")
                if not outcome.busy:
                    broken.append(f"  {outcome.trial.path.name}: {outcome.error}")
            else:
                self._finish(outcome)

        if broken:
            listed = "\n".join(broken)
            raise TextMaskError(
                f"{len(broken)} of {len(self.trials)} trials failed:\n{listed}\n"
                "Rerun the same command to try them again."
            )
        return self._write()

    def _finish(self, outcome: TrialOutcome) -> None:
        done = _row_of(self.study, outcome.trial)
        self.results[self.trials.index(outcome.trial)] = done
        self._write()
        self._say_result(outcome.trial, done)

    def _write(self) -> StudySummary:
        finished, missing = [], []
        scores: dict[str, ImageScores] = {}
        policy = self.study.base.empty_policy
        for trial, done in zip(self.trials, self.results, strict=True):
            if done is None:
                missing.append(trial.path.name)
                continue
            finished.append(done)
            scores[trial.path.name] = ImageScores.of(
                [self.study.manifest.key(row) for row in self.rows],
                self.rows,
                [""] * len(self.rows),
                done.counts,
                policy,
                done.distances,
            )

        groups = interval_groups(self.rows)
        found = summarise(self.plan.arms, finished, groups, self._protocol(), self.plan.pairs)
        summary = found.model_copy(update={"missing": tuple(missing)})
        write_study(self.out, summary, scores)
        return summary

    def _protocol(self) -> StudyProtocol:
        options, base, listed = self.options, self.study.base, self.study.labelled_list
        groups = interval_groups(self.rows)

        return StudyProtocol(
            kind=self.plan.kind,
            title=self.plan.title,
            method=self.plan.method,
            study=self.plan.study,
            preset=options.preset,
            settings=tuple(options.settings),
            labelled_fraction=options.labelled_fraction,
            labelled_list=None if listed is None else listed.record(),
            data=self.study.manifest.name,
            data_hash=self.study.manifest.hash(),
            split=self.study.split,
            size=base.image_size,
            empty_policy=base.empty_policy,
            hd95=HD95,
            n_bootstrap=options.n_bootstrap,
            n=len(groups),
            n_groups=count_groups(groups),
        )

    def _title(self, trial: Trial) -> str:
        number = self.trials.index(trial) + 1
        return f"[{number}/{len(self.trials)}] {trial.path.name} ({trial.arm.title})"

    def _say(self, line: str) -> None:
        if self.options.progress is not None:
            self.options.progress(line)

    def _say_start(self, trial: Trial, where: str) -> None:
        place = f"{where}, " if where else ""
        self._say(f"{self._title(trial)}: {place}{_time_left(self.trials, self.results)}")

    def _say_result(self, trial: Trial, done: FinishedTrial) -> None:
        row = done.row
        figures = f"dice_per_image {row.dice_per_image:.4f}, dice_pooled {row.dice_pooled:.4f}"
        self._say(f"{self._title(trial)}: {figures}")


def _row_of(study: TrialSet, trial: Trial) -> FinishedTrial:
    """The row that a trial left; a network file system may show it late."""
    deadline = time.monotonic() + PATIENCE_S
    while (done := study.read(trial)) is None:
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{trial.path} was trained, but its row is not here. All machines must see the same folder: give an "
                "--out on a file system that they share."
            )
        time.sleep(1)
    return done


def _time_left(trials: Sequence[Trial], results: Sequence[FinishedTrial | None]) -> str:
    """Training time of what is left, from the finished trials of the same arm, or of any."""
    seconds: dict[str, list[float]] = {}
    for done in results:
        if done is not None and done.row.seconds is not None:
            seconds.setdefault(done.row.arm, []).append(done.row.seconds)
    left = [trial.arm.name for trial, done in zip(trials, results, strict=True) if done is None]
    if not seconds:
        return f"{len(left)} trials left"

    # an arm without a finished trial is taken to need the mean of all
    of_any_arm = list(chain.from_iterable(seconds.values()))
    total = sum(float(np.mean(seconds.get(name, of_any_arm))) for name in left)
    return f"{len(left)} trials left, about {total / 60:.0f} minutes of training"
