"""Watch a PACS: segment the images and series that have a prompt, and store SEG and SR back exactly once.

Exactly-once semantics: a task is identified by image, request and model. The UIDs of its results are derived
from these three, so after a crash between storing and recording it, the same instances are found or stored again.
A fault of the server or of this machine may pass: the task waits and is tried again for days, and its results are kept.
A fault of the image or the prompt does not pass: the task has failed. Events never identify a patient: images and
prompts are hashed.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from textmask.errors import (
    ConfigError,
    DataError,
    DomainError,
    PacsAccessError,
    PacsDownError,
    PacsError,
    TextMaskError,
)
from textmask.io.dicom.domain import Domain
from textmask.io.dicom.facts import ResultUids
from textmask.io.dicom.reader import read_result
from textmask.io.dicom.results import encode
from textmask.pacs.answers import DicomSegmentation, DicomSegmenter
from textmask.pacs.client import Instance, Pacs, Series
from textmask.pacs.faults import OVERDUE_S, PASSING, RETRY_DAYS, retry_after_s, trace_of
from textmask.pacs.health import DOWN_S, Health
from textmask.pacs.results import results
from textmask.pacs.state import State, TaskEntry, TaskKey, short_hash
from textmask.pacs.worklist import WorklistItem, prompt_problem

SLICED = ("CT", "MR", "PT")  # one task per series; other modalities have one task per image
NOT_IMAGES = ("SEG", "SR", "OT", "SC", "PR", "KO", "DOC", "RTSTRUCT")  # results and other objects
MAX_SLICES = 2000
MAX_SERIES_BYTES = 2 << 30
MAX_ATTEMPTS = 5  # starts of a task that ended this process; then it has failed
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
WAITS_ONCE = 8  # with --once, about two minutes
DAY_S = 86_400.0
# events that need a person: a task failed, a task waits for long, the server is down for long
ALARMS = ("failed", "overdue", "down")


@dataclass(frozen=True)
class PacsTask:
    """An image, or all slices of a series, and a prompt; `subject` is the UID of the image or series."""

    subject: str
    instances: tuple[Instance, ...]
    prompt: str


@dataclass(frozen=True)
class WatchEvent:
    """An event for the log. `image` and `prompt` are the first letters of hashes; `detail` never names a patient."""

    what: str
    image: str = ""
    prompt: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """The event as one line of a log; it begins with ALARM if a person has to look at it."""
        named = [
            f"image {self.image}" if self.image else "",
            f"prompt {self.prompt}" if self.prompt else "",
        ]
        mark = "ALARM" if self.what in ALARMS else ""
        return " ".join(part for part in (mark, self.what, *named, self.detail) if part)


@dataclass
class WatchSettings:
    """Settings of a watcher.

    Attributes:
        modalities: modalities to segment.
        since: read only reports of studies since this date (YYYYMMDD).
        with_capture: also store a secondary capture.
        fractional: the SEG contains probabilities.
        interval_s: seconds between two rounds, at least 1.
        retry_days: days for which a task with a passing fault is tried again, more than 0.

    Raises:
        ConfigError: there are no modalities, one of them has no images, or another value is invalid.
    """

    modalities: tuple[str, ...] = ("CR", "DX", "CT")
    since: str | None = None
    with_capture: bool = False
    fractional: bool = False
    interval_s: float = 30.0
    retry_days: float = RETRY_DAYS

    def __post_init__(self) -> None:
        wrong = [
            name
            for name in self.modalities
            if name in NOT_IMAGES or not (name.isalnum() and name.isupper())
        ]
        if wrong or not self.modalities:
            raise ConfigError(
                f"modalities {', '.join(wrong) or 'are missing'}: expected those of images, such as CR, DX, CT, MR."
            )
        if self.since is not None and not (len(self.since) == 8 and self.since.isdigit()):
            raise ConfigError(f"since is {self.since!r}, expected a date as YYYYMMDD.")
        if not self.interval_s >= 1:
            raise ConfigError(f"interval is {self.interval_s} s, expected at least 1.")
        if not self.retry_days > 0:
            raise ConfigError(f"retry days is {self.retry_days}, expected more than 0.")


def watched_modalities(wanted: Sequence[str], domain: Domain) -> tuple[str, ...]:
    """The modalities to watch: those that the user names, or those that the model knows.

    Raises:
        ConfigError: the user names a modality that the model does not know.
    """
    wrong = [name for name in wanted if domain.modality and name not in domain.modality]
    if wrong:
        raise ConfigError(
            f"the model does not know images of modality {', '.join(wrong)}; it knows {', '.join(domain.modality)}. "
            "Give another --modality, or another run."
        )
    return tuple(wanted) or domain.modality or WatchSettings.modalities


@dataclass
class Watcher:
    """Segments what one PACS receives, with one model and one state file.

    Attributes:
        pacs: the server.
        segmenter: the model.
        state: what was done before.
        worklist: called once per round; returns the prompts, e.g. of a worklist or of the reports.
        settings: see `WatchSettings`.
        report: called with every event.
        wait: sleeps this number of seconds.
        health: what a monitoring system sees; it has the clock.
    """

    pacs: Pacs
    segmenter: DicomSegmenter
    state: State
    worklist: Callable[[], Iterable[WorklistItem]]
    settings: WatchSettings = field(default_factory=WatchSettings)
    report: Callable[[WatchEvent], None] = lambda event: None
    wait: Callable[[float], None] = time.sleep
    health: Health = field(default_factory=Health)
    _sizes: dict[str, int] = field(default_factory=dict)
    _reported: set[TaskKey] = field(default_factory=set)

    def run(self, once: bool = False) -> Counter[str]:
        """Run rounds until stopped, or one round. If the server does not answer, wait longer each time.

        Args:
            once: run one round only.

        Returns:
            Number of tasks by outcome: `stored`, `known`, `skipped`, `failed` and `later`.

        Raises:
            PacsDownError: `once` is set, and the server did not answer for about two minutes.
            ConfigError: the server refuses the credentials.
        """
        done: Counter[str] = Counter()
        delay, waits = FIRST_WAIT_S, 0
        while True:
            try:
                self._round(done, once)
            except PacsDownError as error:
                waits += 1
                if once and waits > WAITS_ONCE:
                    raise
                what = "down" if self.health.unanswered() > DOWN_S else "waiting"
                self.report(WatchEvent(what, detail=f"{delay:.0f} s: {error}"))
                self.wait(delay)
                delay = min(2 * delay, LONGEST_WAIT_S)
                continue

            if once:
                return done
            delay, waits = FIRST_WAIT_S, 0
            self.wait(self.settings.interval_s)

    def _round(self, done: Counter[str], once: bool) -> None:
        sizes = self._sizes
        self._sizes = {}
        try:
            for item in self.worklist():
                for task in self._tasks(item, None if once else sizes):
                    done[self._do(task, at_once=once)] += 1
                    self._note_health()
        except PacsDownError:
            raise
        except PacsError as error:
            # without its reports or studies, there is nothing to do in this round
            what = "down" if self.health.unanswered() > DOWN_S else "cannot search"
            self.report(WatchEvent(what, detail=str(error)))
        else:
            self._note_health()

    def _note_health(self) -> None:
        self.health.tasks = self.state.counts()
        self.health.waiting_since = self.state.waiting_since()
        self.health.answered()

    def _tasks(self, item: WorklistItem, before: dict[str, int] | None) -> Iterator[PacsTask]:
        """The tasks of an item; a series only if it has as many slices as one round ago (`before`)."""
        try:
            groups = list(self._groups(item))
        except (PacsError, PacsAccessError) as error:
            # a server that answers else has a fault with this item only, which must not stop the others
            if isinstance(error, PacsDownError | PacsAccessError) and not self.pacs.responds():
                raise
            prompt = short_hash(item.prompt)
            self.report(WatchEvent("cannot search", prompt=prompt, detail=str(error)))
            return

        for subject, instances in groups:
            wanted = [one for one in instances if not item.images or one.uid in item.images]
            if not wanted:
                continue
            if len(instances) > 1:  # a series may still be arriving
                self._sizes[subject] = len(instances)
                if before is not None and before.get(subject) != len(instances):
                    continue
            yield PacsTask(subject, tuple(instances), item.prompt)

    def _groups(self, item: WorklistItem) -> Iterator[tuple[str, list[Instance]]]:
        """What an item refers to: (UID, instances) of each image or series."""
        if item.kind == "instance":
            found = self.pacs.instance(item.value)
            if found is not None and found.modality in self.settings.modalities:
                yield found.uid, [found]
            return

        studies = self.pacs.studies(item.value) if item.kind == "accession" else [item.value]
        for study in studies:
            for modality in self.settings.modalities:
                for series in self.pacs.series(modality, study):
                    yield from self._of_series(series)

    def _of_series(self, series: Series) -> Iterator[tuple[str, list[Instance]]]:
        instances = self.pacs.instances(series)
        if series.modality in SLICED and instances:
            yield series.uid, instances
        else:
            for one in instances:
                yield one.uid, [one]

    def _do(self, task: PacsTask, at_once: bool = False) -> str:
        """Do a task unless it has ended; returns `stored`, `known`, `skipped`, `failed` or `later`.

        Args:
            task: the task.
            at_once: do not wait for the time of the next try.
        """
        request = f"{task.prompt}\0{self.segmenter.settings}\0{self.settings.fractional}"
        digest = hashlib.sha256(request.encode(errors="surrogatepass")).hexdigest()
        key = TaskKey(task.subject, digest, self.segmenter.model.weights_sha256)
        entry = self.state.get(key)
        if entry is not None and entry.status not in ("started", "waiting"):
            self._report_growth(entry, task)
            return "known"
        if entry is not None and not at_once and self.health.clock() < entry.next_try:
            return "later"

        # the attempt is recorded first, so that an image that ends the process is not tried forever
        attempts = self.state.start(key, len(task.instances), short_hash(task.prompt))
        if attempts > MAX_ATTEMPTS:
            reason = f"the process ended {MAX_ATTEMPTS} times while it segmented this image"
            return self._failed(key, task, "Stopped", reason)
        uids = ResultUids.of(*key.parts)
        try:
            known = self._store(key, task, uids)
        except (
            KeyboardInterrupt
        ):  # the operator stops the watcher, which is not a fault of the image
            self.state.release(key)
            raise
        except PASSING as error:
            return self._postponed(key, task, error)
        except DomainError as error:
            self.state.finish(key, "skipped", f"{type(error).__name__}: {error}")
            self._log("skipped", task, str(error))
            return "skipped"
        except ConfigError:
            self.state.release(key)
            raise
        except TextMaskError as error:
            return self._failed(key, task, type(error).__name__, str(error), trace_of(error))
        except Exception as error:  # one bad image does not stop the others
            reason = "unexpected; please report it with the output of `textmask dicom tasks list --trace`"
            return self._failed(key, task, type(error).__name__, reason, trace_of(error))

        self.state.finish(key, "stored", seg=uids.seg)
        self._log("was there" if known else "stored", task)
        return "stored"

    def _report_growth(self, entry: TaskEntry, task: PacsTask) -> None:
        more = len(task.instances) - entry.images
        if entry.status == "stored" and more > 0 and entry.key not in self._reported:
            self._reported.add(entry.key)
            self._log("grown", task, f"{more} slices arrived after it was segmented")

    def _store(self, key: TaskKey, task: PacsTask, uids: ResultUids) -> bool:
        """Segment, and store the results that the server does not have; returns whether it had all."""
        if problem := prompt_problem(task.prompt):
            raise DataError(problem)
        study = task.instances[0].study
        wanted = [uids.seg, uids.sr]
        if self.settings.with_capture:
            wanted.append(uids.capture)
        missing = {uid for uid in wanted if not self.pacs.holds(study, uid)}
        if not missing:
            return True

        # results that the server did not take before are not made again
        made = [read_result(file) for file in self.state.kept(key, len(task.instances))]
        kept = missing <= {dataset.SOPInstanceUID for dataset in made}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of libraries quote values of the image
            if not kept:
                made = self._made(task, uids)
            datasets = [dataset for dataset in made if dataset.SOPInstanceUID in missing]
            try:
                self.pacs.store(study, datasets)
            except PASSING:
                if not kept:
                    self._keep(key, task, made)
                raise
        return False

    def _keep(self, key: TaskKey, task: PacsTask, made: list[Any]) -> None:
        try:
            room = self.state.keep(key, len(task.instances), [encode(one) for one in made])
        except DataError:
            room = False
        if not room:
            self._log("not kept", task, "no room for the results; they are made again")

    def _made(self, task: PacsTask, uids: ResultUids) -> list[Any]:
        found = self.segmenter(self._files(task), task.prompt)
        _check_sources(task, found)
        return results(
            found,
            self.segmenter,
            uids,
            with_capture=self.settings.with_capture,
            fractional=self.settings.fractional,
        )

    def _files(self, task: PacsTask) -> list[bytes]:
        if len(task.instances) > MAX_SLICES:
            raise DataError(
                f"the series has {len(task.instances)} slices; the limit is {MAX_SLICES}."
            )
        files, total = [], 0
        for instance in task.instances:
            files.append(self.pacs.fetch(instance))
            total += len(files[-1])
            if total > MAX_SERIES_BYTES:
                raise DataError(
                    f"the series has more than {MAX_SERIES_BYTES:,} bytes, which is the limit."
                )
        return files

    def _postponed(self, key: TaskKey, task: PacsTask, error: BaseException) -> str:
        """A fault that may pass. If the server does not answer at all, everything waits; else only this task does."""
        if isinstance(error, PacsDownError | PacsAccessError) and not self.pacs.responds():
            self.state.release(key)
            raise error

        entry, now = self.state.get(key), self.health.clock()
        since = now if entry is None or not entry.since else entry.since
        faults = 1 if entry is None else entry.faults + 1
        # names of files of this machine are not for the log, nor are messages of other libraries
        kind = type(error).__name__
        reason = str(error) if isinstance(error, TextMaskError) else "on this machine"
        if now - since > self.settings.retry_days * DAY_S:
            self.state.release(key)
            reason = f"tried {faults} times in {self.settings.retry_days:g} days: {reason}"
            return self._failed(key, task, kind, reason, trace_of(error))

        after = retry_after_s(faults)
        self.state.postpone(key, f"{kind}: {reason}", since, now + after)
        late = now - since > OVERDUE_S
        self._log(
            "overdue" if late else "later",
            task,
            f"try {faults}, next in {after:.0f} s: {kind}: {reason}",
        )
        return "later"

    def _failed(self, key: TaskKey, task: PacsTask, kind: str, reason: str, trace: str = "") -> str:
        # error messages quote the prompt in these forms; it may come from a report
        for quoted in (task.prompt, task.prompt[:80], repr(task.prompt[:80])):
            reason = reason.replace(quoted, "(prompt)") if quoted else reason
        self.state.finish(key, "failed", f"{kind}: {reason}", trace=trace)
        self._log("failed", task, kind)
        return "failed"

    def _log(self, what: str, task: PacsTask, detail: str = "") -> None:
        self.report(WatchEvent(what, short_hash(task.subject), short_hash(task.prompt), detail))


def _check_sources(task: PacsTask, found: DicomSegmentation) -> None:
    """Make sure that the server did not send another patient's image under the requested UID."""
    sent = sorted(str(one.get("SOPInstanceUID")) for one in found.sources)
    wanted = sorted(one.uid for one in task.instances)
    studies = {str(one.get("StudyInstanceUID")) for one in found.sources}
    if sent != wanted or studies != {task.instances[0].study}:
        raise DataError("the PACS returned other images than the requested ones.")
